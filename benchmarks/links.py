"""A small network of a bounded bandwidth on this machine: namespaces, as if each were a machine, on one bridge.

It takes root, and Linux with `ip` and `tc` (iproute2). The network is gone when the block ends.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator

FRAMES = 1448 / 1514  # of what a link carries: Ethernet, IP and TCP headers take the rest
TICK = 0.004  # seconds: a link may be late by so much, as the timer that serves it is; it then catches up


def address(machine: int) -> str:
    return f"10.15.0.{machine + 1}"


@contextlib.contextmanager
def network(machines: int, mbit: float) -> Iterator[list[str]]:
    """Namespaces whose links send and receive at most so many Mbit/s; `ip netns exec NAME ...` runs there."""
    names = [f"pysolver-{os.getpid()}-{machine}" for machine in range(machines)]
    hub = f"pysolver-{os.getpid()}-hub"
    burst = max(65536, int(mbit * 1e6 / 8 * TICK))
    made: list[str] = []
    try:
        for name in (hub, *names):
            _run("ip", "netns", "add", name)
            made.append(name)
        _run("ip", "-n", hub, "link", "add", "bridge", "type", "bridge")
        _run("ip", "-n", hub, "link", "set", "bridge", "up")
        for machine, name in enumerate(names):
            port = f"port{machine}"
            _run("ip", "-n", hub, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
            _run("ip", "-n", hub, "link", "set", port, "master", "bridge", "up")
            _run("ip", "-n", name, "addr", "add", f"{address(machine)}/24", "dev", "eth0")
            for place, link in ((name, "lo"), (name, "eth0")):
                _run("ip", "-n", place, "link", "set", link, "up")
            for place, link in ((name, "eth0"), (hub, port)):
                _run("tc", "-n", place, "qdisc", "add", "dev", link, "root",
                     "tbf", "rate", f"{mbit:g}mbit", "burst", str(burst), "latency", "100ms")  # fmt: skip
        yield names
    finally:
        for name in made:
            _run("ip", "netns", "del", name)


def _run(*command: str) -> None:
    subprocess.run(command, check=True)

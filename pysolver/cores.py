"""How many cores there are for this process, and how many threads a computation should have on them.

Two teams of threads on the same cores wait for each other at every barrier and are slower together than one thread
each, up to twentyfold: so whoever starts beside other work takes only what is free.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

from pysolver.errors import CaffeError

_SAMPLE_SECONDS = 0.2
_TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology/{}"
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_STAT = Path("/proc/stat")


def usable_cores() -> int:
    """Logical cores that this process may run on."""
    return len(_affinity())


def check_crowd(processes: int, flag: str) -> None:
    """CaffeError for processes that would only fill the memory: each takes 200 MB before it begins."""
    cores = usable_cores()
    if processes > (most := max(16, 8 * cores)):
        raise CaffeError(f"{flag}={processes}: there are {cores} cores here: at most {most}, best {cores}")


def physical_cores() -> int:
    """Cores that this process may run on, two hyper-threads counted as one, no more than its container's quota."""
    return max(1, min(_cores_present(), _quota()))


def _cores_present() -> int:
    return len({(_topology(cpu, "physical_package_id"), _topology(cpu, "core_id") or str(cpu)) for cpu in _affinity()})


def choose_threads() -> tuple[int, str]:
    """(how many threads, why): all physical cores, less those that others keep busy just now.

    OMP_NUM_THREADS decides if it is set, to a number or to one for each level of nesting. Measuring takes 0.2 s.
    """
    cores = physical_cores()
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if re.fullmatch("[1-9][0-9]*", asked):
        return int(asked), "OMP_NUM_THREADS says so"
    return share(cores, busy_cores() if cores > 1 else None, _cores_present())


def share(cores: int, busy: float | None, present: int) -> tuple[int, str]:
    """The threads for so many cores, and why, while others use `busy` of those present. busy None: nobody knows.

    present: the cores of which a container's quota lets this process have `cores`.
    """
    if busy is None:
        return cores, "all that there are"
    free = max(1, min(cores, present - round(busy)))
    return free, f"others keep {busy:.1f} busy" if free < cores else "nobody else needs them"


def busy_cores() -> float | None:
    """How many of this process's cores others use on average over 0.2 s; None where the system does not tell."""
    try:
        before, own = _busy_seconds(), time.process_time()
        start = time.perf_counter()
        time.sleep(_SAMPLE_SECONDS)
        seconds = time.perf_counter() - start
        return max(0.0, (_busy_seconds() - before - (time.process_time() - own)) / seconds)
    except (OSError, ValueError, IndexError):
        return None


def _busy_seconds() -> float:
    """Processor time of the cores of this process so far, without idling: user, nice, system of /proc/stat."""
    mine = {f"cpu{cpu}" for cpu in _affinity()}
    rows = [line.split(maxsplit=4) for line in _STAT.read_text().splitlines() if line.startswith("cpu")]
    return sum(sum(map(int, row[1:4])) for row in rows if row[0] in mine) / os.sysconf("SC_CLK_TCK")


def _affinity() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def _topology(cpu: int, name: str) -> str:
    try:
        return Path(_TOPOLOGY.format(cpu, name)).read_text().strip()
    except OSError:
        return ""


def _quota() -> int:
    """Whole cores of the container's share."""
    try:
        limit, period = _QUOTA.read_text().split()
        return max(1, round(int(limit) / int(period)))
    except (OSError, ValueError):  # `max`: none
        return len(_affinity())

"""How many threads: all physical cores, less those that others use."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from pysolver import cores


@pytest.mark.parametrize(
    ("count", "busy", "present", "threads", "why"),
    [
        (8, None, 8, 8, "all that there are"),
        (8, 0.3, 8, 8, "nobody else needs them"),
        (8, 2.6, 8, 5, "others keep 2.6 busy"),
        (2, 1.0, 2, 1, "others keep 1.0 busy"),
        (2, 5.0, 2, 1, "others keep 5.0 busy"),
        (1, 1.0, 1, 1, "nobody else needs them"),
        (2, 5.0, 8, 2, "nobody else needs them"),  # a quota of 2 on 8 cores
        (4, 5.0, 8, 3, "others keep 5.0 busy"),
    ],
)
def test_share(count: int, busy: float | None, present: int, threads: int, why: str):
    assert cores.share(count, busy, present) == (threads, why)


def test_the_environment_decides(monkeypatch):
    for text in ("3", " 3 ", "3,2"):  # OpenMP's own forms
        monkeypatch.setenv("OMP_NUM_THREADS", text)
        assert cores.choose_threads() == (3, "OMP_NUM_THREADS says so")
    monkeypatch.setattr(cores, "busy_cores", lambda: 0.0)
    for text in ("many", "0", "-1", "²", ""):
        monkeypatch.setenv("OMP_NUM_THREADS", text)
        assert cores.choose_threads()[0] == cores.physical_cores()


def test_hyper_threads_and_quotas_count(monkeypatch, tmp_path: Path):
    for cpu, (package, core) in enumerate([(0, 0), (0, 1), (0, 0), (0, 1), (1, 0), (1, 0)]):
        (tmp_path / f"{cpu}physical_package_id").write_text(f"{package}\n")
        (tmp_path / f"{cpu}core_id").write_text(f"{core}\n")
    monkeypatch.setattr(cores, "_TOPOLOGY", f"{tmp_path}/{{}}{{}}")
    monkeypatch.setattr(cores, "_affinity", lambda: list(range(6)))
    monkeypatch.setattr(cores, "_QUOTA", tmp_path / "none")
    assert (cores.usable_cores(), cores.physical_cores()) == (6, 3)
    monkeypatch.setattr(cores, "_affinity", lambda: [0, 2])  # two threads of one core
    assert cores.physical_cores() == 1
    monkeypatch.setattr(cores, "_affinity", lambda: list(range(6)))
    for text, count in (("max 100000", 3), ("200000 100000", 2), ("50000 100000", 1)):
        (tmp_path / "none").write_text(text)
        assert cores.physical_cores() == count


def test_only_cores_of_this_process_count(monkeypatch, tmp_path: Path):
    """Others may do what they like on those that it may not run on."""
    monkeypatch.setattr(cores, "_STAT", tmp_path / "stat")
    monkeypatch.setattr(cores, "_affinity", lambda: [1, 11])
    tick = cores.os.sysconf("SC_CLK_TCK")
    rows = {"cpu": 900, "cpu0": 500, "cpu1": 2, "cpu10": 300, "cpu11": 1, "intr": 7}
    (tmp_path / "stat").write_text("".join(f"{name} {n * tick} 0 {tick} 5 5\n" for name, n in rows.items()))
    assert cores._busy_seconds() == 2 + 1 + 1 + 1


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="the system does not tell its load")
def test_others_are_seen_and_this_process_is_not(monkeypatch):
    monkeypatch.setattr(cores, "_SAMPLE_SECONDS", 1.0)
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.2)
        assert cores.busy_cores() > 0.3  # of the one core that it takes; a busy machine leaves it less
    finally:
        other.kill()
        other.wait()

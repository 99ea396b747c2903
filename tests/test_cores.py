"""How many threads: all physical cores, less those that others use."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from pysolver import cores


@pytest.mark.parametrize(
    ("count", "busy", "threads", "why"),
    [
        (8, None, 8, "all that there are"),
        (8, 0.3, 8, "nobody else needs them"),
        (8, 2.6, 5, "others keep 2.6 busy"),
        (2, 1.0, 1, "others keep 1.0 busy"),
        (2, 5.0, 1, "others keep 5.0 busy"),
        (1, 1.0, 1, "nobody else needs them"),
    ],
)
def test_share(count: int, busy: float | None, threads: int, why: str):
    assert cores.share(count, busy) == (threads, why)


def test_the_environment_decides(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert cores.choose_threads() == (3, "OMP_NUM_THREADS says so")
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    monkeypatch.setattr(cores, "busy_cores", lambda: 0.0)
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

"""The fuzzer's short run, the same each time, and the long one; and that it finds what it is there to find."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

from pysolver.errors import CaffeError
from tests.fuzz.hunt import Tally, hunt
from tests.fuzz.mutation import mutate_bytes
from tests.fuzz.targets import TARGETS, Target

SHORT = 15  # cases of each target
SLOW = {"datum in LevelDB", "LevelDB files", "Caffe tree", "arguments", "log", "image list"}  # write files for each
LONG = {name: 1500 if name in SLOW else (100_000 - 1500 * len(SLOW)) // (len(TARGETS) - len(SLOW)) for name in TARGETS}


def told(tally: Tally) -> str:
    return "\n".join(f"case {f.case} of {f.target}: {f.what}\n{f.details[-1500:]}" for f in tally.findings[:5])


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_clear_errors(name) -> None:
    tally = hunt(name, 0, SHORT)
    assert not tally.findings, told(tally)
    assert tally.cases == SHORT


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_clear_errors_in_a_hundred_thousand(name) -> None:
    tally = hunt(name, SHORT, SHORT + LONG[name])
    assert not tally.findings, told(tally)
    assert tally.refused > 0


# ---- the fuzzer itself -------------------------------------------------------------------------------------------


def _spin(data: bytes) -> None:
    while True:
        pass


def _take_memory(data: bytes) -> None:
    bytearray(b"x") * (3 << 29)


def _die(data: bytes) -> None:
    os.abort()


def _bare(data: bytes) -> None:
    raise KeyError("x")


def _clear(data: bytes) -> None:
    raise CaffeError("x")


@pytest.mark.parametrize(
    "run, what",
    [(_bare, "KeyError at tests/fuzz/test_fuzz.py"), (_die, "the process died: SIGABRT"), (_take_memory, " MB")],
)
def test_a_finding_is_told_and_the_hunt_goes_on(monkeypatch, run: Callable, what: str) -> None:
    monkeypatch.setitem(TARGETS, "bad", Target(lambda: [b"seed"], run, mutate_bytes))
    monkeypatch.setattr(Target, "warm_up", lambda self: None)
    tally = hunt("bad", 0, 3)
    assert tally.cases == 3 and len(tally.findings) == 3 and all(what in finding.what for finding in tally.findings)


def test_what_hangs_is_ended(monkeypatch) -> None:
    monkeypatch.setitem(TARGETS, "bad", Target(lambda: [b"seed"], _spin, mutate_bytes))
    monkeypatch.setattr(Target, "warm_up", lambda self: None)
    monkeypatch.setattr("tests.fuzz.hunt.HANG", 0.5)
    assert [finding.what for finding in hunt("bad", 0, 2).findings] == ["more than 0.5 s"] * 2


def test_clear_errors_and_the_end_of_time(monkeypatch) -> None:
    monkeypatch.setitem(TARGETS, "good", Target(lambda: [b"seed"], _clear, mutate_bytes))
    tally = hunt("good", 0, 5)
    assert (tally.cases, tally.refused, tally.findings) == (5, 5, [])
    assert hunt("good", 0, 1 << 60, until=time.monotonic() + 0.5).cases > 5

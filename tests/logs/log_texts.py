"""Logs for the tests: those of a real Caffe, and short ones made here."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from pysolver.logs.run import Run

DATA = Path(__file__).resolve().parent.parent / "golden" / "logs"
GOLDEN = sorted(path.name for path in DATA.glob("*.log.gz"))


def golden_text(name: str) -> str:
    """The text of a real log."""
    return gzip.decompress((DATA / name).read_bytes()).decode()


def glog(text: str, source: str = "solver.cpp:239", stamp: str = "I0321 09:01:36.326753", thread: int = 7379) -> str:
    """A line as glog writes it."""
    return f"{stamp} {thread:>5} {source}] {text}\n"


def lines(start: int, stop: int, step: int = 10, lr: str = "0.1", **prefix: object) -> str:
    """Displays, outputs, rates and tests as Caffe prints them; the losses tell the iteration."""
    text = ""
    for i in range(start, stop, step):
        text += glog(f"Iteration {i}, Testing net (#0)", "solver.cpp:347", **prefix)
        text += glog(f"    Test net output #0: accuracy = 0.{i:04d}", "solver.cpp:414", **prefix)
        text += glog(f"    Test net output #1: loss = 2.{i:04d} (* 1 = 2.{i:04d} loss)", "solver.cpp:414", **prefix)
        text += glog(f"Iteration {i}, loss = 1.{i:04d}", **prefix)
        text += glog(f"    Train net output #0: loss = 1.{i:04d} (* 1 = 1.{i:04d} loss)", "solver.cpp:258", **prefix)
        text += glog(f"Iteration {i}, lr = {lr}", "sgd_solver.cpp:112", **prefix)
    return text


def check_plain(run: Run, stop: int = 50) -> None:
    """That lines(0, stop) was read completely."""
    iterations = list(range(0, stop, 10))
    assert list(run.train.iteration) == iterations and list(run.test.iteration) == iterations
    assert np.allclose(run.train["loss"], [1 + i / 1e4 for i in iterations])
    assert np.allclose(run.test["loss"], [2 + i / 1e4 for i in iterations])
    assert np.allclose(run.test["accuracy"], [i / 1e4 for i in iterations])
    assert np.allclose(run.train.lr, 0.1) and np.allclose(run.train.loss, run.train["loss"])
    assert run.unknown == 0

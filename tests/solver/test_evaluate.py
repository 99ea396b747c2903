"""`pysolver test` and `pysolver time`."""

from __future__ import annotations

import numpy as np
import pytest
from short_runs import make_solver


def test_evaluate(folder, capsys):
    from pysolver.solver import evaluate

    folder("max_iter: 3")
    make_solver()[0].solve()
    capsys.readouterr()
    evaluate.test("net.prototxt", "snap_iter_3.caffemodel", iterations=2)
    lines = [line.split("] ", 1)[-1] for line in capsys.readouterr().err.splitlines()]
    lines = lines[lines.index("Running for 2 iterations.") :]
    batches = [float(line.split(" = ")[1]) for line in lines if line.startswith("Batch")]
    assert len(batches) == 2
    assert float(lines[-2].removeprefix("Loss: ")) == pytest.approx(np.mean(batches), rel=1e-5)
    name, value, rest = lines[-1].split(" ", 3)[0], *lines[-1].split(" ", 3)[2:]
    assert name == "loss" and float(value) == pytest.approx(np.mean(batches), rel=1e-5)
    assert rest == f"(* 1 = {value} loss)"
    evaluate.time("net.prototxt", iterations=2)
    log = capsys.readouterr().err
    assert all(text in log for text in ("*** Benchmark begins ***", "       ip2\tbackward: ", "Total Time: ", " ms."))

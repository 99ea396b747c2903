"""The same net, data and first weights in the patched Caffe and in pysolver."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from problems import CYCLES, write_digits
from real import CHECKOUT, losses, rates, train

ITERATIONS, HALF = 200, 100


def pysolver_train(folder: Path, *arguments: str) -> str:
    """`pysolver train` of the solver file in a folder; the log of a run that ended well."""
    command = [sys.executable, "-m", "pysolver", "train", "--solver=solver.prototxt", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


@pytest.fixture(scope="module", params=["SGD", "Nesterov"])
def runs(request, patched, tmp_path_factory):
    """Folder and log of both backends, trained from the weights that Caffe drew."""
    start = tmp_path_factory.mktemp(f"{request.param}_start")
    fields = f"type: '{request.param}' {CYCLES} weight_decay: 0.0005 display: 1 "
    write_digits(start, fields + "max_iter: 0")
    train(patched, start)
    result = {}
    for backend in ("caffe", "pysolver"):
        folder = start.with_name(f"{start.name}_{backend}")
        shutil.copytree(start, folder)
        write_digits(folder, fields + f"max_iter: {ITERATIONS} snapshot: {HALF}")
        weights = "--weights=snap_iter_0.caffemodel"
        result[backend] = folder, run(backend, patched, folder, weights)
    return result


def run(backend: str, patched: Path, folder: Path, *arguments: str) -> str:
    return train(patched, folder, *arguments) if backend == "caffe" else pysolver_train(folder, *arguments)


def test_loss_curves_agree(runs):
    caffe, pysolver = (losses(log) for _, log in runs.values())
    assert len(caffe) == len(pysolver) == ITERATIONS + 1  # the forward pass after the last update too
    np.testing.assert_allclose(pysolver, caffe, rtol=1e-4)
    assert caffe[-1] < 0.2 * caffe[0], "a run that learns nothing would agree too easily"


def test_rate_lines_are_the_same(runs):
    caffe, pysolver = (rates(log) for _, log in runs.values())
    assert len(caffe) == ITERATIONS
    assert pysolver == caffe


@pytest.mark.parametrize("reader, writer", [("caffe", "pysolver"), ("pysolver", "caffe")])
def test_each_continues_the_others_snapshot(reader, writer, runs, patched, tmp_path):
    """Half a run in one backend, the rest in the other, against the whole run in the one that began."""
    folder, log = runs[writer]
    shutil.copytree(folder, tmp_path / "run")
    for kind in ("caffemodel", "solverstate"):
        (tmp_path / f"run/snap_iter_{ITERATIONS}.{kind}").unlink()
    resumed = run(reader, patched, tmp_path / "run", f"--snapshot=snap_iter_{HALF}.solverstate")
    np.testing.assert_allclose(losses(resumed), losses(log)[HALF:], rtol=1e-4)
    whole = rates(log)
    assert rates(resumed) == {i: whole[i] for i in range(HALF, ITERATIONS)}


def test_both_logs_in_one_picture(runs, tmp_path):
    logs = []
    for backend, (_, log) in runs.items():
        logs.append(tmp_path / f"{backend}.log")
        logs[-1].write_text(log)
    picture = tmp_path / "both.png"
    command = [sys.executable, str(CHECKOUT / "tools/plot_log.py"), *map(str, logs), "-o", str(picture)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 10_000

"""The same net, data and first weights in the patched Caffe and in pysolver."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from backends import HALF, ITERATIONS, draw, run, run_both
from real import losses, rates


@pytest.fixture(scope="module", params=["SGD", "Nesterov"])
def runs(request, patched, tmp_path_factory):
    """Folder and log of both backends."""
    return run_both(request.param, patched, tmp_path_factory.mktemp(request.param))


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
    (tmp_path / "run/train.log").unlink()  # a log goes on where there is one
    for kind in ("caffemodel", "solverstate"):
        (tmp_path / f"run/snap_iter_{ITERATIONS}.{kind}").unlink()
    resumed = run(reader, patched, tmp_path / "run", f"--snapshot=snap_iter_{HALF}.solverstate")
    np.testing.assert_allclose(losses(resumed), losses(log)[HALF:], rtol=1e-4)
    whole = rates(log)
    assert rates(resumed) == {i: whole[i] for i in range(HALF, ITERATIONS)}


def test_both_logs_in_one_picture(runs, tmp_path):
    draw(runs, tmp_path / "both.png")
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "both.png").stat().st_size > 10_000

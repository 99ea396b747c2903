"""A snapshot and back: what goes on exactly, what starts over, what is refused."""

from __future__ import annotations

import os

import h5py
import numpy as np
import pytest
from short_runs import make_solver, same, weights_of

from pysolver.errors import CaffeError
from pysolver.logs import events as e
from pysolver.proto import blobproto
from pysolver.proto.upgrade import read_weights
from pysolver.solver.train import TrainOptions, train
from pysolver.solver_types import TYPES


@pytest.mark.parametrize("format", ["BINARYPROTO", "HDF5"])
@pytest.mark.parametrize("kind", TYPES)
def test_n_steps_and_m_more_are_n_plus_m(folder, kind, format):
    """Caffe's TestSnapshot, to the bit, with moving data, dropout and crops."""
    momentum = "momentum: 0.8" if TYPES[kind].takes_momentum else "momentum: 0"
    folder(f"type: '{kind}' {momentum} snapshot: 0 snapshot_format: {format} cyclical_momentum: []")
    whole, _ = make_solver()
    whole.step(23)
    first, _ = make_solver()
    first.step(11)
    first.snapshot()
    second, told = make_solver()
    second.restore("snap_iter_11.solverstate" + (".h5" if format == "HDF5" else ""))
    assert (e.RestoringHistory() in told) == (format == "BINARYPROTO")
    second.step(12)
    assert same(weights_of(second), weights_of(whole))
    assert same([h.numpy() for h in second.history], [h.numpy() for h in whole.history])
    assert (second.iter, second.current_step, second.losses.smoothing) == (
        whole.iter,
        whole.current_step,
        whole.losses.smoothing,
    )


def test_snapshot_diff_is_the_applied_step(folder):
    here = folder("snapshot_diff: true snapshot: 0")
    for format in ("BINARYPROTO", "HDF5"):
        folder(f"snapshot_diff: true snapshot: 0 snapshot_format: {format}")
        solver, _ = make_solver()
        solver.step(2)
        before = weights_of(solver)
        solver.step(1)
        solver.snapshot()
        step = [b - a for a, b in zip(weights_of(solver), before)][0]
        if format == "HDF5":
            diff = h5py.File(here / "snap_iter_3.caffemodel.h5")["diff/ip1/0"][()]
        else:
            model = read_weights("snap_iter_3.caffemodel")
            diff = blobproto.diff_to_array(next(layer for layer in model.layer if layer.name == "ip1").blobs[0])
        np.testing.assert_allclose(diff, step, atol=1e-6)
        assert np.abs(diff).max() > 1e-4


def wrong_pairings():
    yield "model as state", "snap_iter_6.caffemodel", "", "this is a model, not a solver state: give the .solverstate"
    yield "other type", "snap_iter_6.solverstate", "type: 'SGD'", "a state of solver type Adam, this solver is SGD"
    yield "missing", "snap_iter_9.solverstate", "", "snap_iter_9.solverstate: file not found"
    yield (
        "net",
        "snap_iter_6.solverstate",
        "",
        "history blob 0 has shape [8, 81], its parameter [5, 81]: a state of another net",
    )
    yield "renamed", "snap_iter_6.solverstate", "", "its model 'snap_iter_6.caffemodel' has no layer 'ip9'"
    yield "prototxt", "net.prototxt", "", "net.prototxt: not a solver state, or damaged"


@pytest.mark.parametrize(("what", "file", "extra", "words"), [pytest.param(*w, id=w[0]) for w in wrong_pairings()])
def test_wrong_pairings_name_the_fix(folder, what, file, extra, words):
    here = folder("max_iter: 6")
    make_solver()[0].solve()
    folder("max_iter: 9 " + extra)
    net = (here / "net.prototxt").read_text()
    net = {
        "net": net.replace("num_output: 8", "num_output: 5"),
        "renamed": net.replace('"ip2" type', '"ip9" type'),
    }.get(what, net)
    (here / "net.prototxt").write_text(net)
    with pytest.raises(CaffeError) as caught:
        train(TrainOptions("solver.prototxt", snapshot=file))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_state_without_its_model(folder):
    here = folder("max_iter: 6")
    make_solver()[0].solve()
    (here / "moved").mkdir()
    for file in here.glob("snap*"):
        os.rename(file, here / "moved" / file.name)
    solver, _ = make_solver()
    with pytest.raises(CaffeError, match="run from the folder where the training began"):
        solver.restore("moved/snap_iter_6.solverstate")

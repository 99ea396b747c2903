"""A loss that has been read is smoothed and told; one that is no finite number is reported."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from short_runs import make_solver

from pysolver.errors import CaffeError
from pysolver.logs import events as e
from pysolver.logs import notices
from pysolver.proto import caffe_pb2
from pysolver.proto.text import parse_text
from pysolver.solver.losses import Losses
from pysolver.solver.smoothing import Smoothing
from pysolver.solver.solver import Solver


def test_a_loss_is_smoothed_and_told():
    told: list = []
    net = SimpleNamespace(nodes=[], sources={})
    losses = Losses(net, Smoothing(2), told.append, stop_on_nan=False)
    for iteration in range(3):
        losses.take(iteration, float(iteration))
    assert told == [e.Iteration(i, float(i)) for i in range(3)] and losses.smoothing.value == 1.5
    losses.add(3, 4.0)
    assert len(told) == 3 and losses.smoothing.value == 3
    with pytest.raises(CaffeError, match="Iteration 4: the loss is nan"):
        Losses(net, Smoothing(2), told.append, stop_on_nan=True).take(4, math.nan)


def test_nan_is_told_once_at_its_iteration(folder):
    folder("base_lr: 1e30 type: 'SGD' max_iter: 12 test_interval: 0 test_iter: []")
    solver, told = make_solver()
    solver.solve()
    warnings = [event for event in told if isinstance(event, notices.NotFinite)]
    assert len(warnings) == 1 and solver.iter == 12
    iteration = warnings[0].iteration
    stopping, _ = make_solver(stop_on_nan=True)
    with pytest.raises(CaffeError, match=f"Iteration {iteration}: the loss is (nan|inf)"):
        stopping.solve()
    assert stopping.iter == iteration


def test_data_that_are_not_finite_are_named(tmp_path, monkeypatch):
    """Else a person lowers the rate for days."""
    monkeypatch.chdir(tmp_path)
    with h5py.File("a.h5", "w") as file:
        file["x"], file["y"] = np.array([[1.0], [np.nan], [1.0]], np.float32), np.zeros((3, 1), np.float32)
    Path("a.txt").write_text("a.h5")
    net = """layer { name: "d" type: "HDF5Data" top: "x" top: "y" hdf5_data_param { source: "a.txt" batch_size: 1 } }
        layer { name: "ip" type: "InnerProduct" bottom: "x" top: "z" inner_product_param { num_output: 1 } }
        layer { name: "l" type: "EuclideanLoss" bottom: "z" bottom: "y" }"""
    param = parse_text(f'net_param {{ {net} }} base_lr: 0.1 lr_policy: "fixed" max_iter: 3', caffe_pb2.SolverParameter)
    told = []
    Solver(param, subscribers=[told.append]).step(3)
    heard = [event for event in told if isinstance(event, (notices.NotFiniteData, notices.NotFinite))]
    assert heard == [notices.NotFiniteData("x", "d"), notices.NotFinite(1, pytest.approx(math.nan, nan_ok=True))]
    with pytest.raises(
        CaffeError, match=r"Iteration 1: .* Blob 'x' of the data layer 'd' holds numbers that are not fin"
    ):
        Solver(param, subscribers=[], stop_on_nan=True).step(3)

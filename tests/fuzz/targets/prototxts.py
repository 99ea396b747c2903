"""Solvers and nets as text."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import pysolver.data  # noqa: F401  registers the sources
import pysolver.layers  # noqa: F401  registers the layers
from pysolver.context import Context
from pysolver.proto import caffe_pb2
from tests.fuzz.targets.target import GOLDEN, golden, prototxt, target

_INNER_NET = """
layer { name: "d" type: "DummyData" top: "x" dummy_data_param { shape { dim: 1 dim: 2 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" loss_weight: 1 inner_product_param { num_output: 1 } }
"""
_SOLVERS = [
    """train_net_param { NET } base_lr: 0.1 momentum: 0.9 lr_policy: "triangular" max_lr: 0.4 stepsize: 3
       cyclical_momentum: 0.8 cyclical_momentum: 2 start_lr_policy: 1 max_iter: 3 display: 1""",
    """net_param { NET } base_lr: 0.1 lr_policy: "1cycle" max_lr: 1 stepsize: 2 gamma: 0.1 max_iter: 4 type: "Adam"
       clip_gradients: 1 average_loss: 2 iter_size: 2 snapshot_after_train: false""",
]


def _solvers() -> list[bytes]:
    found = golden("solvers/*/solver.prototxt", "upgrade/solver_*.prototxt")
    return found + [text.replace("NET", _INNER_NET).encode() for text in _SOLVERS]


@target("solver prototxt", _solvers, prototxt(caffe_pb2.SolverParameter))
def _solver(data: bytes) -> None:
    """Read, upgrade, check, the first iterations of its schedule; built and stepped if its net is inside."""
    from itertools import islice

    from pysolver import schedule
    from pysolver.disciplined.checker import check_solver
    from pysolver.proto.upgrade import read_solver
    from pysolver.solver.solver import Solver, check_parameters

    Path("solver.prototxt").write_bytes(data)
    solver = read_solver("solver.prototxt")
    check_solver(solver)
    list(islice(schedule.table(solver), 50))
    check_parameters(solver, solver.type)
    if solver.HasField("net_param") or solver.HasField("train_net_param"):
        solver.solver_mode, solver.snapshot, solver.snapshot_prefix = solver.CPU, 0, "s"
        solver.max_iter, solver.iter_size = min(solver.max_iter, 3), min(solver.iter_size, 3)
        solver.snapshot_after_train = False
        del solver.test_iter[:], solver.test_net[:]
        solver.ClearField("test_interval")
        made = Solver(solver, context=Context(allow_python_layers=False))
        made.step(2)


def nets() -> list[bytes]:
    small = [str(np.load(path)["prototxt"]).encode() for path in sorted(GOLDEN.glob("layers*/*.npz"))]
    return small + golden("upgrade/v*.prototxt")


HEAVY = 1 << 22  # values of a blob: above that a forward takes its time, as it may


@target("net prototxt", nets, prototxt(caffe_pb2.NetParameter))
def _net(data: bytes) -> None:
    """Read, upgrade, filter, build, one forward and backward."""
    from pysolver.net.filter import read_net_for
    from pysolver.net.net import Net

    Path("net.prototxt").write_bytes(data)
    net = Net(
        read_net_for("net.prototxt", len(data) % 2), Context(seed=1, allow_python_layers=False, cache_bytes=1 << 20)
    )
    if sum(blob.count for blob in net.blobs.values()) < HEAVY:
        net.forward()
        net.backward()

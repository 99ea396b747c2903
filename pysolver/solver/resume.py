"""Exact resume: all that decides a run's future beside weights, history, iteration and step.

Caffe forgets it, so that a resumed run reads its data from the start again. Here the state's note holds it: the
position of every source, of the train net and of the test nets (and of any other layer that has a state()), torch's
random generators, the window of the smoothed loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from pysolver.logs import glog
from pysolver.net.net import Net
from pysolver.solver.smoothing import Smoothing

if TYPE_CHECKING:
    from pysolver.solver.solver import Solver


def capture(solver: Solver) -> dict[str, Any]:
    """A copy of it, as plain data and tensors."""
    device = solver.context.device
    return {
        "train": _positions(solver.net),
        "test": [_positions(net) for net in solver.test_nets],
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "smoothing": solver.smoothing.state(),
    }


def restore(solver: Solver, point: dict[str, Any]) -> None:
    """Put the solver where capture() found another one of the same nets."""
    _go_to(solver.net, point["train"], "train net")
    tests = point["test"] + [[]] * len(solver.test_nets)
    for number, (net, positions) in enumerate(zip(solver.test_nets, tests)):
        _go_to(net, positions, f"test net #{number}")
    torch.set_rng_state(point["rng"])
    if point["cuda_rng"] is not None and solver.context.device.type == "cuda":
        torch.cuda.set_rng_state(point["cuda_rng"], solver.context.device)
    solver.smoothing = Smoothing.from_state(solver.param.average_loss, point["smoothing"])


def _positions(net: Net) -> list[list[Any]]:
    return [[layer.name, layer.type_name, layer.state()] for layer in net.layers if hasattr(layer, "state")]


def _go_to(net: Net, positions: list[list[Any]], which: str) -> None:
    layers = [layer for layer in net.layers if hasattr(layer, "state")]
    if [(layer.name, layer.type_name) for layer in layers] != [(name, kind) for name, kind, _ in positions]:
        glog.warning("solver.cpp:1", f"The {which} has other sources than in the snapshot: its data start over.")
        return
    for layer, (_, _, state) in zip(layers, positions):
        if state:
            layer.load_state(state)

"""Numbers wait on their device until somebody asks, and an iteration asks for none."""

from __future__ import annotations

import pytest
import torch

from pysolver.context import Context
from pysolver.layers.indices import IndexCheck
from pysolver.logs import events as e
from pysolver.proto import caffe_pb2
from pysolver.proto.text import parse_text
from pysolver.solver.readings import Readings
from pysolver.solver.solver import Solver
from pysolver.solver_types import TYPES

SOLVER = """
base_lr: 0.5 lr_policy: "multistep" gamma: 0.5 stepvalue: 3 stepvalue: 5 max_iter: 12 display: 4 random_seed: 1
test_iter: 1 test_interval: 6 snapshot_after_train: false net_param {
  layer { name: "in" type: "DummyData" top: "x" top: "y" dummy_data_param {
    shape { dim: 4 dim: 3 dim: 6 dim: 6 } shape { dim: 4 } data_filler { type: "gaussian" } data_filler { value: 1 } } }
  layer { name: "conv" type: "Convolution" bottom: "x" top: "c"
    convolution_param { num_output: 3 kernel_size: 3 weight_filler { type: "msra" } } }
  layer { name: "norm" type: "BatchNorm" bottom: "c" top: "c" }
  layer { name: "scale" type: "Scale" bottom: "c" top: "c" scale_param { bias_term: true } }
  layer { name: "relu" type: "ReLU" bottom: "c" top: "c" }
  layer { name: "pool" type: "Pooling" bottom: "c" top: "p" pooling_param { kernel_size: 2 stride: 2 } }
  layer { name: "lrn" type: "LRN" bottom: "p" top: "n" }
  layer { name: "drop" type: "Dropout" bottom: "n" top: "n" }
  layer { name: "ip" type: "InnerProduct" bottom: "n" top: "s"
    inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
  layer { name: "loss" type: "SoftmaxWithLoss" bottom: "s" bottom: "y" top: "loss" }
  layer { name: "accuracy" type: "Accuracy" bottom: "s" bottom: "y" top: "accuracy" }
}
"""


def build(fields: str, told: list, **context) -> Solver:
    return Solver(parse_text(SOLVER + fields, caffe_pb2.SolverParameter), Context(**context), [told.append])


def test_they_wait_until_somebody_asks_or_too_many_wait():
    told: list = []
    readings = Readings(at_once=False)
    for number in range(99):
        readings.put(torch.tensor(float(number)), told.append)
    assert told == []
    readings.put(torch.tensor(99.0), told.append)
    assert told == list(range(100))
    readings.put(torch.tensor(7.0), told.append)
    readings.put(torch.tensor(6.0), told.append)
    readings.settle()
    readings.settle()
    assert told[100:] == [7, 6]
    readings.put(torch.tensor(7.0), told.append)
    readings.forget()
    readings.settle()
    assert len(told) == 102


def test_what_is_at_hand_is_told_at_once():
    told: list = []
    Readings(at_once=True).put(torch.tensor(2.0), told.append)
    assert told == [2]


@pytest.mark.parametrize("fields", ["clip_gradients: 0.1", "clip_gradients: 0.1 average_loss: 3 iter_size: 2"])
def test_a_log_has_one_order_whether_they_wait_or_not(fields: str, monkeypatch):
    """Caffe's: a clipping behind the rate, or the step of the rate, of its own iteration."""
    logs: list[list] = [[], []]
    build(fields, logs[0]).solve()
    init = Readings.__init__
    monkeypatch.setattr(Readings, "__init__", lambda self, at_once: init(self, False))
    build(fields, logs[1]).solve()
    kinds = (e.Display, e.Output, e.Testing, e.MultiStep, e.Rate, e.Clipping, e.Iteration)
    said = [[_timeless(event) for event in told if isinstance(event, kinds)] for told in logs]
    assert said[0] == said[1]
    assert sum(isinstance(event, e.Clipping) for event in said[0]) == 12
    order = [type(event).__name__ for event in said[1] if not isinstance(event, (e.Output, e.Iteration))]
    assert order[:8] == ["Testing", "Display", "Rate", "Clipping", "Clipping", "Clipping", "MultiStep", "Clipping"]


def test_an_error_does_not_lose_what_waits(monkeypatch):
    told: list = []
    init = Readings.__init__
    monkeypatch.setattr(Readings, "__init__", lambda self, at_once: init(self, False))
    solver = build("clip_gradients: 0.1", told)
    solver.add_callback(lambda: 1 / (3 - solver.iter), lambda: None)
    with pytest.raises(ZeroDivisionError):
        solver.step(5)
    assert [event.iteration for event in told if isinstance(event, e.Iteration)] == [0, 1, 2]
    assert sum(isinstance(event, e.Clipping) for event in told) == 3


def _timeless(event: e.Event) -> e.Event:
    return e.Display(event.iteration, event.loss) if isinstance(event, e.Display) else event


@pytest.mark.parametrize("kind", TYPES)
def test_an_iteration_reads_nothing_from_its_device(kind: str, monkeypatch):
    """Tensors of the device `meta` have no values: whoever asks for one, as whoever stalls a GPU, is an error.

    Labels are the exception: on a GPU they are looked at a call later, when the answer is there (IndexCheck).
    """
    monkeypatch.setattr(IndexCheck, "__call__", lambda self, values: values.detach().long())
    monkeypatch.setattr(Readings, "settle", lambda self: None)
    monkeypatch.setattr(torch, "_fused_sgd_", lambda *tensors, **numbers: None)  # a kernel that knows no `meta`
    momentum = "momentum: 0.9" if TYPES[kind].takes_momentum else ""
    with torch.device("meta"):
        fields = f"type: '{kind}' {momentum} weight_decay: 0.01 clip_gradients: 1 iter_size: 2"
        solver = build(fields, [], device=torch.device("meta"))
        solver.param.display = solver.param.test_interval = 0
        solver.step(3)
    assert solver.iter == 3
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        float(solver.net.blobs["loss"].value)

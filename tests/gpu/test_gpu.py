"""On a CUDA device: golden layers, a run beside the CPU's, exact resume, precision, compile (`make test-gpu`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from golden_layers import CASES, Comparison

import pysolver as caffe
from pysolver.context import Context
from pysolver.logs import events as e
from pysolver.proto import caffe_pb2
from pysolver.proto.text import parse_text
from pysolver.solver.readings import Readings
from pysolver.solver.solver import Solver

SOLVER = """
base_lr: 0.01 momentum: 0.9 weight_decay: 0.0005 lr_policy: "fixed" max_iter: 1000 random_seed: 1
snapshot_prefix: "snap"
net_param {
  layer { name: "in" type: "DummyData" top: "data" top: "label" dummy_data_param {
    shape { dim: 16 dim: 3 dim: 16 dim: 16 } shape { dim: 16 }
    data_filler { type: "gaussian" } data_filler { type: "constant" value: 3 } } }
  layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
    convolution_param { num_output: 16 kernel_size: 3 weight_filler { type: "msra" } } }
  layer { name: "norm" type: "BatchNorm" bottom: "conv" top: "conv" }
  layer { name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }
  layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
  layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { kernel_size: 2 stride: 2 } }
  layer { name: "drop" type: "Dropout" bottom: "pool" top: "pool" }
  layer { name: "ip" type: "InnerProduct" bottom: "pool" top: "ip"
    inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
  layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
}
"""
CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def full_precision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.chdir(tmp_path)


def solver(without: str = "", fields: str = "", **context) -> Solver:
    param = parse_text(SOLVER, caffe_pb2.SolverParameter)
    param.MergeFrom(parse_text(fields, caffe_pb2.SolverParameter))
    kept = [layer for layer in param.net_param.layer if layer.name != without]
    del param.net_param.layer[:]
    param.net_param.layer.extend(kept)
    return Solver(param, Context(**{"device": CUDA, **context}), [])


def losses(trained: Solver, iterations: int) -> list[float]:
    found = []
    for _ in range(iterations):
        trained.step(1)
        found.append(float(trained.net.blobs["loss"].value))
    return found


def weights(trained: Solver) -> list[np.ndarray]:
    return [parameter.detach().cpu().numpy() for parameter in trained.net.learnable_params]


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_golden_layers(path: Path, tmp_path: Path):
    caffe.set_mode_gpu()
    try:
        Comparison(path, tmp_path, slack=20).run()  # a GPU sums in another order, and in pieces
    finally:
        caffe.set_mode_cpu()


def test_a_run_is_the_cpus():
    """The net without Dropout, on inputs that are the same: those of an Input layer."""
    images, label = torch.randn(16, 3, 16, 16), torch.arange(16.0) % 10
    found = []
    for device in (torch.device("cpu"), CUDA):
        trained = solver("drop", device=device)
        trained.net.sources["in"].next_batch = lambda device=device: [images.to(device), label.to(device)]
        found.append(losses(trained, 20))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-3)  # rounding, grown over 20 updates


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_resumes_exactly(precision: str, compile: bool, monkeypatch: pytest.MonkeyPatch):
    """With tests between, Dropout and a clipped gradient; whether the first passes are compiled or replayed."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    fields = "test_iter: 2 test_interval: 3 clip_gradients: 0.5"
    whole = solver(fields=fields, precision=precision, compile=compile)
    whole.step(8)
    first = solver(fields=fields, precision=precision, compile=compile)  # a new solver seeds the generators anew
    first.step(4)
    first.snapshot()
    second = solver(fields=fields, precision=precision, compile=compile)
    second.restore("snap_iter_4.solverstate")
    second.step(4)
    assert all(np.array_equal(a, b) for a, b in zip(weights(whole), weights(second), strict=True))
    assert all(a.equal(b) for a, b in zip(whole.history, second.history, strict=True))


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.05), ("fp16", 0.01)])
def test_half_precision_is_near(precision: str, tolerance: float):
    """Only the first loss is comparable: an overflow of fp16 leaves out an update. Then it falls."""
    expected, found = losses(solver("drop"), 1), losses(solver("drop", precision=precision), 10)
    assert found[0] == pytest.approx(expected[0], rel=tolerance) and found[-1] < found[0] / 2


GRAPHS = "base_lr: 0.001 test_iter: 2 test_interval: 7 iter_size: 2 clip_gradients: 1"


def test_graphs_give_what_eager_passes_give():
    """30 iterations of two passes each, with tests of two passes between; a blob in the middle is looked at."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    found = []
    for compile in (False, True):
        told = []
        trained = solver("drop", GRAPHS, compile=compile)
        trained.subscribers = [told.append]
        trained.net.blobs["pool"].data  # noqa: B018
        shown = []
        for _ in range(30):
            trained.step(1)
            shown.append(trained.net.blobs["pool"].data.copy())
        losses = [event.loss for event in told if isinstance(event, e.Iteration)]
        tests = [event.value for event in told if isinstance(event, e.Output) and event.phase == "Test"]
        assert len(losses) == 30 and len(tests) == 5
        found.append([np.array(losses), np.array(tests), np.array(shown), *weights(trained)])
    for eager, graphs in zip(*found, strict=True):
        np.testing.assert_allclose(graphs, eager, rtol=1e-3, atol=1e-4)  # rounding, grown over 30 updates


def test_every_pass_is_a_graph():
    """Nothing is left out: no skipped graph, and one root of the tree for the train net and one for the test net."""
    from torch._inductor.cudagraph_trees import get_manager

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    trained = solver(fields=GRAPHS, compile=True)
    trained.step(15)
    assert torch._dynamo.utils.counters["inductor"]["cudagraph_skips"] == 0
    manager = get_manager(torch.cuda.current_device(), create_if_none_exists=False)
    assert len(manager.roots) >= 2 and all(len(nodes) == 1 for nodes in manager.roots.values())


@pytest.mark.parametrize("fields", ["", "clip_gradients: 0.1", "type: 'Adam' momentum2: 0.99", "iter_size: 2"])
@pytest.mark.parametrize(("precision", "compile"), [("fp32", False), ("bf16", False), ("fp32", True)])
def test_an_iteration_does_not_wait(fields: str, precision: str, compile: bool, monkeypatch: pytest.MonkeyPatch):
    trained = solver(fields=fields, precision=precision, compile=compile)
    trained.step(5)  # the first look at labels is at once, and graphs are recorded
    monkeypatch.setattr(Readings, "settle", lambda self: None)
    torch.cuda.set_sync_debug_mode("error")
    try:
        trained.step(5)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_fp16_with_sgd_does_not_wait_either(monkeypatch: pytest.MonkeyPatch):
    test_an_iteration_does_not_wait("clip_gradients: 1", "fp16", False, monkeypatch)

"""On a CUDA device: golden layers, a run beside the CPU's, exact resume, precision, compile (`make test-gpu`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from golden_layers import CASES, Comparison

import pysolver as caffe
from pysolver.context import Context
from pysolver.proto import caffe_pb2
from pysolver.proto.text import parse_text
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


def solver(without: str = "", **context) -> Solver:
    param = parse_text(SOLVER, caffe_pb2.SolverParameter)
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


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_resumes_exactly(precision: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    whole = solver(precision=precision)
    whole.step(8)
    first = solver(precision=precision)  # a new solver seeds the generators anew
    first.step(3)
    first.snapshot()
    second = solver(precision=precision)
    second.restore("snap_iter_3.solverstate")
    second.step(5)
    assert all(np.array_equal(a, b) for a, b in zip(weights(whole), weights(second), strict=True))


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.05), ("fp16", 0.01)])
def test_half_precision_is_near(precision: str, tolerance: float):
    """Only the first loss is comparable: an overflow of fp16 leaves out an update. Then it falls."""
    expected, found = losses(solver("drop"), 1), losses(solver("drop", precision=precision), 10)
    assert found[0] == pytest.approx(expected[0], rel=tolerance) and found[-1] < found[0] / 2


def test_compiled_is_near():
    np.testing.assert_allclose(losses(solver("drop", compile=True), 5), losses(solver("drop"), 5), rtol=1e-3)

"""Mixed precision: near fp32, exact with itself over a snapshot, and no update from a gradient that overflowed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from short_runs import make_solver, same, weights_of

from pysolver.context import Context
from pysolver.errors import CaffeError
from pysolver.logs import events as e
from pysolver.net.net import Net
from pysolver.net.precision import LossScale
from pysolver.proto import caffe_pb2
from pysolver.proto.text import parse_text

NET = """
layer { name: "in" type: "Input" top: "x" top: "y"
  input_param { shape { dim: 8 dim: 3 dim: 9 dim: 9 } shape { dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "x" top: "c"
  convolution_param { num_output: 8 kernel_size: 3 bias_term: false weight_filler { type: "msra" } } }
layer { name: "norm" type: "BatchNorm" bottom: "c" top: "c" }
layer { name: "scale" type: "Scale" bottom: "c" top: "c" scale_param { bias_term: true } }
layer { name: "elu" type: "ELU" bottom: "c" top: "c" }
layer { name: "lrn" type: "LRN" bottom: "c" top: "l" }
layer { name: "pool" type: "Pooling" bottom: "l" top: "p" pooling_param { pool: AVE kernel_size: 3 stride: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "p" top: "s"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "s" bottom: "y" top: "loss" }
layer { name: "accuracy" type: "Accuracy" bottom: "s" bottom: "y" top: "accuracy" }
"""


def build(precision: str) -> Net:
    torch.manual_seed(3)
    param = parse_text(NET, caffe_pb2.NetParameter)
    param.state.phase = caffe_pb2.TRAIN
    net = Net(param, Context(precision=precision))
    net.blobs["x"].data[...] = np.random.default_rng(0).normal(size=(8, 3, 9, 9))
    net.blobs["y"].data[...] = np.arange(8) % 5
    return net


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_half_inside_single_outside(precision: str, dtype: torch.dtype):
    net, exact = build(precision), build("fp32")
    taken = {}
    for layer in net.layers[1:]:
        layer.register_forward_hook(lambda module, bottoms, top: taken.update({module.name: bottoms[0].dtype}))
    conv = net.layers[net.layer_names.index("conv")]
    conv.register_forward_hook(lambda module, bottoms, top: taken.update(top=top[0].dtype))
    loss, expected = net.forward_backward(), exact.forward_backward()
    assert (taken["top"], taken["lrn"], taken["pool"]) == (dtype, torch.float32, torch.float32), "LRN squares"
    assert taken["loss"] == taken["accuracy"] == torch.float32
    # a bf16 number has 8 bits: each is off by up to 0.4 %, and the loss is a mean over 8
    assert loss.dtype == torch.float32 and float(loss) == pytest.approx(float(expected), rel=0.02)
    scale = net.loss_scale.factor if net.loss_scale else 1
    for one, other in zip(net.learnable_params, exact.learnable_params):
        assert one.dtype == one.grad.dtype == torch.float32
        if one.requires_grad:
            assert (one.grad / scale - other.grad).norm() <= 0.05 * other.grad.norm() + 1e-6
    assert {value.dtype for _, value, _ in net.output_values()} == {torch.float32}
    assert loss.item() == pytest.approx(net.forward(), rel=0.02), "layer by layer, too"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_resumes_exactly(folder, precision: str):
    folder("snapshot: 0")
    context = Context(precision=precision)
    whole, _ = make_solver(context=context)
    whole.step(9)
    single, _ = make_solver()
    single.step(9)
    assert not same(weights_of(whole), weights_of(single)), "half precision rounds"
    first, _ = make_solver(context=context)
    first.step(4)
    first.snapshot()
    second, _ = make_solver(context=context)
    second.restore("snap_iter_4.solverstate")
    assert not second.net.loss_scale or second.net.loss_scale.state()["clean_steps"] == 4
    second.step(5)
    assert same(weights_of(second), weights_of(whole))


@pytest.mark.parametrize("kind", ["Adam", "SGD"])  # SGD's kernel looks for itself
def test_an_overflow_makes_no_update_and_is_said(folder, kind: str):
    folder(f"snapshot: 0 clip_gradients: 10000 type: '{kind}'")
    solver, told = make_solver(context=Context(precision="fp16"))
    solver.step(1)
    learned = [parameter for parameter in solver.net.learnable_params if parameter.requires_grad]  # not the statistics
    before, history = [parameter.detach().clone() for parameter in learned], [blob.clone() for blob in solver.history]
    solver.add_callback(lambda: None, lambda: solver.net.learnable_params[0].grad.view(-1)[0].fill_(float("inf")))
    solver.step(1)
    assert all(a.equal(b) for a, b in zip([*learned, *solver.history], [*before, *history], strict=True))
    said = [event for event in told if isinstance(event, (e.Overflow, e.Clipping))]
    assert solver.iter == 2 and said == [e.Overflow(1, 2.0**15)]


def test_the_factor_is_out_before_anything_looks_at_the_gradient():
    scale = LossScale()
    scale.scaled(torch.ones(()))
    gradients = [torch.full((3,), 65536.0), torch.tensor([32768.0])]
    assert not scale.unscale(gradients)
    assert gradients[0].tolist() == [1, 1, 1] and gradients[1].tolist() == [0.5]
    assert not scale.unscale(gradients) and gradients[1].tolist() == [0.5], "a pass layer by layer puts no factor in"


def test_the_factor_halves_and_doubles():
    scale = LossScale()
    assert scale.unscale([torch.tensor([float("nan")])])
    assert scale.state() == {"exponent": 15, "clean_steps": 0}
    for clean in range(2000):
        assert scale.state() == {"exponent": 15, "clean_steps": clean} and not scale.unscale([torch.ones(1)])
    assert scale.state() == {"exponent": 16, "clean_steps": 0}
    other = LossScale()
    other.load_state(scale.state())
    assert other.factor == 65536 and other.state() == scale.state()
    for _ in range(20):
        other.unscale([torch.tensor([float("inf")])])
    assert other.factor == 1


def test_an_unknown_precision_is_refused(folder):
    folder("snapshot: 0")
    with pytest.raises(CaffeError, match="precision=fp8: give fp32, bf16, fp16"):
        make_solver(context=Context(precision="fp8"))

"""Net: the two ways to compute agree, shown arrays stay live, parameters are shared, errors are clear."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pysolver.errors import CaffeError
from pysolver.net.net import Net
from pysolver.proto import caffe_pb2
from pysolver.proto.text import parse_text

INPUT = (
    "layer { name: 'in' type: 'Input' top: 'x' top: 'y' "
    "input_param { shape { dim: 4 dim: 3 } shape { dim: 4 dim: 2 } } } "
)
FILL = "weight_filler { type: 'xavier' } "


def ip(name: str, bottom: str, top: str, outputs: int, extra: str = "") -> str:
    return (
        f"layer {{ name: '{name}' type: 'InnerProduct' bottom: '{bottom}' top: '{top}' {extra} "
        f"inner_product_param {{ num_output: {outputs} {FILL} }} }} "
    )


LOSS = "layer { name: 'loss' type: 'EuclideanLoss' bottom: 'out' bottom: 'y' top: 'loss' } "
RELU = "layer { name: 'relu' type: 'ReLU' bottom: 'h' top: 'h' } "
# in-place activation, a second reader after it, and two branches that meet again
BRANCHED = (
    INPUT
    + ip("ip1", "x", "h", 5)
    + RELU
    + ip("a", "h", "a", 2)
    + ip("b", "h", "b", 2)
    + "layer { name: 'sum' type: 'Eltwise' bottom: 'a' bottom: 'b' top: 'out' } "
    + LOSS
)


def build(text: str, phase: str = "TRAIN") -> Net:
    param = parse_text(text, caffe_pb2.NetParameter)
    param.state.phase = caffe_pb2.Phase.Value(phase)
    net = Net(param)
    if "x" in net.blobs:
        net.blobs["x"].data[...] = np.random.default_rng(0).normal(size=net.blobs["x"].shape)
        net.blobs["y"].data[...] = np.random.default_rng(1).normal(size=net.blobs["y"].shape)
    return net


def grads(net: Net) -> list[torch.Tensor]:
    return [p.grad.clone() for p in net.learnable_params]


def test_one_graph_and_layer_by_layer_give_the_same_gradients():
    net = build(BRANCHED)
    loss = net.forward()
    net.backward()
    by_layer = grads(net)
    net.clear_param_diffs()
    assert float(net.forward_backward()) == pytest.approx(loss, rel=1e-6)  # float32 sums in another order
    for one, other in zip(by_layer, grads(net)):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_gradients_are_those_of_finite_differences():
    net = build(BRANCHED)
    net.forward()
    net.backward()
    weight = net.learnable_params[0]
    analytic, step = weight.grad[1, 2].item(), 1e-2
    values = []
    for sign in (1, -1):
        weight.data[1, 2] += sign * step
        values.append(net.forward())
        weight.data[1, 2] -= sign * step
    # the loss is piecewise quadratic in one weight, so that central differences are exact but for float32 rounding
    assert analytic == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-2, abs=1e-3)


def test_parameter_diffs_add_up_until_cleared():
    net = build(BRANCHED)
    net.forward_backward()
    once = grads(net)
    net.forward_backward()
    for one, two in zip(once, grads(net)):
        torch.testing.assert_close(two, 2 * one)
    net.clear_param_diffs()
    assert all(not p.grad.any() for p in net.learnable_params)


def test_bottom_diffs_are_overwritten_not_added():
    net = build("force_backward: true " + BRANCHED)
    for _ in range(2):
        net.forward()
        net.backward()
    once = build("force_backward: true " + BRANCHED)
    for mine, other in zip(once.learnable_params, net.learnable_params):
        mine.data.copy_(other.data)
    once.forward()
    once.backward()
    np.testing.assert_allclose(net.blobs["x"].diff, once.blobs["x"].diff, rtol=1e-6)


def test_a_shown_array_shows_the_next_forward_and_feeds_a_partial_one():
    net = build(BRANCHED)
    net.forward()
    out = net.blobs["out"].data
    before = out.copy()
    net.blobs["x"].data[...] *= 2
    net.forward()
    assert not np.array_equal(out, before)
    net.blobs["h"].data[...] = 0
    index = net.layer_names.index("a")
    net.forward(index, index)
    assert not net.blobs["a"].data.any(), "bias is zero, so a zero bottom gives a zero top"


def test_shown_in_place_blobs_do_not_disturb_the_gradient():
    plain, shown = build(BRANCHED), build(BRANCHED)
    for mine, other in zip(shown.learnable_params, plain.learnable_params):
        mine.data.copy_(other.data)
    plain.forward()
    plain.backward()
    for blob in shown.blobs.values():
        blob.data, blob.diff  # noqa: B018  hands the arrays out
    shown.forward()
    shown.backward()
    shown.forward_backward()
    for one, two in zip(grads(plain), grads(shown)):
        torch.testing.assert_close(2 * one, two, rtol=1e-5, atol=1e-6)


def test_shared_parameters_are_one_memory_and_their_gradients_add_up():
    shared = "param { name: 'w' } param { name: 'b' }"
    net = build(
        INPUT
        + ip("a", "x", "a", 2, shared)
        + ip("b", "x", "b", 2, shared)
        + "layer { name: 'sum' type: 'Eltwise' bottom: 'a' bottom: 'b' top: 'out' } "
        + LOSS
    )
    assert len(net.learnable_params) == 2
    net.forward()
    net.backward()
    a, b = net.layers[net.layer_names.index("a")], net.layers[net.layer_names.index("b")]
    assert a.blobs[0].data_ptr() == b.blobs[0].data_ptr()
    assert a.blobs[0].grad.data_ptr() == b.blobs[0].grad.data_ptr()
    x, y = net.blobs["x"].data, net.blobs["y"].data
    residual = 2 * x @ a.blobs[0].detach().numpy().T - y
    np.testing.assert_allclose(a.blobs[0].grad.numpy(), 2 * residual.T @ x / len(x), rtol=1e-4, atol=1e-6)


def test_permissive_sharing_keeps_each_layers_shape():
    net = build(
        INPUT
        + ip("a", "x", "a", 2, "param { name: 'w' }")
        + "layer { name: 'b' type: 'InnerProduct' bottom: 'x' top: 'b' "
        + "param { name: 'w' share_mode: PERMISSIVE } inner_product_param { num_output: 2 transpose: true } }"
    )
    a, b = net.layers[net.layer_names.index("a")], net.layers[net.layer_names.index("b")]
    assert (tuple(a.blobs[0].shape), tuple(b.blobs[0].shape)) == ((2, 3), (3, 2))
    a.blobs[0].data[0, 0] = 7
    assert b.blobs[0].data[0, 0] == 7


def test_multipliers_come_from_owner_and_sharer():
    net = build(
        INPUT
        + ip("a", "x", "a", 2, "param { name: 'w' lr_mult: 3 } param { decay_mult: 0 }")
        + ip("b", "x", "b", 2, "param { name: 'w' decay_mult: 5 }")
    )
    assert net.lr_mults == [3, 1, 1]
    assert net.decay_mults == [5, 0, 1]


BAD = [
    (ip("a", "nowhere", "a", 2), "Unknown bottom blob 'nowhere'"),
    (INPUT + ip("a", "x", "y", 2), r"Top blob 'y' produced by multiple sources. \(layer 'a'; layer '\w+' makes it too"),
    (INPUT + "layer { name: 'l' type: 'Relu' bottom: 'x' top: 'r' }", "layer 'l': Unknown layer type: Relu"),
    (
        INPUT + "layer { name: 'l' type: 'Flatten' bottom: 'x' top: 'x' }",
        "layer 'l'.*does not allow in-place",
    ),
    (INPUT + "layer { name: 'l' type: 'EuclideanLoss' bottom: 'x' top: 'z' }", "EuclideanLoss Layer takes 2 bottom"),
    (INPUT + ip("a", "x", "a", 2, "param { } param { } param { }"), "Too many params specified for layer a"),
    (INPUT + ip("a", "x", "a", 2, "loss_weight: 1 loss_weight: 2"), "'a'.*loss_weight must be unspecified or"),
    (INPUT + ip("a", "x", "a", 2, "propagate_down: true propagate_down: false"), "propagate_down param must be"),
    (
        INPUT + ip("a", "x", "a", 2, "param { name: 'w' }") + ip("b", "x", "b", 4, "param { name: 'w' }"),
        "Cannot share param 'w' owned by layer 'a' with layer 'b'; shape mismatch",
    ),
    (
        INPUT
        + ip("a", "x", "a", 2, "param { name: 'w' lr_mult: 1 }")
        + ip("b", "x", "b", 2, "param { name: 'w' lr_mult: 2 }"),
        "Shared param 'w' has mismatched lr_mult",
    ),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_what_is_refused(text: str, message: str):
    with pytest.raises(CaffeError, match=message):
        build(text)


def test_a_batch_of_another_size_is_taken_and_another_width_refused():
    net = build(BRANCHED)
    net.blobs["x"].reshape(7, 3)
    net.blobs["y"].reshape(7, 2)
    net.forward()
    assert net.blobs["out"].shape == (7, 2)
    net.blobs["x"].reshape(7, 4)
    with pytest.raises(CaffeError, match="layer 'ip1'"):
        net.forward()


def test_what_torch_refuses_names_the_layer():
    """Found by the fuzzer: shapes that a layer did not foresee ended in bare errors without a name."""
    text = 'layer { name: "d" type: "Input" top: "x" input_param { shape { } } }'
    text += 'layer { name: "a" type: "ArgMax" bottom: "x" top: "y" }'
    with pytest.raises(CaffeError, match="^layer 'a' .ArgMax. cannot work on this: IndexError: ") as caught:
        Net(parse_text(text, caffe_pb2.NetParameter))
    assert isinstance(caught.value.__cause__, IndexError)  # --debug shows where


RPN = """
layer {{ name: "in" type: "Input" top: "x" top: "y" top: "inside" top: "outside"
  input_param {{ {shape} {shape} {shape} {shape} }} }}
layer {{ name: "pred" type: "Convolution" bottom: "x" top: "out"
  convolution_param {{ num_output: 8 kernel_size: 1 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SmoothL1Loss" bottom: "out" bottom: "y" bottom: "inside" bottom: "outside" top: "loss"
  loss_weight: 1 smooth_l1_loss_param {{ sigma: 3 }} }}
""".format(shape="shape { dim: 1 dim: 8 dim: 3 dim: 3 }")


@pytest.mark.parametrize("force", [False, True])
def test_the_loss_of_faster_r_cnn_backward_layer_by_layer(force: bool):
    """Its weights are bottoms without a gradient, whatever propagate_down says (smooth_l1_loss_layer.cpp)."""
    net = build(f"force_backward: {str(force).lower()} debug_info: true {RPN}")
    net.blobs["inside"].data[...] = net.blobs["outside"].data[...] = 0.5
    net.forward_backward()
    in_one = grads(net)
    net.clear_param_diffs()
    calls: list[int] = []
    net.add_callback("before_backward", calls.append)
    net.forward()
    net.backward()
    for one, by_layer in zip(in_one, grads(net)):
        # nine products below 2 in float32, in another order: 9 x 2 x 2^-24
        torch.testing.assert_close(one, by_layer, rtol=0, atol=1e-6)
        assert one.any()
    assert len(calls) == 3

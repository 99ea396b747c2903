"""Fusions: the same loss, outputs, gradients and statistics as without, and none where somebody looks in between."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pysolver.net import fusions
from pysolver.net.net import Net
from pysolver.proto import caffe_pb2
from pysolver.proto.text import parse_text

INPUT = (
    "layer { name: 'in' type: 'Input' top: 'x' top: 'y' "
    "input_param { shape { dim: 6 dim: 3 dim: 8 dim: 8 } shape { dim: 6 } } } "
)


def layer(kind: str, bottoms: str, top: str, more: str = "") -> str:
    taken = " ".join(f"bottom: '{bottom}'" for bottom in bottoms.split())
    layer.count += 1
    return f"layer {{ name: '{kind}{layer.count}' type: '{kind}' {taken} top: '{top}' {more} }} "


layer.count = 0
CONV = "convolution_param { num_output: 4 kernel_size: 3 pad: 1 weight_filler { type: 'gaussian' std: 0.3 } }"
SCALE = "scale_param { bias_term: true filler { type: 'uniform' min: 0.5 max: 2 } bias_filler { value: 0.1 } }"
HEAD = (
    layer("InnerProduct", "out", "ip", "inner_product_param { num_output: 3 weight_filler { type: 'xavier' } }")
    + layer("SoftmaxWithLoss", "ip y", "loss")
)  # fmt: skip


def residual(in_place: bool) -> str:
    """conv, BatchNorm, Scale, ReLU, conv, BatchNorm, Scale, sum with the first conv's result, ReLU."""
    h, s = ("h", "s") if in_place else ("h2", "s2")
    return (
        layer("Convolution", "x", "c", CONV)
        + layer("Convolution", "c", "h", CONV)
        + layer("BatchNorm", "h", h)
        + layer("Scale", h, h + ("" if in_place else "s"), SCALE)
        + layer("ReLU", h + ("" if in_place else "s"), "r")
        + layer("Convolution", "r", "s", CONV)
        + layer("BatchNorm", "s", s, "batch_norm_param { eps: 0.01 }")
        + layer("Scale", s, s, "")
        + layer("Eltwise", f"{s} c", "sum", "eltwise_param { coeff: 2 coeff: -1 }")
        + layer("ReLU", "sum", "sum", "relu_param { negative_slope: 0.1 }")
        + layer("Pooling", "sum", "out", "pooling_param { kernel_size: 3 stride: 2 pad: 1 }")
        + HEAD
    )


def build(text: str, phase: int = caffe_pb2.TRAIN, force: bool = False) -> Net:
    param = parse_text(INPUT + text, caffe_pb2.NetParameter)
    param.state.phase, param.force_backward = phase, force
    torch.manual_seed(5)
    net = Net(param)
    net.blobs["x"].data[...] = np.random.default_rng(0).normal(1, 2, size=(6, 3, 8, 8))
    net.blobs["y"].data[...] = [0, 1, 2, 0, 1, 2]
    return net


def calls(net: Net) -> list[str]:
    return [getattr(step.call, "__name__", type(step.call).__name__) for step in net.function.plan]


def results(net: Net) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """What two passes leave: the losses, and gradients and statistics."""
    losses = [net.forward_backward() for _ in range(2)]
    blobs = [blob for node in net.nodes for blob in node.layer.blobs]
    return losses, [blob.grad.clone() for blob in blobs] + [blob.detach().clone() for blob in blobs]


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("phase", [caffe_pb2.TRAIN, caffe_pb2.TEST])
def test_fused_equals_unfused(monkeypatch, in_place: bool, force: bool, phase: int):
    fused = build(residual(in_place), phase, force)
    found = results(fused)
    assert (calls(fused).count("_AffineNorm"), calls(fused).count("overwrite")) == (2, 3)
    with monkeypatch.context() as patch:
        patch.setattr(fusions, "FUSIONS", ())
        plain = build(residual(in_place), phase, force)
        expected = results(plain)
    assert len(calls(plain)) == len(calls(fused)) + 3  # two Scales, one Split
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=0)  # float32, sums in another order
    for one, other in zip(found[1], expected[1]):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max() + 1))


def test_layers_that_overwrite_change_no_bit(monkeypatch):
    monkeypatch.setattr(fusions, "FUSIONS", (fusions.overwrite,))
    some = build(residual(True))
    found = results(some)
    assert "overwrite" in calls(some)
    monkeypatch.setattr(fusions, "FUSIONS", ())
    for one, other in zip(found, results(build(residual(True)))):
        assert all(a.equal(b) for a, b in zip(one, other))


def test_nothing_is_fused_over_a_blob_that_is_shown():
    net, twin = build(residual(False)), build(residual(False))
    shown = {name: net.blobs[name].data for name in ("h2", "h2s", "c", "s")}
    net.forward_backward()
    twin.forward()
    for name, array in shown.items():
        np.testing.assert_allclose(array, twin.blobs[name].data, rtol=1e-5, atol=1e-6, err_msg=name)
    # h2 lies between BatchNorm and Scale, h2s before the ReLU; only the second block and the sums are left
    assert (calls(net).count("_AffineNorm"), calls(net).count("overwrite")) == (1, 2)


REFUSED = {
    "a Scale by column": layer("BatchNorm", "x", "n") + layer("Scale", "n", "out", "scale_param { axis: 3 }"),
    "a BatchNorm that is scaled already": (
        layer("BatchNorm", "x", "n", "batch_norm_param { scale_bias: true }")
        + layer("Scale", "n", "out", "propagate_down: false")
    ),
    "a Scale with two bottoms": (
        layer("BatchNorm", "x", "n")
        + layer("Reduction", "x", "f", "reduction_param { axis: 1 }")
        + layer("Scale", "n f", "out", "scale_param { axis: 0 }")
    ),
    "a second reader": (
        layer("BatchNorm", "x", "n") + layer("Scale", "n", "a", SCALE) + layer("Eltwise", "n a", "out")
    ),
    "a loss weight in between": (layer("BatchNorm", "x", "n", "loss_weight: 0.1") + layer("Scale", "n", "out", SCALE)),
    "a bottom that is the input": layer("ReLU", "x", "out"),
    "a bottom that backward reads": layer("Sigmoid", "x", "t") + layer("ReLU", "t", "out"),
    "a slope below 0": (
        layer("Convolution", "x", "c", CONV) + layer("ReLU", "c", "out", "relu_param { negative_slope: -1 }")
    ),
    "a product": (
        layer("Convolution", "x", "c", CONV)
        + layer("Convolution", "x", "d", CONV)
        + layer("Eltwise", "c d", "out", "eltwise_param { operation: PROD }")
    ),
    "a blob that is an output too": layer("Convolution", "x", "c", CONV) + layer("Sigmoid", "c", "out"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_left_alone(what: str):
    net = build(REFUSED[what] + HEAD, force=True)
    net.forward_backward()
    assert not {"_AffineNorm", "overwrite"} & set(calls(net))
    twin = build(REFUSED[what] + HEAD, force=True)
    twin.forward()
    twin.backward()
    for one, other in zip(net.learnable_params, twin.learnable_params):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stops", ["BatchNorm", "Scale", "Split"])
def test_a_gradient_goes_no_further_than_before(stops: str):
    """What lies below gets one by another way, so that it would show if this way were open."""
    cut = {kind: "propagate_down: false" if kind == stops else "" for kind in ("BatchNorm", "Scale", "Split")}
    text = (
        layer("Convolution", "x", "c", CONV)
        + layer("Split", "c", "a", f"top: 'b' {cut['Split']}")
        + layer("BatchNorm", "a", "n", cut["BatchNorm"])
        + layer("Scale", "n", "n", SCALE + cut["Scale"])
        + layer("Eltwise", "n c", "m")
        + layer("Eltwise", "m b", "out")
        + HEAD
    )
    net, twin = build(text), build(text)
    net.forward_backward()
    assert "_AffineNorm" in calls(net) and "Split" not in calls(net)
    twin.forward()
    twin.backward()
    for one, other in zip(net.learnable_params, twin.learnable_params):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)


def test_one_value_a_channel():
    """Caffe's BatchNorm of one element has no variance: the top is the Scale's bias, the gradient 0."""
    text = "layer { name: 'in' type: 'Input' top: 'x' input_param { shape { dim: 1 dim: 3 } } } "
    text += layer("BatchNorm", "x", "n") + layer("Scale", "n", "n", SCALE)
    text += layer("Reduction", "n", "sum", "loss_weight: 1")
    param = parse_text("force_backward: true state { phase: TRAIN } " + text, caffe_pb2.NetParameter)
    net = Net(param)
    net.blobs["x"].data[...] = [[1, 2, 3]]
    assert float(net.forward_backward()) == pytest.approx(0.3)
    assert calls(net)[0] == "_AffineNorm"
    gain, bias = net.learnable_params[-2:]
    assert gain.grad.tolist() == [0, 0, 0] and bias.grad.tolist() == [1, 1, 1]


@pytest.mark.parametrize("shape", [(2, 1, 5, 4), (2, 3, 5, 4), (1, 1, 5, 1), (2, 3, 1, 1)])
def test_channels_last_keeps_shape_and_values(shape: tuple[int, ...]):
    x = torch.randn(shape)
    y = fusions.channels_last(x)
    assert y.equal(x) and y.shape == x.shape
    convolved = torch.nn.functional.conv2d(y, torch.randn(4, shape[1], 1, 1))
    assert convolved.is_contiguous(memory_format=torch.channels_last)
    odd = torch.randn(2, 3)
    assert fusions.channels_last(odd) is odd


def test_what_runs_inside_is_channels_last_and_what_is_shown_is_not():
    net = build(layer("Convolution", "x", "out", CONV) + HEAD)
    seen = []
    net.layers[1].register_forward_hook(lambda module, bottoms, tops: seen.extend([*bottoms, *tops]))
    shown = net.blobs["out"].data
    net.forward_backward()
    assert all(value.is_contiguous(memory_format=torch.channels_last) for value in seen) and len(seen) == 2
    assert shown.flags.c_contiguous and net.blobs["out"].data is shown
    assert all(p.is_contiguous() and p.grad.is_contiguous() for p in net.learnable_params)


def test_splits_go_where_each_slot_has_one_writer():
    """A Split whose top is worked on in place keeps it apart from what the other reader gets."""
    split = "layer { name: 's' type: 'Split' bottom: 'c' top: 'a' top: 'b' } "
    net = build(layer("Convolution", "x", "c", CONV) + split + layer("Eltwise", "a b", "out") + HEAD)
    net.run()
    assert "Split" not in calls(net)
    apart = build(
        layer("Convolution", "x", "c", CONV)
        + split
        + layer("Power", "a", "a", "power_param { shift: 1 }")
        + layer("Eltwise", "a b", "out")
        + HEAD
    )
    apart.run()
    assert "Split" in calls(apart)
    twin = build(
        layer("Convolution", "x", "c", CONV) + layer("Power", "c", "out", "power_param { scale: 2 shift: 1 }") + HEAD
    )
    for one, other in (
        (apart, twin),
        (net, build(layer("Convolution", "x", "c", CONV) + layer("Eltwise", "c c", "out") + HEAD)),
    ):
        for mine, theirs in zip(other.learnable_params, one.learnable_params):
            mine.data.copy_(theirs.data)
        torch.testing.assert_close(one.forward_backward(), other.forward_backward(), rtol=1e-5, atol=0)
        for mine, theirs in zip(one.learnable_params, other.learnable_params):
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-5)


def test_the_function_compiles_whole():
    """With its fusions, in one graph, to the same numbers."""
    torch._dynamo.reset()
    net, twin = build(residual(True)), build(residual(True))
    compiled = torch.compile(net.function, backend="aot_eager", fullgraph=True, dynamic=False)
    batch = [net.blobs["x"].value, net.blobs["y"].value]
    loss, _ = compiled(*batch)
    loss.backward()
    expected = twin.forward_backward()
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-5, atol=0)
    for mine, theirs in zip(net.learnable_params, twin.learnable_params):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()


def test_a_compiled_net_shows_what_is_looked_at():
    torch._dynamo.reset()
    net, twin = build(residual(False)), build(residual(False))
    net.compile("aot_eager")
    for name in ("", "h2"):
        if name:
            net.forward()
            net.blobs[name].data  # noqa: B018  from now on looked at
        first, second = net.forward_backward(), twin.forward_backward()
        torch.testing.assert_close(first, second, rtol=1e-5, atol=0)
    twin.forward()
    np.testing.assert_allclose(net.blobs["h2"].data, twin.blobs["h2"].data, rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()

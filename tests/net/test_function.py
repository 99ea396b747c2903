"""The net as one function: equal to layer by layer, nothing kept that nobody reads, blobs right or refused."""

from __future__ import annotations

import sys
import types
import weakref

import numpy as np
import pytest
import torch

import pysolver as caffe
from pysolver.context import Context
from pysolver.errors import CaffeError
from pysolver.net.net import Net
from pysolver.proto import caffe_pb2
from pysolver.proto.text import parse_text

INPUT = "layer { name: 'in' type: 'Input' top: 'x' top: 'y' input_param { shape { dim: 3 dim: 4 } } } "


def build(text: str) -> Net:
    param = parse_text(INPUT + text, caffe_pb2.NetParameter)
    param.state.phase = caffe_pb2.TRAIN
    net = Net(param)
    for seed, name in enumerate("xy"):
        net.blobs[name].data[...] = np.random.default_rng(seed).normal(size=(3, 4))
    return net


def layer(kind: str, bottoms: str, top: str, more: str = "") -> str:
    taken = " ".join(f"bottom: '{bottom}'" for bottom in bottoms.split())
    return f"layer {{ name: '{top}_{kind}' type: '{kind}' {taken} top: '{top}' {more} }} "


CHAIN = "".join(layer("AbsVal", f"h{i - 1}" if i else "x", f"h{i}") for i in range(6))


def test_a_value_lives_until_its_last_reader_has_run():
    net = build(CHAIN + layer("Eltwise", "h5 h1", "out"))
    made: dict[str, weakref.ref] = {}
    alive: dict[str, set[str]] = {}

    def note(module: torch.nn.Module, bottoms: tuple, top: torch.Tensor) -> None:
        alive[module.name] = {name for name, ref in made.items() if ref() is not None}
        for value in top if isinstance(top, tuple) else (top,):
            made[module.name] = weakref.ref(value)

    for each in net.function.layers:
        each.register_forward_hook(note)
    with torch.no_grad():
        net.run()
    chain = [f"h{i}_AbsVal" for i in range(6)]
    assert alive[chain[1]] == {chain[0]}
    assert alive[chain[5]] == {chain[1], chain[4]}, "h1 waits for the sum at the end"
    assert {name for name, ref in made.items() if ref() is not None} == set(), "the outputs' blobs hold detached views"


def test_blobs_that_nobody_asked_for_are_refused_not_wrong():
    net = build(CHAIN)
    net.run()
    np.testing.assert_array_equal(net.blobs["h5"].data, np.abs(net.blobs["x"].data))
    with pytest.raises(CaffeError, match="were not kept.*layer_by_layer"):
        net.blobs["h2"].data  # noqa: B018
    net.forward()
    shown = net.blobs["h2"].data  # asked for before the pass: kept from now on
    net.blobs["x"].data[...] *= 3
    net.run()
    np.testing.assert_array_equal(shown, np.abs(net.blobs["x"].data))
    with pytest.raises(CaffeError, match="were not kept"):
        net.blobs["h1"].value  # noqa: B018


@pytest.mark.parametrize("whole", [True, False])
def test_propagate_down_false_cuts_one_way_down_and_leaves_the_others(whole):
    ip = "inner_product_param { num_output: 4 weight_filler { type: 'gaussian' } } "
    net = build(
        layer("InnerProduct", "x", "h", ip)
        + layer("InnerProduct", "h", "cut", ip + "propagate_down: false")
        + layer("InnerProduct", "h", "open", ip)
        + layer("EuclideanLoss", "cut y", "l1")
        + layer("EuclideanLoss", "open y", "l2")
    )
    if whole:
        net.forward_backward()
    else:
        net.forward()
        net.backward()
    x, y = (torch.from_numpy(net.blobs[name].data.copy()) for name in "xy")
    below, _, cut, _, above, _ = (p.detach().clone().requires_grad_() for p in net.learnable_params)
    h = x @ below.T  # biases are 0
    loss = ((h.detach() @ cut.T - y) ** 2).sum() / 6 + ((h @ above.T - y) ** 2).sum() / 6
    wanted = torch.autograd.grad(loss, [below, cut, above])
    for parameter, gradient in zip(net.learnable_params[::2], wanted):
        torch.testing.assert_close(parameter.grad, gradient)


def test_an_in_place_blob_that_is_shown_holds_its_last_value():
    net = build(
        layer("AbsVal", "x", "h") + layer("Power", "h", "h", "power_param { scale: 2 }") + layer("TanH", "h", "t")
    )
    shown = net.blobs["h"].data
    net.run()
    np.testing.assert_array_equal(shown, 2 * np.abs(net.blobs["x"].data))
    np.testing.assert_allclose(net.blobs["t"].data, np.tanh(shown), rtol=1e-6)


def test_inputs_stay_readable_and_writable():
    net = build(CHAIN)
    for _ in range(2):
        net.run()
        net.blobs["x"].data[...] += 1
    net.run()
    np.testing.assert_array_equal(net.blobs["h5"].data, np.abs(net.blobs["x"].data))


def test_the_loss_weighs_every_top_once():
    """A weighted top that is read again, a weighted source, weights on two of three tops."""
    net = build(
        layer("EuclideanLoss", "x y", "loss", "loss_weight: 0.5")
        + layer("Power", "x", "p", "loss_weight: 3 power_param { power: 2 }")
        + layer("Slice", "y", "s", "top: 's2' loss_weight: 0 loss_weight: 2 slice_param { axis: 1 }")
    )
    x, y = net.blobs["x"].data.astype(float), net.blobs["y"].data.astype(float)
    expected = 0.5 * ((x - y) ** 2).sum() / 2 / 3 + 3 * (x**2).sum() + 2 * y[:, 2:].sum()
    assert float(net.run()) == pytest.approx(expected, rel=1e-6)  # float32
    assert net.forward() == pytest.approx(expected, rel=1e-6)


def test_the_function_itself_takes_tensors_and_touches_no_blob():
    net = build(layer("EuclideanLoss", "x y", "loss"))
    before = net.blobs["x"].data.copy()
    loss, (output,) = net.function(torch.ones(3, 4), torch.zeros(3, 4))
    assert (float(loss), float(output)) == (2, 2)
    np.testing.assert_array_equal(net.blobs["x"].data, before)
    assert not net.blobs["loss"].data.any()


@pytest.mark.parametrize("kind", ["RNN", "LSTM"])
def test_a_net_learns_after_a_test_pass_as_before(kind):
    """Nothing that a pass in inference mode leaves behind, outputs or a carried state, stands in autograd's way."""
    recurrent = "recurrent_param { num_output: 2 weight_filler { type: 'constant' value: 0.3 } }"
    net = build(
        layer("Reshape", "x", "s", "reshape_param { shape { dim: 3 dim: 1 dim: 4 } }")
        + layer("DummyData", "", "c", "dummy_data_param { shape { dim: 3 dim: 1 } data_filler { value: 1 } }")
        + layer(kind, "s c", "h", recurrent)
        + layer("Reduction", "h", "loss", "loss_weight: 1")
    )
    net.forward_backward()
    expected = [parameter.grad.clone() for parameter in net.learnable_params]
    net.clear_param_diffs()
    modes = []
    net.function.layers[-1].register_forward_hook(lambda *_: modes.append(torch.is_inference_mode_enabled()))
    net.run()
    assert not net.blobs["loss"].value.is_inference()
    net.forward_backward()
    assert modes == [True, False]
    assert all(parameter.grad.isfinite().all() for parameter in net.learnable_params)
    assert any(not torch.equal(p.grad, e) for p, e in zip(net.learnable_params, expected)), "the state was carried on"


def test_a_users_layer_in_a_compiled_net(monkeypatch):
    """It stays outside of the graph."""
    module = types.ModuleType("doubling")

    class Twice(caffe.Layer):
        def reshape(self, bottom, top):
            top[0].reshape(*bottom[0].data.shape)

        def forward(self, bottom, top):
            top[0].data[...] = 2 * bottom[0].data

    module.Twice = Twice
    monkeypatch.setitem(sys.modules, "doubling", module)
    text = layer("AbsVal", "x", "h") + layer("Python", "h", "t", "python_param { module: 'doubling' layer: 'Twice' }")
    param = parse_text(INPUT + text, caffe_pb2.NetParameter)
    net = Net(param, Context(allow_python_layers=True))
    net.blobs["x"].data[...] = np.arange(12).reshape(3, 4) - 6
    torch._dynamo.reset()
    net.compile("aot_eager")
    net.run()
    np.testing.assert_array_equal(net.blobs["t"].data, 2 * np.abs(net.blobs["x"].data))
    torch._dynamo.reset()

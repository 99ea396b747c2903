"""Layers that users write: pycaffe's interface inside autograd, inside nets."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch

import pysolver as caffe


class Linear(caffe.Layer):
    """y = a x, with a learned a that starts as the number in param_str."""

    def setup(self, bottom, top):
        self.blobs.add_blob(1)
        self.blobs[0].data[0] = float(self.param_str)

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].data.shape)

    def forward(self, bottom, top):
        top[0].data[...] = self.blobs[0].data[0] * bottom[0].data

    def backward(self, top, propagate_down, bottom):
        self.blobs[0].diff[0] += np.sum(top[0].diff * bottom[0].data)
        if propagate_down[0]:
            bottom[0].diff[...] = self.blobs[0].data[0] * top[0].diff


class Loss(caffe.Layer):
    """Half the squared distance over N: the example that every user starts from."""

    def reshape(self, bottom, top):
        if bottom[0].count != bottom[1].count:
            raise ValueError("inputs must have the same dimension")
        self.diff = np.zeros_like(bottom[0].data)
        top[0].reshape(1)

    def forward(self, bottom, top):
        self.diff[...] = bottom[0].data - bottom[1].data
        top[0].data[...] = np.sum(self.diff**2) / bottom[0].num / 2

    def backward(self, top, propagate_down, bottom):
        for i in range(2):
            if propagate_down[i]:
                bottom[i].diff[...] = (1 if i == 0 else -1) * self.diff / bottom[i].num


class Feed(caffe.Layer):
    """A user's data layer: it fills the tops once, and counts."""

    def setup(self, bottom, top):
        self.count = 0
        top[0].reshape(2, 3)
        top[0].data[...] = 7
        top[1].reshape()

    def forward(self, bottom, top):
        top[1].data[()] = self.count
        self.count += 1


class Phase(caffe.Layer):
    def reshape(self, bottom, top):
        top[0].reshape()

    def forward(self, bottom, top):
        top[0].data[()] = self.phase


class Broken(caffe.Layer):
    def setup(self, bottom, top):
        raise RuntimeError("this layer cannot be")


@pytest.fixture(autouse=True)
def module(monkeypatch):
    module = types.ModuleType("users_layers")
    for cls in (Linear, Loss, Feed, Phase, Broken):
        setattr(module, cls.__name__, cls)
    monkeypatch.setitem(sys.modules, "users_layers", module)


def python(layer: str, param_str: str = "") -> str:
    return f'python_param {{ module: "users_layers" layer: "{layer}" param_str: "{param_str}" }}'


@pytest.fixture
def net(tmp_path):
    def net(text: str, phase: int = caffe.TRAIN) -> caffe.Net:
        path = tmp_path / "net.prototxt"
        path.write_text(text)
        return caffe.Net(str(path), phase)

    return net


def test_gradients_through_a_users_layer(make):
    layer = make(f'type: "Python" {python("Linear", "3")}', (2, 4))
    x = torch.randn(2, 4, requires_grad=True)
    (y,) = layer(x)
    torch.testing.assert_close(y, 3 * x)
    dy = torch.randn(2, 4)
    y.backward(dy)
    torch.testing.assert_close(x.grad, 3 * dy)
    torch.testing.assert_close(layer.blobs[0].grad, (dy * x).sum().detach().reshape(1))


def test_two_forwards_before_their_backwards(make):
    """Each backward sees the bottoms of its own forward."""
    layer = make(f'type: "Python" {python("Linear", "2")}', (3,))
    first, second = torch.tensor([1.0, 2, 3]), torch.tensor([10.0, 0, 0])
    (y1,), (y2,) = layer(first), layer(second)
    y1.sum().backward()
    assert layer.blobs[0].grad.item() == 6
    y2.sum().backward()
    assert layer.blobs[0].grad.item() == 16


def test_a_users_loss_equals_the_built_in_one(net):
    text = """
    force_backward: true
    layer { name: "in" type: "Input" top: "a" top: "b" input_param { shape { dim: 5 dim: 3 } } }
    layer { name: "loss" type: "%s" bottom: "a" bottom: "b" top: "loss" loss_weight: 1 %s }"""
    nets = net(text % ("Python", python("Loss"))), net(text % ("EuclideanLoss", ""))
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 5, 3))
    for each in nets:
        each.blobs["a"].data[...], each.blobs["b"].data[...] = a, b
        each.forward()
        each.backward()
    np.testing.assert_allclose(nets[0].blobs["loss"].data, nets[1].blobs["loss"].data, rtol=1e-6)
    for name in "ab":
        np.testing.assert_allclose(nets[0].blobs[name].diff, nets[1].blobs[name].diff, rtol=1e-5)


def test_a_users_data_layer(net):
    feed = net(f'layer {{ name: "feed" type: "Python" top: "x" top: "count" {python("Feed")} }}')
    for expected in range(3):
        feed.forward()
        assert (feed.blobs["x"].data == 7).all()
        assert feed.blobs["count"].data == expected


@pytest.mark.parametrize("phase", [caffe.TRAIN, caffe.TEST])
def test_phase(net, phase):
    one = net(f'layer {{ name: "phase" type: "Python" top: "phase" {python("Phase")} }}', phase)
    one.forward()
    assert one.blobs["phase"].data == phase


def test_new_bottom_shape(net):
    one = net(f"""
    layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ dim: 2 }} }} }}
    layer {{ name: "ten" type: "Python" bottom: "x" top: "y" {python("Linear", "10")} }}""")
    one.blobs["x"].reshape(2, 1, 3)
    one.blobs["x"].data[...] = 4
    one.forward()
    assert one.blobs["y"].data.shape == (2, 1, 3)
    assert (one.blobs["y"].data == 40).all()


def test_parameters_are_the_nets(net):
    one = net(f"""
    layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ dim: 2 }} }} }}
    layer {{ name: "linear" type: "Python" bottom: "x" top: "y" {python("Linear", "1")} }}""")
    one.params["linear"][0].data[...] = 5
    one.blobs["x"].data[...] = 2
    one.forward()
    assert (one.blobs["y"].data == 10).all()


def test_exceptions_come_through(net):
    with pytest.raises(RuntimeError, match="this layer cannot be"):
        net(f'layer {{ name: "broken" type: "Python" {python("Broken")} }}')
    with pytest.raises(ValueError, match="same dimension"):
        net(f"""
        layer {{ name: "a" type: "Input" top: "a" input_param {{ shape {{ dim: 2 }} }} }}
        layer {{ name: "b" type: "Input" top: "b" input_param {{ shape {{ dim: 3 }} }} }}
        layer {{ name: "loss" type: "Python" bottom: "a" bottom: "b" top: "loss" {python("Loss")} }}""")

"""Nets with layers that a script writes itself."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest

import pysolver as caffe


class Factor(caffe.Layer):
    """y = w x with a learned scalar w; param_str is its start."""

    def setup(self, bottom, top):
        self.blobs.add_blob(1)
        self.blobs[0].data[...] = float(self.param_str)

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        top[0].data[...] = self.blobs[0].data[0] * bottom[0].data

    def backward(self, top, propagate_down, bottom):
        self.blobs[0].diff[0] += (top[0].diff * bottom[0].data).sum()
        if propagate_down[0]:
            bottom[0].diff[...] = self.blobs[0].data[0] * top[0].diff


class Phase(caffe.Layer):
    def reshape(self, bottom, top):
        top[0].reshape()

    def forward(self, bottom, top):
        top[0].data[()] = self.phase


class Fails(caffe.Layer):
    def setup(self, bottom, top):
        if self.param_str == "setup":
            raise LookupError("in setup")

    def reshape(self, bottom, top):
        top[0].reshape(1)

    def forward(self, bottom, top):
        raise ZeroDivisionError("in forward")


@pytest.fixture(autouse=True)
def module(monkeypatch):
    """The classes above as a module that a prototxt can name."""
    mine = types.ModuleType("layers_of_a_script")
    mine.Factor, mine.Phase, mine.Fails = Factor, Phase, Fails
    monkeypatch.setitem(sys.modules, mine.__name__, mine)


def _layer(cls, param_str="", ends='bottom: "x" top: "y"'):
    param = f'python_param {{ module: "layers_of_a_script" layer: "{cls}" param_str: "{param_str}" }}'
    return f'layer {{ name: "own" type: "Python" {ends} {param} }}\n'


INPUT = 'force_backward: true input: "x" input_shape { dim: 2 dim: 3 }\n'


def test_forward_backward_and_parameters(write, faces):
    net = caffe.Net(write(INPUT + _layer("Factor", 3)), caffe.TRAIN)
    x = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(net.forward(x=x)["y"], 3 * x)
    np.testing.assert_array_equal(net.backward(y=np.ones((2, 3)))["x"], np.full((2, 3), 3))
    assert net.params["own"][0].diff.tolist() == [15]
    net.backward()
    assert net.params["own"][0].diff.tolist() == [30]  # parameter diffs add up
    net.clear_param_diffs()
    assert net.params["own"][0].diff.tolist() == [0]
    net.params["own"][0].data[...] = 5
    np.testing.assert_array_equal(net.forward(x=x)["y"], 5 * x)


def test_save_load_and_share(write, tmp_path):
    file = write(INPUT + _layer("Factor", 3))
    net, other = caffe.Net(file, caffe.TRAIN), caffe.Net(file, caffe.TEST)
    net.layers[1].blobs[0].data[0] = 7
    net.save(str(tmp_path / "w"))
    net.layers[1].blobs[0].data[0] = -1
    other.copy_from(str(tmp_path / "w"))
    assert other.layers[1].blobs[0].data.tolist() == [7] == other.params["own"][0].data.tolist()
    other.share_with(net)
    net.params["own"][0].data[0] = 9
    assert other.layers[1].blobs[0].data.tolist() == [9]


def test_trained_by_a_solver(write):
    """Fit y = 2 x from w = 0."""
    data = (
        'layer { name: "d" type: "DummyData" top: "x" top: "t" dummy_data_param { shape { dim: 4 } '
        'data_filler { type: "constant" value: 1 } data_filler { type: "constant" value: 2 } } }\n'
    )
    loss = 'layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "t" top: "loss" }'
    net = write(data + _layer("Factor", 0) + loss)
    solver = caffe.get_solver(write(f"net: '{net}' base_lr: 0.5 lr_policy: 'fixed' max_iter: 9", "s.prototxt"))
    weights = []
    for _ in range(3):
        solver.step(1)
        weights.append(float(solver.net.params["own"][0].data[0]))
    np.testing.assert_allclose(weights, [1, 1.5, 1.75])  # the gradient is w - 2


@pytest.mark.parametrize("phase", [caffe.TRAIN, caffe.TEST])
def test_phase_and_no_bottoms(write, phase):
    net = caffe.Net(write(_layer("Phase", ends='top: "phase"')), phase)
    assert net.forward()["phase"] == phase and net.blobs["phase"].data.shape == ()


def test_inputs_may_change_their_number_of_axes(write):
    net = caffe.Net(write(INPUT + _layer("Factor", 2)), caffe.TRAIN)
    net.blobs["x"].reshape(4, 4, 4, 4)
    net.blobs["x"].data[...] = 1
    assert net.forward()["y"].shape == (4, 4, 4, 4) and net.blobs["y"].data.sum() == 512


def test_exceptions_come_through(write):
    with pytest.raises(LookupError, match="in setup"):
        caffe.Net(write(INPUT + _layer("Fails", "setup")), caffe.TEST)
    net = caffe.Net(write(INPUT + _layer("Fails")), caffe.TEST)
    with pytest.raises(ZeroDivisionError, match="in forward"):
        net.forward()
    with pytest.raises(RuntimeError, match="no class 'Nothing'"):
        caffe.Net(write(INPUT + _layer("Nothing")), caffe.TEST)

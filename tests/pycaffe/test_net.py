"""caffe.Net: each call of pycaffe's interface."""

from __future__ import annotations

import gc
import os
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

import pysolver as caffe

DENSE = (Path(__file__).parents[1] / "golden/pycaffe/dense.prototxt").read_text()


@pytest.fixture
def net(write, faces):
    caffe.set_random_seed(1)
    made = caffe.Net(write(DENSE), caffe.TRAIN)
    made.blobs["data"].data[...] = np.random.default_rng(0).normal(size=(4, 3))
    made.blobs["label"].data[...] = [0, 1, 1, 0]
    return made


def _by_hand(net, data):
    """Hidden and score of the net DENSE."""
    (w1, b1), (w2, b2) = ([blob.data for blob in net.params[name]] for name in ("hidden", "score"))
    hidden = np.maximum(data @ w1.T + b1, 0)
    return hidden, hidden @ w2.T + b2


class TestConstruction:
    def test_forms(self, write, tmp_path):
        file, weights = write(DENSE), str(tmp_path / "w.caffemodel")
        first = caffe.Net(file, caffe.TRAIN)
        first.save(weights)
        others = [
            caffe.Net(file, caffe.TEST, weights=weights),
            caffe.Net(network_file=file, phase=caffe.TEST, level=0, stages=None, weights=weights),
            caffe.Net(file, weights, caffe.TEST),
        ]
        for other in others:
            np.testing.assert_array_equal(other.params["hidden"][0].data, first.params["hidden"][0].data)

    def test_old_form_warns(self, write, tmp_path, capsys):
        file, weights = write(DENSE), str(tmp_path / "w.caffemodel")
        caffe.Net(file, caffe.TRAIN).save(weights)
        capsys.readouterr()
        caffe.Net(file, weights, caffe.TEST)
        assert "DEPRECATION WARNING - deprecated use of Python interface" in capsys.readouterr().err

    def test_missing_files(self, write, tmp_path):
        with pytest.raises(RuntimeError, match=r"^Could not open file nothing\.prototxt$"):
            caffe.Net("nothing.prototxt", caffe.TEST)
        for form in [dict(phase=caffe.TEST, weights="nothing.caffemodel"), dict(phase="nothing.caffemodel", level=1)]:
            with pytest.raises(RuntimeError, match=r"^Could not open file nothing\.caffemodel$"):
                caffe.Net(write(DENSE), **form)
        with pytest.raises(RuntimeError, match="Could not open file"):
            caffe.Net(str(tmp_path), caffe.TEST)

    def test_broken_net_names_its_layer(self, write):
        with pytest.raises(RuntimeError, match="Unknown bottom blob 'nowhere' .layer 'relu'"):
            caffe.Net(write("layer { name: 'relu' type: 'ReLU' bottom: 'nowhere' top: 'x' }"), caffe.TEST)

    def test_phase_level_and_stages(self, write):
        rules = ["phase: TRAIN", "min_level: 1", "stage: 'a' not_stage: 'b'"]
        text = "input: 'x' input_shape { dim: 1 }" + "".join(
            f"layer {{ name: '{i}' type: 'Power' bottom: 'x' top: '{i}' include {{ {rule} }} }}"
            for i, rule in enumerate(rules)
        )
        file = write(text)
        assert caffe.Net(file, caffe.TRAIN).outputs == ["0"]
        assert caffe.Net(file, caffe.TEST, 1, ["a"]).outputs == ["1", "2"]
        assert caffe.Net(file, caffe.TEST, stages=["a", "b"]).outputs == ["x"]


class TestWhatIsInIt:
    def test_names(self, net):
        assert list(net._layer_names) == ["data", "hidden", "relu", "score", "loss"]
        assert list(net.blobs) == ["data", "label", "hidden", "score", "loss"]
        assert (net.inputs, net.outputs) == (["data", "label"], ["loss"])
        assert net.top_names == OrderedDict(
            data=["data", "label"], hidden=["hidden"], relu=["hidden"], score=["score"], loss=["loss"]
        )
        assert net.bottom_names["loss"] == ["score", "label"] and net.bottom_names["data"] == []
        assert (net._top_ids(0), net._bottom_ids(4)) == ([0, 1], [3, 1])
        assert net.blob_loss_weights == OrderedDict(data=0, label=0, hidden=0, score=0, loss=1)

    def test_layers(self, net):
        assert " ".join(layer.type for layer in net.layers) == "Input InnerProduct ReLU InnerProduct SoftmaxWithLoss"
        assert list(net.layer_dict) == list(net._layer_names)
        assert net.layer_dict["score"].type == "InnerProduct"
        assert [len(layer.blobs) for layer in net.layers] == [0, 2, 0, 2, 0]
        assert net.layers[1].blobs[0] is net.params["hidden"][0]
        assert list(net.params) == ["hidden", "score"]
        top = [net.blobs["score"]]
        net.layer_dict["score"].reshape([net.blobs["hidden"]], top)
        assert top[0].shape == (4, 2)

    def test_split_blobs_are_shown(self, write):
        text = "input: 'x' input_shape { dim: 2 }" + "".join(
            f"layer {{ name: '{i}' type: 'Power' bottom: 'x' top: '{i}' }}" for i in "ab"
        )
        made = caffe.Net(write(text), caffe.TEST)
        assert list(made.blobs) == ["x", "x_input_0_split_0", "x_input_0_split_1", "a", "b"]
        assert made._layer_names == ["input", "x_input_0_split", "a", "b"]
        made.forward(x=np.array([1, 2]))
        assert made.blobs["x_input_0_split_1"].data.tolist() == [1, 2]

    def test_blob(self, net):
        blob = net.params["hidden"][0]
        assert list(blob.shape) == [5, 3] and blob.shape[1] == 3 and blob.count == 15
        assert (blob.num, blob.channels, blob.height, blob.width) == (5, 3, 1, 1)
        for array in (blob.data, blob.diff):
            assert array.dtype == np.float32 and array.shape == (5, 3) and array.flags.writeable
        net.forward()
        assert net.blobs["loss"].data.shape == () and net.blobs["loss"].data[()] > 0
        blob.reshape(3, 5)
        assert blob.data.shape == (3, 5)
        with pytest.raises(TypeError):
            blob.reshape(num=3)


class TestForward:
    def test_numbers_and_live_views(self, net):
        data, label = net.blobs["data"].data.copy(), net.blobs["label"].data.astype(int)
        out = net.forward(blobs=["hidden", "score"])
        hidden, score = _by_hand(net, data)
        np.testing.assert_allclose(out["hidden"], hidden, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(out["score"], score, rtol=1e-5, atol=1e-5)
        loss = np.mean(np.log(np.exp(score).sum(1)) - score[np.arange(4), label])
        np.testing.assert_allclose(out["loss"], loss, rtol=1e-5, atol=1e-5)
        assert set(out) == {"loss", "hidden", "score"}
        before = out["score"].copy()
        net.forward(data=2 * data, label=label)
        np.testing.assert_allclose(net.blobs["score"].data, _by_hand(net, 2 * data)[1], rtol=1e-5, atol=1e-5)
        assert not np.allclose(net.blobs["score"].data, before)
        np.testing.assert_array_equal(out["score"], net.blobs["score"].data)  # the array of before shows the new values

    def test_from_the_middle(self, net):
        net.forward()
        net.blobs["hidden"].data[...] = 1
        out = net.forward(start="score", end="score")
        assert set(out) == {"score"}
        np.testing.assert_allclose(
            out["score"], np.ones((4, 5)) @ net.params["score"][0].data.T + net.params["score"][1].data, rtol=1e-5
        )
        assert set(net.forward(end="relu")) == {"hidden"}

    def test_net_surgery(self, net):
        """Weights written through the arrays are what the next forward uses."""
        net.params["score"][0].data[...] = 0
        net.params["score"][1].data[...] = [3, 4]
        np.testing.assert_array_equal(net.forward(blobs=["score"])["score"], [[3, 4]] * 4)

    def test_errors(self, net):
        data = np.zeros((4, 3))
        with pytest.raises(Exception, match="inputs are data, label; given were data"):
            net.forward(data=data)
        with pytest.raises(Exception, match="inputs are data, label; given were data, labels"):
            net.forward(data=data, labels=np.zeros(4))
        with pytest.raises(Exception, match="batch size"):
            net.forward(data=np.zeros((5, 3)), label=np.zeros(4))
        with pytest.raises(ValueError, match="no layer 'nothing'"):
            net.forward(start="nothing")
        with pytest.raises(KeyError, match="nothing"):
            net.forward(blobs=["nothing"])

    def test_loss_is_returned_by_the_inner_call(self, net):
        assert net._forward(0, 4) == pytest.approx(float(net.blobs["loss"].data))


class TestBackward:
    def test_against_autograd(self, net):
        data = torch.tensor(net.blobs["data"].data.copy(), requires_grad=True)
        label = torch.tensor(net.blobs["label"].data.copy()).long()
        leaves = [torch.tensor(blob.data.copy(), requires_grad=True) for blobs in net.params.values() for blob in blobs]
        w1, b1, w2, b2 = leaves
        score = torch.relu(data @ w1.T + b1) @ w2.T + b2
        torch.nn.functional.cross_entropy(score, label).backward()
        net.forward()
        out = net.backward(diffs=["score"])
        assert set(out) == {"data", "label", "score"}
        np.testing.assert_allclose(out["data"], data.grad, atol=1e-6)
        blobs = [blob for blobs in net.params.values() for blob in blobs]
        for blob, leaf in zip(blobs, leaves):
            np.testing.assert_allclose(blob.diff, leaf.grad, atol=1e-6)
        net.backward()  # parameter diffs add up, bottom diffs do not
        np.testing.assert_allclose(blobs[0].diff, 2 * w1.grad, atol=1e-6)
        np.testing.assert_allclose(net.blobs["data"].diff, data.grad, atol=1e-6)

    def test_given_diffs(self, net):
        net.forward()
        net.backward(loss=np.float32(1))
        once = net.blobs["data"].diff.copy()
        net.backward(loss=np.float32(3))
        np.testing.assert_allclose(net.blobs["data"].diff, 3 * once, rtol=1e-5, atol=1e-5)

    def test_part_of_the_net(self, net):
        net.forward()
        net.blobs["score"].diff[...] = 1
        out = net.backward(start="score", end="score")
        assert set(out) == {"hidden"}
        np.testing.assert_allclose(out["hidden"], np.ones((4, 2)) @ net.params["score"][0].data, rtol=1e-5, atol=1e-5)
        assert not net.params["hidden"][0].diff.any()

    def test_clear_param_diffs(self, net):
        net.forward()
        net.backward()
        diff = net.params["hidden"][0].diff
        assert diff.any()
        net.clear_param_diffs()
        assert net.params["hidden"][0].diff is diff
        assert not diff.any()

    def test_manual_sgd_learns(self, net):
        """Steps through params[...].data and .diff alone; the first is checked against its formula."""
        losses = []
        for step in range(60):
            net.clear_param_diffs()
            losses.append(float(net.forward()["loss"]))
            net.backward()
            for blobs in net.params.values():
                for blob in blobs:
                    want = blob.data - 0.3 * blob.diff
                    blob.data[...] -= 0.3 * blob.diff
                    if step == 0:
                        np.testing.assert_array_equal(blob.data, want)
        assert losses[-1] < 0.1 * losses[0]

    def test_errors(self, net):
        net.forward()
        with pytest.raises(Exception, match="outputs are loss; given were score"):
            net.backward(score=np.zeros((4, 2)))
        with pytest.raises(ValueError, match="no layer 'nothing'"):
            net.backward(end="nothing")
        with pytest.raises(KeyError, match="nothing"):
            net.backward(diffs=["nothing"])


class TestManyItems:
    TEXT = DENSE.split('layer { name: "loss"')[0].replace(' top: "label"', "").replace("shape { dim: 4 } }", "}")

    @pytest.mark.parametrize("count", [1, 4, 10])
    def test_forward_all(self, write, count):
        net = caffe.Net(write(self.TEXT), caffe.TEST)
        data = np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32)
        out = net.forward_all(blobs=["hidden"], data=data)
        hidden, score = _by_hand(net, data)
        assert {name: array.shape for name, array in out.items()} == {"score": (count, 2), "hidden": (count, 5)}
        np.testing.assert_allclose(out["score"], score, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(out["hidden"], hidden, rtol=1e-4, atol=1e-6)

    def test_forward_backward_all(self, write):
        net = caffe.Net(write(self.TEXT), caffe.TEST)
        rng = np.random.default_rng(0)
        data, diff = rng.normal(size=(6, 3)).astype(np.float32), rng.normal(size=(6, 2)).astype(np.float32)
        blobs, diffs = net.forward_backward_all(diffs=["hidden"], data=data, score=diff)
        hidden, score = _by_hand(net, data)
        np.testing.assert_allclose(blobs["score"], score, rtol=1e-4, atol=1e-6)
        through = (diff @ net.params["score"][0].data) * (hidden > 0)
        np.testing.assert_allclose(diffs["data"], through @ net.params["hidden"][0].data, rtol=1e-4, atol=1e-6)
        assert diffs["hidden"].shape == (6, 5)

    def test_scalar_outputs_and_errors(self, net):
        out = net.forward_all(data=np.zeros((8, 3)), label=np.zeros(8))
        assert out["loss"].shape == (2,)
        with pytest.raises(Exception, match="data, label"):
            net.forward_all()
        with pytest.raises(Exception, match="wrong"):
            net.forward_all(wrong=np.zeros((8, 3)))


class TestShapes:
    FULLY_CONVOLUTIONAL = """
        input: "data" input_shape { dim: 1 dim: 1 dim: 8 dim: 8 }
        layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
                convolution_param { num_output: 2 kernel_size: 3 weight_filler { type: "xavier" } } }
        layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { kernel_size: 2 stride: 2 } }
        """

    def test_reshape_carries_shapes(self, write, faces):
        net = caffe.Net(write(self.FULLY_CONVOLUTIONAL), caffe.TEST)
        net.blobs["data"].reshape(2, 1, 13, 9)
        net.reshape()
        assert list(net.blobs["pool"].shape) == [2, 2, 6, 4]
        net.blobs["data"].reshape(1, 1, 20, 20)
        image = np.random.default_rng(0).normal(size=(1, 1, 20, 20)).astype(np.float32)
        big = net.forward(data=image)["pool"].copy()
        assert big.shape == (1, 2, 9, 9)
        net.blobs["data"].reshape(1, 1, 8, 8)
        small = net.forward(data=image[:, :, 4:12, 6:14])["pool"]
        np.testing.assert_allclose(small, big[:, :, 2:5, 3:6], rtol=1e-5, atol=1e-5)

    def test_weights_do_not_fit_another_size(self, net):
        net.blobs["data"].reshape(4, 7)
        with pytest.raises(RuntimeError, match="hidden"):
            net.forward()

    def test_dense_weights_become_a_convolution(self, write):
        """Net surgery as in Caffe's own example: an InnerProduct's weights, reshaped, in a Convolution."""
        head = 'input: "data" input_shape { dim: 1 dim: 2 dim: 3 dim: 3 }\nlayer { name: "l" bottom: "data" top: "l" '
        dense = caffe.Net(
            write(
                head + 'type: "InnerProduct" inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }'
            ),
            caffe.TEST,
        )
        conv = caffe.Net(
            write(head + 'type: "Convolution" convolution_param { num_output: 4 kernel_size: 3 } }'), caffe.TEST
        )
        conv.params["l"][0].data.flat = dense.params["l"][0].data.flat
        image = np.random.default_rng(0).normal(size=(1, 2, 3, 3))
        np.testing.assert_allclose(
            conv.forward(data=image)["l"].ravel(), dense.forward(data=image)["l"].ravel(), 1e-5, 1e-5
        )


class TestWeights:
    @pytest.mark.parametrize("kind", ["binary", "hdf5"])
    def test_round_trip(self, net, write, tmp_path, kind):
        file = str(tmp_path / "weights")
        net.params["score"][1].data[...] = [5, 6]
        other = caffe.Net(write(DENSE), caffe.TEST)
        held = other.params["score"][1].data
        if kind == "binary":
            net.save(file)
            other.copy_from(file)
        else:
            net.save_hdf5(file)
            other.load_hdf5(file)
            caffe.Net(write(DENSE), caffe.TEST).copy_from(file)
        for name, blobs in net.params.items():
            for blob, copy in zip(blobs, other.params[name]):
                np.testing.assert_array_equal(blob.data, copy.data)
        assert held.tolist() == [5, 6]

    def test_share_with(self, net, write):
        other = caffe.Net(write(DENSE), caffe.TEST)
        held = other.params["score"][1]
        other.share_with(net)
        net.params["score"][1].data[...] = [7, 8]
        net.forward()
        assert held.data.tolist() == [7, 8] == other.params["score"][1].data.tolist()
        held.data[...] = 9
        other.forward(data=np.zeros((4, 3)), label=np.zeros(4))
        assert net.params["score"][1].data.tolist() == [9, 9]

    def test_missing_and_misfitting_files(self, net, write, tmp_path):
        with pytest.raises(RuntimeError, match="nothing"):
            net.copy_from("nothing")
        other = caffe.Net(write(DENSE.replace("num_output: 2", "num_output: 3")), caffe.TEST)
        other.save(str(tmp_path / "w"))
        with pytest.raises(RuntimeError, match="'score'; shape mismatch"):
            net.copy_from(str(tmp_path / "w"))


def test_callbacks(net):
    net.forward()
    heard = []
    for moment in ("before_forward", "after_forward", "before_backward", "after_backward"):
        getattr(net, moment)(lambda index, moment=moment: heard.append((moment, index)))
    loss = net._forward(1, 2)
    net.backward(start="score", end="relu")
    assert loss == 0
    assert heard == [
        *[("before_forward", 1), ("after_forward", 1), ("before_forward", 2), ("after_forward", 2)],
        *[("before_backward", 3), ("after_backward", 3), ("before_backward", 2), ("after_backward", 2)],
    ]


def test_callbacks_may_change_blobs(net):
    net.after_forward(lambda index: index == 2 and net.blobs["hidden"].data.fill(0))
    score = net.forward(blobs=["score"])["score"]
    np.testing.assert_array_equal(score, [net.params["score"][1].data] * 4)


def test_memory_outlives_the_net(write):
    net = caffe.Net(write(DENSE), caffe.TRAIN)
    net.forward()
    array, blob, params = net.blobs["hidden"].data, net.blobs["score"], net.params
    net = None  # noqa: F841
    gc.collect()
    assert np.isfinite(array).all() and np.isfinite(blob.data).all()
    assert np.isfinite(params["hidden"][0].data.sum())


class TestMemoryData:
    TEXT = """layer { name: "data" type: "MemoryData" top: "data" top: "label"
                      memory_data_param { batch_size: 2 channels: 1 height: 1 width: 3 } }"""

    def test_batches(self, write):
        net = caffe.Net(write(self.TEXT), caffe.TRAIN)
        data = np.arange(12, dtype=np.float32).reshape(4, 1, 1, 3)
        net.set_input_arrays(data, np.arange(4, dtype=np.float32))
        for rows in ([0, 1], [2, 3], [0, 1]):
            out = net.forward()
            np.testing.assert_array_equal(out["data"], data[rows])
            assert out["label"].ravel().tolist() == rows

    def test_errors(self, write, net):
        memory = caffe.Net(write(self.TEXT), caffe.TRAIN)
        with pytest.raises(RuntimeError, match="float32"):
            memory.set_input_arrays(np.zeros((2, 1, 1, 3)), np.zeros(2, np.float32))
        with pytest.raises(RuntimeError, match="multiple of the batch size"):
            memory.set_input_arrays(np.zeros((3, 1, 1, 3), np.float32), np.zeros(3, np.float32))
        with pytest.raises(RuntimeError, match="first layer is a MemoryData layer"):
            net.set_input_arrays(np.zeros((2, 1, 1, 3), np.float32), np.zeros(2, np.float32))


def test_paths_may_be_path_objects(net, tmp_path, write):
    net.save(tmp_path / "w.caffemodel")
    assert os.path.getsize(tmp_path / "w.caffemodel") > 100
    caffe.Net(write(DENSE), caffe.TEST, weights=tmp_path / "w.caffemodel")

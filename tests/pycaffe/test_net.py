"""caffe.Net: how it is made, what is in it, shapes and weights; its passes are in test_passes.py."""

from __future__ import annotations

import gc
import os
from collections import OrderedDict

import numpy as np
import pytest
from dense import DENSE

import pysolver as caffe


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

    def test_without_a_phase(self, write):
        """Caffe's own refuses it; it went on in phase TRAIN, with dropout."""
        file = write("layer { name: 'a' type: 'Input' top: 'x' input_param { shape { dim: 1 } } }")
        with pytest.raises(TypeError, match=r"Net\(.*'w.caffemodel'\): the phase is missing: caffe.TEST, say"):
            caffe.Net(file, "w.caffemodel")
        with pytest.raises(TypeError, match="the phase is caffe.TEST, not 'TEST'"):
            caffe.Net(file, "TEST")

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

    def test_a_name_that_is_none_of_them(self, net):
        for named, wrong, answer in (
            (net.blobs, "scores", "the net has no blob 'scores'; did you mean 'score'?"),
            (net.blobs, "prob", "the net has no blob 'prob' (there are: data, label, hidden, score, loss)"),
            (net.params, "relu", "the net has no layer with parameters 'relu' (there are: hidden, score)"),
            (net.layer_dict, "los", "the net has no layer 'los'; did you mean 'loss'?"),
        ):
            with pytest.raises(KeyError) as caught:
                named[wrong]
            assert caught.value.args == (answer,) and wrong not in named and named.get(wrong) is None
            assert named.copy() == named
        with pytest.raises(ValueError, match="the net has no layer 'scores'; did you mean 'score'?"):
            net.forward(end="scores")

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

"""ONNX models of nets: names, batches, opsets, what leaves, what is folded, files."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

import pysolver as caffe
from pysolver.errors import CaffeError
from pysolver.export import to_onnx, to_torch
from pysolver.export.onnx.model import save
from pysolver.export.preprocess import preprocessing_of

IN_PLACE = """
name: 'in place'
layer { name: 'data' type: 'Input' top: 'data' input_param { shape { dim: 2 dim: 3 dim: 9 dim: 9 } } }
layer { name: 'conv1' type: 'Convolution' bottom: 'data' top: 'conv1'
        convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: 'bn1' type: 'BatchNorm' bottom: 'conv1' top: 'conv1' }
layer { name: 'scale1' type: 'Scale' bottom: 'conv1' top: 'conv1' scale_param { bias_term: true } }
layer { name: 'relu1' type: 'ReLU' bottom: 'conv1' top: 'conv1' }
layer { name: 'drop' type: 'Dropout' bottom: 'conv1' top: 'conv1' include { phase: TRAIN } }
layer { name: 'pool1' type: 'Pooling' bottom: 'conv1' top: 'pool1'
        pooling_param { kernel_size: 3 stride: 2 pool: MAX } }
layer { name: 'ip' type: 'InnerProduct' bottom: 'pool1' top: 'ip' inner_product_param { num_output: 5 } }
"""
HEADS = """
layer { name: 'label' type: 'Input' top: 'label' input_param { shape { dim: 2 } } }
layer { name: 'accuracy' type: 'Accuracy' bottom: 'ip' bottom: 'label' top: 'accuracy' }
layer { name: 'loss' type: 'SoftmaxWithLoss' bottom: 'ip' bottom: 'label' top: 'loss' }
"""


def names(infos) -> list[str]:
    return [info.name for info in infos]


def dims(info: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in info.type.tensor_type.shape.dim]


def forward(net: caffe.Net, data: np.ndarray, output: str) -> np.ndarray:
    net.blobs["data"].reshape(*data.shape)
    net.blobs["data"].data[...] = data
    net.forward()
    return net.blobs[output].data.copy()


def pictures(count: int = 2) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, 9, 9)).astype(np.float32)


def test_names_are_caffes(net_of):
    graph = to_onnx(net_of(IN_PLACE)).graph
    assert graph.name == "in place"
    assert names(graph.input) == ["data"] and names(graph.output) == ["ip"]
    assert names(graph.node) == ["conv1", "bn1", "scale1/Mul", "scale1", "relu1", "pool1", "ip/Flatten", "ip"]
    assert [node.op_type for node in graph.node][:2] == ["Conv", "BatchNormalization"]
    made = {node.name: node.output[0] for node in graph.node}
    assert made["conv1"] == "conv1/conv1" and made["relu1"] == "conv1" and made["pool1"] == "pool1"
    constants = names(graph.initializer)
    assert {"conv1.0", "conv1.1", "bn1.0", "bn1.1", "scale1.0", "scale1.1", "ip.0", "ip.1"} <= set(constants)


def test_caffes_shapes_are_in_the_model(net_of):
    net = net_of(IN_PLACE)
    graph = to_onnx(net).graph
    shapes = {info.name: dims(info) for info in (*graph.input, *graph.value_info, *graph.output)}
    assert {name: list(blob.data.shape) for name, blob in net.blobs.items()}.items() <= shapes.items()


def test_training_heads_and_labels_leave(net_of):
    graph = to_onnx(net_of(IN_PLACE + HEADS)).graph
    assert names(graph.input) == ["data"] and names(graph.output) == ["prob"]
    assert (graph.node[-1].name, graph.node[-1].op_type) == ("loss", "Softmax")


def test_only_an_accuracy_leaves_the_scores(net_of):
    text = IN_PLACE + HEADS.replace("SoftmaxWithLoss", "HingeLoss")
    assert names(to_onnx(net_of(text)).graph.output) == ["ip"]


def test_several_heads_are_told_apart(net_of):
    second = "layer { name: 'loss2' type: 'SoftmaxWithLoss' bottom: 'ip' bottom: 'label' top: 'loss2' }"
    assert names(to_onnx(net_of(IN_PLACE + HEADS + second)).graph.output) == ["loss/prob", "loss2/prob"]


def test_shared_parameters_are_one_initialiser(net_of):
    text = """layer { name: 'data' type: 'Input' top: 'data' input_param { shape { dim: 2 dim: 4 } } }
              layer { name: 'a' type: 'InnerProduct' bottom: 'data' top: 'a' param { name: 'w' }
                      inner_product_param { num_output: 4 bias_term: false } }
              layer { name: 'b' type: 'InnerProduct' bottom: 'a' top: 'b' param { name: 'w' }
                      inner_product_param { num_output: 4 bias_term: false } }"""
    assert names(to_onnx(net_of(text)).graph.initializer) == ["a.0"]


def test_a_blob_and_its_in_place_version_are_both_outputs_where_caffe_has_both(net_of, run):
    """An input that is overwritten keeps its name; the new value has the layer's."""
    text = """layer { name: 'data' type: 'Input' top: 'data' input_param { shape { dim: 2 dim: 4 } } }
              layer { name: 'relu' type: 'ReLU' bottom: 'data' top: 'data' }"""
    model = to_onnx(net_of(text))
    assert names(model.graph.input) == ["data"] and names(model.graph.output) == ["data/relu"]
    assert run(model, data=np.full((2, 4), -1))["data/relu"].max() == 0


@pytest.mark.parametrize("batch, fed", [(7, 7), ("dynamic", 3)])
def test_labels_of_a_fixed_batch_do_not_matter(batch, fed, net_of, run):
    """They leave with their loss."""
    text = (
        IN_PLACE
        + """
        layer { name: 'target' type: 'DummyData' top: 'target' dummy_data_param { shape { dim: 2 dim: 5 } } }
        layer { name: 'loss' type: 'SigmoidCrossEntropyLoss' bottom: 'ip' bottom: 'target' top: 'loss' }"""
    )
    net = net_of(text)
    found = run(to_onnx(net, batch=batch), data=pictures(fed))["prob"]
    expected = 1 / (1 + np.exp(-forward(net_of(IN_PLACE), pictures(fed), "ip").astype(float)))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("batch, fed", [(7, 7), ("dynamic", 5), ("dynamic", 1), (None, 2)])
@pytest.mark.parametrize("folded", [False, True])
def test_batches(batch, fed, folded, net_of, run):
    net = net_of(IN_PLACE)
    model = to_onnx(net, batch=batch, folded=folded)
    assert net.blobs["data"].data.shape[0] == 2  # the net is as it was
    assert dims(model.graph.output[0]) == ["N" if batch == "dynamic" else fed, 5]
    found, expected = run(model, data=pictures(fed))["ip"], forward(net, pictures(fed), "ip")
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())  # sums of 64 products


def test_a_net_that_depends_on_the_batch_says_where(net_of):
    text = (
        IN_PLACE
        + """layer { name: 'mix' type: 'Reshape' bottom: 'ip' top: 'mix'
                                 reshape_param { shape { dim: 1 dim: 5 dim: -1 } } }
                         layer { name: 'ip2' type: 'InnerProduct' bottom: 'mix' top: 'ip2'
                                 inner_product_param { num_output: 3 } }"""
    )
    with pytest.raises(CaffeError, match="'ip2'"):
        to_onnx(net_of(text), batch="dynamic")


def test_folding_leaves_one_node_for_convolution_normalisation_and_scale(net_of, run):
    net = net_of(IN_PLACE)
    model = to_onnx(net, folded=True)
    assert names(model.graph.node) == ["conv1", "relu1", "pool1", "ip/Flatten", "ip"]
    expected = forward(net, pictures(), "ip")
    np.testing.assert_allclose(run(model, data=pictures())["ip"], expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("layer", [
    "type: 'Deconvolution' convolution_param { num_output: 6 kernel_size: 2 stride: 2 group: 3 }",
    "type: 'Convolution' convolution_param { num_output: 6 kernel_size: 2 group: 3 bias_term: false }",
    "type: 'InnerProduct' inner_product_param { num_output: 6 transpose: true }",
    "type: 'InnerProduct' inner_product_param { num_output: 6 bias_term: false }",
])  # fmt: skip
def test_folding_into(layer, net_of, run):
    text = f"""layer {{ name: 'data' type: 'Input' top: 'data'
                        input_param {{ shape {{ dim: 2 dim: 3 dim: 9 dim: 9 }} }} }}
               layer {{ name: 'a' bottom: 'data' top: 'a' {layer} }}
               layer {{ name: 'bn' type: 'BatchNorm' bottom: 'a' top: 'b' }}
               layer {{ name: 'scale' type: 'Scale' bottom: 'b' top: 'c' scale_param {{ bias_term: true }} }}
               layer {{ name: 'drop' type: 'Dropout' bottom: 'c' top: 'd' }}"""
    net = net_of(text)
    model = to_onnx(net, folded=True)
    assert len(model.graph.node) == (2 if "Inner" in layer else 1)
    expected = forward(net, pictures(), "d")
    np.testing.assert_allclose(run(model, data=pictures())["d"], expected, atol=1e-5 * np.abs(expected).max())


def test_folding_keeps_what_others_read(net_of, run):
    """conv1 is read twice: neither reader may become part of it."""
    text = """layer { name: 'data' type: 'Input' top: 'data' input_param { shape { dim: 2 dim: 3 dim: 9 dim: 9 } } }
              layer { name: 'c' type: 'Convolution' bottom: 'data' top: 'c'
                      convolution_param { num_output: 2 kernel_size: 3 } }
              layer { name: 's' type: 'Scale' bottom: 'c' top: 's' }
              layer { name: 'e' type: 'Eltwise' bottom: 'c' bottom: 's' top: 'e' }"""
    net = net_of(text)
    model = to_onnx(net, folded=True)
    expected = forward(net, pictures(), "e")
    np.testing.assert_allclose(run(model, data=pictures())["e"], expected, atol=1e-5 * np.abs(expected).max())


def test_preprocessing_takes_pictures(net_of, run):
    data = """layer { name: 'data' type: 'DummyData' top: 'data' top: 'label'
                      transform_param { mean_value: 104 mean_value: 117 mean_value: 123 scale: 0.5 }
                      dummy_data_param { data_filler { type: 'gaussian' } data_filler { type: 'uniform' }
                                         shape { dim: 2 dim: 3 dim: 9 dim: 9 } shape { dim: 2 } } }"""
    net = net_of(data + IN_PLACE[IN_PLACE.index("layer { name: 'conv1'") :])
    model = to_onnx(net, preprocessing=preprocessing_of(net.core, ["data"]))
    assert names(model.graph.node)[:3] == ["data/mean", "data/scale", "conv1"]
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 9, 9)).astype(np.float32)
    seen = (images - np.array([104, 117, 123], np.float32).reshape(3, 1, 1)) * 0.5
    plain = to_onnx(net)
    np.testing.assert_allclose(run(model, data=images)["ip"], run(plain, data=seen)["ip"], rtol=1e-6)


def test_preprocessing_needs_something_to_do(net_of):
    with pytest.raises(CaffeError, match="train_val"):
        preprocessing_of(net_of(IN_PLACE).core, ["data"])


def test_large_models_have_their_weights_beside_them(net_of, run, tmp_path):
    net = net_of(IN_PLACE.replace("num_output: 5", "num_output: 500"))
    model = to_onnx(net)
    files = save(model, tmp_path / "net.onnx", largest=1000)
    assert [file.name for file in files] == ["net.onnx", "net.onnx.data"]
    assert files[0].stat().st_size < 10_000 < files[1].stat().st_size
    onnx.checker.check_model(str(files[0]))
    np.testing.assert_array_equal(run(files[0], data=pictures())["ip"], run(model, data=pictures())["ip"])


@pytest.mark.parametrize("layer, words", [
    ("type: 'Dropout' bottom: 'x' dropout_param { sample_weights_test: true }",
     r"layer 'bad' \(Dropout\): cannot be written as ONNX: .*at random"),
    ("type: 'Pooling' bottom: 'x' top: 'mask' pooling_param { kernel_size: 1 stride: 4 pad: 0 }",
     r"layer 'bad' \(Pooling\): cannot be written as ONNX: the mask"),
])  # fmt: skip
def test_what_onnx_cannot_say_is_one_line(layer, words, net_of):
    text = f"""layer {{ name: 'in' type: 'Input' top: 'x' top: 'r'
                        input_param {{ shape {{ dim: 1 dim: 4 dim: 6 dim: 6 }} shape {{ dim: 2 dim: 5 }} }} }}
               layer {{ name: 'bad' top: 'y' {layer} }}"""
    with pytest.raises(CaffeError, match=words) as error:
        to_onnx(net_of(text))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("opset", [12, 99])
def test_unknown_opsets(opset, net_of):
    with pytest.raises(CaffeError, match=f"opset {opset}"):
        to_onnx(net_of(IN_PLACE), opset=opset)


def test_roi_pooling_is_caffes(net_of, run):
    text = """layer { name: 'in' type: 'Input' top: 'data' top: 'r'
                      input_param { shape { dim: 2 dim: 4 dim: 12 dim: 10 } shape { dim: 5 dim: 5 } } }
              layer { name: 'roi' type: 'ROIPooling' bottom: 'data' bottom: 'r' top: 'y'
                      roi_pooling_param { pooled_h: 3 pooled_w: 2 spatial_scale: 0.5 } }"""
    net = net_of(text)
    regions = np.array([[0, 0, 0, 19, 23], [1, 3, 5, 9, 9], [1, 8, 8, 8, 8], [0, 15, 2, 40, 60], [1, 2, 3, 4, 21]])
    data = np.random.default_rng(0).standard_normal((2, 4, 12, 10)).astype(np.float32)
    net.blobs["r"].data[...] = regions
    np.testing.assert_array_equal(run(to_onnx(net), data=data, r=regions)["y"], forward(net, data, "y"))


@pytest.mark.parametrize("layer", [
    "type: 'Convolution' convolution_param { num_output: 6 kernel_size: 3 group: 2 }",
    "type: 'Im2col' convolution_param { kernel_size: 3 }",
])  # fmt: skip
@pytest.mark.parametrize("batch", [None, "dynamic"])
def test_no_spatial_axes(layer, batch, net_of, run):
    """(N, C) alone: a matrix for each item."""
    text = f"""layer {{ name: 'in' type: 'Input' top: 'data' input_param {{ shape {{ dim: 3 dim: 4 }} }} }}
               layer {{ name: 'l' bottom: 'data' top: 'y' {layer} }}"""
    net = net_of(text)
    data = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    np.testing.assert_allclose(run(to_onnx(net, batch=batch), data=data)["y"], forward(net, data, "y"), rtol=1e-5)


@pytest.mark.parametrize("layer", [
    "type: 'Upsample' bottom: 'data' upsample_param { scale: 2 }",
    "type: 'Upsample' bottom: 'data' upsample_param { scale: 2 pad_out_h: true }",
    "type: 'Interp' bottom: 'data' interp_param { zoom_factor: 3 pad_beg: -1 }",
    "type: 'Interp' bottom: 'data' interp_param { height: 5 width: 13 }",
    "type: 'ShuffleChannel' bottom: 'data' shuffle_channel_param { group: 3 }",
    "type: 'ReLU6' bottom: 'data' relu6_param { negative_slope: 0.1 }",
    "type: 'Pooling' bottom: 'data' pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }",
    "type: 'Pooling' bottom: 'data' pooling_param { pool: AVE kernel_size: 1 stride: 3 }",
    "type: 'Pooling' bottom: 'data' pooling_param { pool: STOCHASTIC kernel_size: 3 stride: 2 }",
    "type: 'BN' bottom: 'data' bn_param { scale_filler { type: 'constant' value: 1 } bn_mode: INFERENCE }",
    "type: 'ConvolutionDepthwise' bottom: 'data' convolution_param { num_output: 6 kernel_size: 3 }",
])  # fmt: skip
@pytest.mark.parametrize("batch", [None, "dynamic"])
def test_layers_without_golden_data(layer, batch, net_of, run):
    text = f"""layer {{ name: 'in' type: 'Input' top: 'data'
                        input_param {{ shape {{ dim: 2 dim: 6 dim: 8 dim: 7 }} }} }}
               layer {{ name: 'l' top: 'y' {layer} }}"""
    net = net_of(text)
    data = np.random.default_rng(0).standard_normal((2, 6, 8, 7)).astype(np.float32)
    expected = forward(net, data, "y")
    np.testing.assert_allclose(run(to_onnx(net, batch=batch), data=data)["y"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batch", [None, "dynamic"])
def test_unpooling(batch, net_of, run):
    text = """layer { name: 'in' type: 'Input' top: 'data' input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }
              layer { name: 'pool' type: 'Pooling' bottom: 'data' top: 'p' top: 'mask'
                      pooling_param { kernel_size: 2 stride: 2 } }
              layer { name: 'up' type: 'Upsample' bottom: 'p' bottom: 'mask' top: 'y' upsample_param { scale: 2 } }"""
    net = net_of(text)
    data = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(run(to_onnx(net, batch=batch), data=data)["y"], forward(net, data, "y"))


def test_opencv_reads_the_model_as_it_reads_the_net(net_of, tmp_path):
    cv2 = pytest.importorskip("cv2")
    net = net_of(IN_PLACE)
    net.save(str(tmp_path / "net.caffemodel"))
    save(to_onnx(net), tmp_path / "net.onnx")
    answers = []
    for read in (
        cv2.dnn.readNetFromCaffe(str(tmp_path / "net.prototxt"), str(tmp_path / "net.caffemodel")),
        cv2.dnn.readNetFromONNX(str(tmp_path / "net.onnx")),
    ):
        read.setInput(pictures())
        answers.append(read.forward())
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-5 * np.abs(answers[0]).max())
    np.testing.assert_allclose(answers[0], forward(net, pictures(), "ip"), atol=1e-5 * np.abs(answers[0]).max())


FORK_FIELDS = {
    "elu": "type: 'ELU' elu_param { alpha: 1.67 lambda: 1.05 }",
    "dropout": "type: 'Dropout' dropout_param { dropout_ratio: 0.25 scale_train: false }",
    "conv": "type: 'Convolution' convolution_param { num_output: 6 kernel_size: 3 relu: true negative_slope: 0.1 }",
    "ip": "type: 'InnerProduct' inner_product_param { num_output: 6 relu: true }",
    "bn": "type: 'BatchNorm' batch_norm_param { scale_bias: true }",
    "pool": "type: 'Pooling' pooling_param { kernel_size: 2 stride: 2 ceil_mode: false }",
}


@pytest.mark.parametrize("layer", FORK_FIELDS.values(), ids=FORK_FIELDS)
def test_fields_of_forks(layer, net_of, run):
    text = f"""layer {{ name: 'in' type: 'Input' top: 'data'
                        input_param {{ shape {{ dim: 2 dim: 6 dim: 9 dim: 7 }} }} }}
               layer {{ name: 'l' bottom: 'data' top: 'y' {layer} }}"""
    net = net_of(text)
    data = np.random.default_rng(0).standard_normal((2, 6, 9, 7)).astype(np.float32)
    expected = forward(net, data, "y")
    np.testing.assert_allclose(run(to_onnx(net), data=data)["y"], expected, rtol=1e-4, atol=1e-5)
    if "scale_train" in layer:
        with pytest.raises(CaffeError, match="scale_train"):
            to_torch(net)
    else:
        np.testing.assert_allclose(to_torch(net)(torch.from_numpy(data)).detach(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pool", ["MAX", "AVE"])
@pytest.mark.parametrize("window", ["stride: 1 pad: 1", "stride: 2", "stride: 2 pad: 1"])
def test_opencv_reads_the_windows_too(pool, window, net_of):
    cv2 = pytest.importorskip("cv2")
    net = net_of(f"""layer {{ name: 'in' type: 'Input' top: 'data'
                              input_param {{ shape {{ dim: 2 dim: 3 dim: 8 dim: 8 }} }} }}
                     layer {{ name: 'l' bottom: 'data' top: 'y' type: 'Pooling'
                              pooling_param {{ pool: {pool} kernel_size: 3 {window} }} }}""")
    data = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    read = cv2.dnn.readNetFromONNX(np.frombuffer(to_onnx(net).SerializeToString(), np.uint8))
    read.setInput(data)
    np.testing.assert_allclose(read.forward(), forward(net, data, "y"), atol=1e-6)

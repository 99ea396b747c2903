"""Whole nets against OpenCV's own importer and its own layers, through a saved caffemodel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import pysolver as caffe

cv2 = pytest.importorskip("cv2")
if not hasattr(cv2.dnn, "readNetFromCaffe"):
    pytest.skip("this OpenCV reads no Caffe nets", allow_module_level=True)


def layer(name: str, kind: str, bottoms: str, top: str = "", params: str = "") -> str:
    wires = " ".join(f'bottom: "{bottom}"' for bottom in bottoms.split())
    return f'layer {{ name: "{name}" type: "{kind}" {wires} top: "{top or name}" {params} }}\n'


def convolution(name: str, bottom: str, outputs: int, rest: str = "") -> str:
    weights = 'weight_filler { type: "msra" } bias_filler { type: "uniform" min: -1 max: 1 }'
    return layer(name, "Convolution", bottom, "", f"convolution_param {{ num_output: {outputs} {rest} {weights} }}")


def pool(name: str, bottom: str, rest: str) -> str:
    return layer(name, "Pooling", bottom, "", f"pooling_param {{ {rest} }}")


def relu(name: str) -> str:
    return layer(f"{name}_relu", "ReLU", name, name)


def inner_product(name: str, bottom: str, outputs: int) -> str:
    weights = 'weight_filler { type: "xavier" } bias_filler { type: "uniform" min: -1 max: 1 }'
    return layer(name, "InnerProduct", bottom, "", f"inner_product_param {{ num_output: {outputs} {weights} }}")


def normalised(name: str) -> str:
    return layer(f"{name}_bn", "BatchNorm", name, name, "batch_norm_param { use_global_stats: true }") + layer(
        f"{name}_scale", "Scale", name, name, "scale_param { bias_term: true }"
    )


LENET = (
    convolution("conv1", "data", 6, "kernel_size: 5")
    + pool("pool1", "conv1", "pool: MAX kernel_size: 2 stride: 2")
    + convolution("conv2", "pool1", 8, "kernel_size: 5")
    + pool("pool2", "conv2", "pool: MAX kernel_size: 2 stride: 2")
    + inner_product("ip1", "pool2", 20)
    + relu("ip1")
    + inner_product("ip2", "ip1", 10)
    + layer("prob", "Softmax", "ip2")
)
RESNET_BLOCK = (
    convolution("conv1", "data", 8, "kernel_size: 7 stride: 2 pad: 3")
    + normalised("conv1")
    + relu("conv1")
    + pool("pool1", "conv1", "pool: MAX kernel_size: 3 stride: 2")
    + convolution("branch1", "pool1", 16, "kernel_size: 1 stride: 2")
    + normalised("branch1")
    + convolution("branch2", "pool1", 8, "kernel_size: 3 pad: 1 stride: 2")
    + normalised("branch2")
    + relu("branch2")
    + convolution("branch3", "branch2", 16, "kernel_size: 3 pad: 1 group: 2")
    + layer("sum", "Eltwise", "branch1 branch3")
    + relu("sum")
    + pool("pool5", "sum", "pool: AVE global_pooling: true")
)
INCEPTION_BLOCK = (
    convolution("conv1", "data", 6, "kernel_size: 3 stride: 2")
    + relu("conv1")
    + layer("norm", "LRN", "conv1", "", "lrn_param { local_size: 5 alpha: 0.001 beta: 0.75 }")
    + pool("pool1", "norm", "pool: MAX kernel_size: 3 stride: 2")
    + convolution("a", "pool1", 4, "kernel_size: 1")
    + convolution("b", "pool1", 4, "kernel_size: 3 pad: 1")
    + relu("b")
    + convolution("c", "pool1", 2, "kernel_size: 5 pad: 2")
    + pool("d", "pool1", "pool: MAX kernel_size: 3 stride: 1 pad: 1")
    + layer("concat", "Concat", "a b c d")
    + pool("average", "concat", "pool: AVE kernel_size: 3 stride: 2 pad: 1")
)
FCN_HEAD = (
    convolution("conv1", "data", 4, "kernel_size: 3 pad: 10")
    + pool("pool1", "conv1", "pool: MAX kernel_size: 2 stride: 2")
    + convolution("score", "pool1", 3, "kernel_size: 1")
    + layer(
        "up",
        "Deconvolution",
        "score",
        "",
        "convolution_param { num_output: 3 kernel_size: 4 stride: 2 bias_term: false "
        'weight_filler { type: "gaussian" } }',
    )
    + layer("crop", "Crop", "up data", "", "crop_param { axis: 2 offset: 10 }")
    + layer("half", "Power", "crop", "", "power_param { scale: 0.5 shift: 1 }")
    + layer("out", "TanH", "half")
)
NETS = {
    "lenet": (LENET, "prob", (2, 1, 28, 28)),
    "resnet_block": (RESNET_BLOCK, "pool5", (2, 3, 33, 37)),
    "inception_block": (INCEPTION_BLOCK, "average", (2, 3, 32, 29)),
    "fcn_head": (FCN_HEAD, "out", (1, 2, 14, 18)),
}


@pytest.mark.parametrize("name", NETS)
def test_forward(name: str, tmp_path: Path):
    text, output, shape = NETS[name]
    dims = " ".join(f"dim: {dim}" for dim in shape)
    path, weights = str(tmp_path / "net.prototxt"), str(tmp_path / "net.caffemodel")
    head = f'layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ {dims} }} }} }}\n'
    Path(path).write_text(f'name: "{name}"\n{head}{text}')
    net = caffe.Net(path, caffe.TEST)
    rng = np.random.default_rng(0)
    for layer_name, blobs in net.params.items():
        if layer_name.endswith("_bn"):
            for blob in blobs:
                blob.data[...] = rng.uniform(0.5, 1.5, blob.data.shape)
    net.save(weights)
    x = rng.standard_normal(shape).astype(np.float32)
    net.blobs["data"].data[...] = x
    net.forward()

    other = cv2.dnn.readNetFromCaffe(path, weights)
    other.setInput(x, "data")
    theirs = other.forward(output)
    ours = net.blobs[output].data
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)

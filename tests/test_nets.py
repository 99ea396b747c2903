"""The nets of examples/nets: shapes and parameter counts as published, quick to build, able to learn."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pysolver as caffe

NETS = Path(__file__).parents[1] / "examples" / "nets"

# Learned parameters: those of bvlc_alexnet, bvlc_googlenet (6 998 552 without its two auxiliary heads), VGG-16, and
# ResNet as published; Inception-ResNet-v2 as 55 813 192 (TensorFlow) and 30 272 slopes of batch normalisation; SSD-300
# as in its PyTorch port; FCN-8s as the sum of its parts, 134 M in the paper; LRCN and LeNet likewise.
PARAMETERS = {
    "alexnet": 60_965_224,
    "googlenet": 6_998_552 + 3_188_840 + 3_190_888,
    "vgg16": 138_357_544,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "inception_resnet_v2": 55_813_192 + 30_272,
    "ssd300": 26_285_486,
    "fcn8s": 134_362_751 + 21 * (4 * 4 + 4 * 4 + 16 * 16),
    "lrcn": 8801 * 1000 + 8_004_000 + 24_388_000 + 1001 * 8801,
    "siamese_mnist": 431_080 + 22,
}
# Blobs whose shape the papers give.
SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "alexnet": {"conv1": (2, 96, 55, 55), "pool5": (2, 256, 6, 6), "fc8": (2, 1000)},
    "googlenet": {
        "pool2/3x3_s2": (2, 192, 28, 28),
        "inception_4e/output": (2, 832, 14, 14),
        "pool5/7x7_s1": (2, 1024, 1, 1),
    },
    "vgg16": {"conv3_3": (1, 256, 56, 56), "pool5": (1, 512, 7, 7), "fc8": (1, 1000)},
    "resnet50": {
        "pool1": (2, 64, 56, 56),
        "res3d": (2, 512, 28, 28),
        "res5c": (2, 2048, 7, 7),
        "pool5": (2, 2048, 1, 1),
    },
    "resnet101": {"res4b22": (2, 1024, 14, 14), "fc1000": (2, 1000)},
    "resnet152": {"res3b7": (2, 512, 28, 28), "res4b35": (2, 1024, 14, 14)},
    "inception_resnet_v2": {"mixed_5b": (1, 320, 35, 35), "mixed_6a": (1, 1088, 17, 17), "mixed_7a": (1, 2080, 8, 8)},
    "ssd300": {
        "conv4_3": (1, 512, 38, 38),
        "fc7": (1, 1024, 19, 19),
        "conv9_2": (1, 256, 1, 1),
        "mbox_priorbox": (1, 2, 8732 * 4),
    },
    "fcn8s": {"score": (1, 21, 256, 256)},
    "lrcn": {"lstm2": (20, 2, 1000), "predict": (20, 2, 8801)},
    "siamese_mnist": {"feat": (64, 2), "feat_p": (64, 2)},
}
QUICK = ["lrcn", "siamese_mnist"]


def build(name: str, phase: int) -> caffe.Net:
    return caffe.Net(str(NETS / f"{name}.prototxt"), phase)


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("generate_nets", NETS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_files_are_what_the_generator_writes():
    module = generator()
    assert set(module.NETS) == set(PARAMETERS) == {path.stem for path in NETS.glob("*.prototxt")}
    for name in module.NETS:
        assert (NETS / f"{name}.prototxt").read_text() == module.text_of(name), "run examples/nets/generate.py"


@pytest.mark.parametrize("name", PARAMETERS)
def test_shapes_and_parameters(name: str):
    net = build(name, caffe.TRAIN)
    for blob, shape in SHAPES[name].items():
        assert tuple(net.blobs[blob].shape) == shape, blob
    counts = {layer: sum(blob.count for blob in blobs) for layer, blobs in net.params.items()}
    counts = {k: v for k, v in counts.items() if net.layer_dict[k].type != "BatchNorm" and not k.endswith("_p")}
    assert sum(counts.values()) == PARAMETERS[name]


@pytest.mark.parametrize("name", PARAMETERS)
def test_test_phase(name: str):
    net = build(name, caffe.TEST)
    assert len(net.outputs) >= 1


def feed(net: caffe.Net, rng: np.random.Generator) -> None:
    """Something for every input: small images, labels that exist, one object, sentences."""
    for name in net.inputs:
        data = net.blobs[name].data
        if name == "sim":
            data[...] = rng.integers(0, 2, data.shape)
        elif name == "cont_sentence":
            data[...], data[0] = 1, 0
        elif name == "label" and data.shape == (1, 1, 8, 8):
            data[...] = -1
            data[0, 0, 0] = [0, 5, 0, 0.1, 0.2, 0.6, 0.7, 0]
        elif name.startswith(("label", "input_sentence", "target_sentence")):
            data[...] = rng.integers(0, 20, data.shape)
        else:
            data[...] = rng.standard_normal(data.shape)


def train_one_step(name: str) -> None:
    net = build(name, caffe.TRAIN)
    feed(net, np.random.default_rng(0))
    net.forward()
    losses = [float(net.blobs[output].data) for output in net.outputs]
    assert np.isfinite(losses).all()
    assert min(losses) > 0
    net.backward()
    for layer, blobs in net.params.items():
        if net.layer_dict[layer].type in ("BatchNorm", "Deconvolution"):
            continue
        for blob in blobs:
            assert np.isfinite(blob.diff).all(), layer
            blob.data[...] -= 1e-3 * blob.diff
    assert any(np.any(blobs[0].diff) for blobs in net.params.values())


@pytest.mark.parametrize("name", QUICK)
def test_trains(name: str):
    train_one_step(name)


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in PARAMETERS if name not in QUICK])
def test_trains_for_long(name: str):
    train_one_step(name)

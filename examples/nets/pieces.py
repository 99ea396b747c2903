"""What several of the nets are made of."""

from __future__ import annotations

from typing import Any

from pysolver.proto import caffe_pb2
from pysolver.proto.net_spec import NetSpec, Top
from pysolver.proto.net_spec import layers as L
from pysolver.proto.net_spec import params as P

WEIGHT_AND_BIAS = [{"lr_mult": 1, "decay_mult": 1}, {"lr_mult": 2, "decay_mult": 0}]
TRAIN, TEST = {"phase": caffe_pb2.TRAIN}, {"phase": caffe_pb2.TEST}


def inputs(n: NetSpec, **shapes: list[int]) -> None:
    for name, shape in shapes.items():
        n[name] = L.Input(input_param={"shape": {"dim": shape}})


def conv(n: NetSpec, name: str, bottom: Top, outputs: int, kernel: int, relu: str = "", **fields: Any) -> Top:
    """A convolution, and with `relu` a ReLU of that name in its place."""
    fields = {"weight_filler": {"type": "xavier"}, "param": WEIGHT_AND_BIAS, **fields}
    if "kernel_h" not in fields:
        fields["kernel_size"] = kernel
    n[name] = L.Convolution(bottom, num_output=outputs, **fields)
    if relu:
        n[relu] = L.ReLU(n[name], in_place=True)
    return n[relu] if relu else n[name]


def dense(n: NetSpec, name: str, bottom: Top, outputs: int) -> Top:
    n[name] = L.InnerProduct(bottom, num_output=outputs, weight_filler={"type": "xavier"}, param=WEIGHT_AND_BIAS)
    return n[name]


def dense_with_dropout(n: NetSpec, number: int, bottom: Top, outputs: int) -> Top:
    """fc, relu and drop of that number."""
    dense(n, f"fc{number}", bottom, outputs)
    n[f"relu{number}"] = L.ReLU(n[f"fc{number}"], in_place=True)
    n[f"drop{number}"] = L.Dropout(n[f"relu{number}"], dropout_ratio=0.5, in_place=True)
    return n[f"drop{number}"]


def max_pool(n: NetSpec, name: str, bottom: Top, kernel: int, stride: int, pad: int = 0) -> Top:
    n[name] = L.Pooling(bottom, pool=P.Pooling.MAX, kernel_size=kernel, stride=stride, pad=pad)
    return n[name]


def average_pool(n: NetSpec, name: str, bottom: Top, kernel: int, stride: int, pad: int = 0) -> Top:
    n[name] = L.Pooling(bottom, pool=P.Pooling.AVE, kernel_size=kernel, stride=stride, pad=pad)
    return n[name]


def classify(n: NetSpec, scores: Top) -> None:
    n.loss = L.SoftmaxWithLoss(scores, n.label)
    n.accuracy = L.Accuracy(scores, n.label, include=TEST)
    n["accuracy_5"] = L.Accuracy(scores, n.label, top_k=5, include=TEST)


def vgg_body(n: NetSpec, first_pad: int = 1) -> dict[str, Top]:
    """The 13 convolutions of VGG-16; the tops of conv4_3 and of each pool."""
    tops, top = {}, n.data
    for stage, (depth, outputs) in enumerate(((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)), 1):
        for i in range(1, depth + 1):
            pad = first_pad if (stage, i) == (1, 1) else 1
            top = tops[f"conv{stage}_{i}"] = conv(n, f"conv{stage}_{i}", top, outputs, 3, f"relu{stage}_{i}", pad=pad)
        if stage < 5:
            top = tops[f"pool{stage}"] = max_pool(n, f"pool{stage}", top, 2, 2)
    return tops

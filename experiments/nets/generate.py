"""The nets of arXiv 1803.09820 on CIFAR and MNIST as prototxts, which a Caffe loads too.

    python experiments/nets/generate.py      writes NAME.prototxt beside this file, for each name in NETS

Layer by layer they are those that the paper's author published (github.com/lnsmith54/hyperParam1), but for the
names. BatchNorm keeps averages over about 10 batches (fraction 0.9, as in his residual nets; his
densenet has Caffe's 0.999, with which a test in a short run judges statistics of long ago). LeNet is
examples/mnist/lenet_train_test.prototxt; resnet-50 and inception-resnet-v2 are in examples/nets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pysolver.proto import caffe_pb2
from pysolver.proto.net_spec import NetSpec, Top
from pysolver.proto.net_spec import layers as L
from pysolver.proto.net_spec import params as P
from pysolver.proto.text import to_text

DATA = "experiments/data/cifar10/cifar10"  # as `pysolver data cifar10 experiments/data/cifar10` names them
WEIGHT_AND_BIAS = [{"lr_mult": 1, "decay_mult": 1}, {"lr_mult": 2, "decay_mult": 0}]  # of last layers
MSRA, XAVIER, ZERO = {"type": "msra"}, {"type": "xavier"}, {"type": "constant"}


def cifar(n: NetSpec, batch: int, **augmentation: Any) -> Top:
    """Data layers for both phases; augmentation is for training only."""
    for phase, name, size, more in (("TRAIN", "train", batch, augmentation), ("TEST", "test", 100, {})):
        n[f"data_{name}"], n[f"label_{name}"] = L.Data(
            ntop=2,
            name="data",
            include={"phase": getattr(caffe_pb2, phase)},
            transform_param={"mean_file": f"{DATA}_mean.binaryproto", **more},
            data_param={"source": f"{DATA}_{name}_lmdb", "batch_size": size, "backend": P.Data.LMDB},
        )
    return n.data_train


def judge(n: NetSpec, scores: Top) -> None:
    n.accuracy = L.Accuracy(scores, n.label_train)
    n.loss = L.SoftmaxWithLoss(scores, n.label_train)


def three_layers() -> NetSpec:
    """Caffe's cifar10_full: three convolutions of 5x5, no BatchNorm, batch 128."""
    n = NetSpec()
    top = cifar(n, 128)
    for i, (outputs, std) in enumerate(((32, 1e-4), (32, 1e-2), (64, 1e-2)), 1):
        filler = {"type": "gaussian", "std": std}
        param = [{"lr_mult": 1}, {"lr_mult": 2}] if i < 3 else []
        fields = {"num_output": outputs, "pad": 2, "kernel_size": 5, "weight_filler": filler, "bias_filler": ZERO}
        n[f"conv{i}"] = L.Convolution(top, param=param, **fields)
        if i == 1:  # pools first, as Krizhevsky's net
            n.pool1 = L.Pooling(n.conv1, pool=P.Pooling.MAX, kernel_size=3, stride=2)
            n.relu1 = L.ReLU(n.pool1, in_place=True)
        else:
            n[f"relu{i}"] = L.ReLU(n[f"conv{i}"], in_place=True)
            n[f"pool{i}"] = L.Pooling(n[f"relu{i}"], pool=P.Pooling.AVE, kernel_size=3, stride=2)
        top = n.relu1 if i == 1 else n[f"pool{i}"]
        if i < 3:
            within = {"local_size": 3, "alpha": 5e-5, "beta": 0.75, "norm_region": P.LRN.WITHIN_CHANNEL}
            top = n[f"norm{i}"] = L.LRN(top, **within)
    n.ip1 = L.InnerProduct(
        top,
        num_output=10,
        weight_filler={"type": "gaussian", "std": 0.01},
        bias_filler=ZERO,
        param=[{"lr_mult": 1, "decay_mult": 250}, {"lr_mult": 2, "decay_mult": 0}],
    )
    judge(n, n.ip1)
    return n


def conv(n: NetSpec, name: str, bottom: Top, outputs: int, kernel: int, stride: int = 1, **fields: Any) -> Top:
    fields = {"weight_filler": MSRA, "bias_filler": ZERO, "pad": (kernel - 1) // 2, **fields}
    n[name] = L.Convolution(bottom, num_output=outputs, kernel_size=kernel, stride=stride, **fields)
    return n[name]


def normalise(n: NetSpec, name: str, bottom: Top, relu: bool = True, in_place: bool = True) -> Top:
    n[f"{name}_bn"] = L.BatchNorm(bottom, in_place=in_place, moving_average_fraction=0.9)
    n[f"{name}_scale"] = L.Scale(n[f"{name}_bn"], in_place=True, bias_term=True)
    if relu:
        n[f"{name}_relu"] = L.ReLU(n[f"{name}_scale"], in_place=True)
    return n[f"{name}_relu"] if relu else n[f"{name}_scale"]


def residual_net(blocks: Sequence[int]) -> NetSpec:
    """A convolution, then blocks of two with so many channels, batch 512. No ReLU behind the sums.

    A block with more channels than the one before halves the sides, and a projection of 2x2 leads past it.
    """
    n, channels = NetSpec(), 16
    top = normalise(n, "first", conv(n, "first_conv", cifar(n, 512, mirror=True, crop_size=32), channels, 3))
    for number, outputs in enumerate(blocks, 1):
        name, stride = f"block{number}", 1 if outputs == channels else 2
        branch = normalise(n, f"{name}_1", conv(n, f"{name}_1_conv", top, outputs, 3, stride))
        branch = normalise(n, f"{name}_2", conv(n, f"{name}_2_conv", branch, outputs, 3), relu=False)
        if outputs != channels:
            top = normalise(n, f"{name}_past", conv(n, f"{name}_past_conv", top, outputs, 2, 2), relu=False)
        top = n[f"{name}_sum"] = L.Eltwise(branch, top)
        channels = outputs
    n.pool = L.Pooling(top, pool=P.Pooling.AVE, global_pooling=True)
    n.fc = L.InnerProduct(n.pool, num_output=10, weight_filler=MSRA, bias_filler=ZERO, param=WEIGHT_AND_BIAS)
    judge(n, n.fc)
    return n


def resnet56() -> NetSpec:
    """A residual net of 26 blocks with 16, 32 and 64 channels."""
    return residual_net([16] * 8 + [32] * 9 + [64] * 9)


def wide_resnet32() -> NetSpec:
    """A residual net of 15 blocks whose channels grow fourfold from stage to stage: 16, 64 and 256."""
    return residual_net([16] * 5 + [64] * 5 + [256] * 5)


def densenet40() -> NetSpec:
    """Huang et al., 2016: 3 blocks of 12 convolutions that add 12 channels each; no bottlenecks; dropout of 0.2."""
    n, growth = NetSpec(), 12
    top, channels = conv(n, "conv0", cifar(n, 512, mirror=True, crop_size=32), 16, 3, bias_term=False), 16

    def add(name: str, outputs: int, kernel: int) -> Top:
        conv(n, f"{name}_conv", normalise(n, name, top, in_place=False), outputs, kernel, bias_term=False)
        n[f"{name}_dropout"] = L.Dropout(n[f"{name}_conv"], dropout_ratio=0.2, in_place=True)
        return n[f"{name}_dropout"]

    for block in range(1, 4):
        for i in range(1, 13):
            name = f"b{block}_{i}"
            n[f"{name}_concat"] = L.Concat(top, add(name, growth, 3))
            top, channels = n[f"{name}_concat"], channels + growth
        if block < 3:
            name = f"transition{block}"
            n[f"{name}_pool"] = L.Pooling(add(name, channels, 1), pool=P.Pooling.AVE, kernel_size=2, stride=2)
            top = n[f"{name}_pool"]
    n.pool = L.Pooling(normalise(n, "last", top, in_place=False), pool=P.Pooling.AVE, global_pooling=True)
    n.fc = L.InnerProduct(n.pool, num_output=10, weight_filler=XAVIER, bias_filler=ZERO, param=WEIGHT_AND_BIAS)
    judge(n, n.fc)
    return n


NETS: dict[str, Callable[[], NetSpec]] = {
    "three_layers": three_layers,
    "resnet56": resnet56,
    "wide_resnet32": wide_resnet32,
    "densenet40": densenet40,
}


def text_of(name: str) -> str:
    """The prototxt of one of NETS."""
    net = NETS[name]().to_proto()
    net.name = name
    for layer in net.layer:  # both phases have blobs of one name
        for field in (layer.top, layer.bottom):
            field[:] = [blob.replace("_train", "").replace("_test", "") for blob in field]
    lines = [f"# {(NETS[name].__doc__ or '').strip().splitlines()[0]} Made by generate.py."]
    return "\n".join([*lines, to_text(net)])


if __name__ == "__main__":
    for name in NETS:
        (Path(__file__).parent / f"{name}.prototxt").write_text(text_of(name))

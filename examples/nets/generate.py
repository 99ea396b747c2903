"""Well-known nets as prototxts, with the layer names under which their weights were published.

    python examples/nets/generate.py      writes NAME.prototxt beside this file, for each name in NETS

Each net takes its data from an Input layer (exchange it for a Data layer to train), has its loss in TRAIN and what
it is judged by in TEST.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pieces import (
    TEST,
    average_pool,
    classify,
    conv,
    dense,
    dense_with_dropout,
    inputs,
    max_pool,
    vgg_body,
)
from ssd import ssd300

from pysolver.proto.net_spec import NetSpec, Top
from pysolver.proto.net_spec import layers as L
from pysolver.proto.text import to_text

# ---- AlexNet, VGG-16, GoogLeNet ----------------------------------------------------------------------------


def alexnet() -> NetSpec:
    """Krizhevsky et al., 2012, as bvlc_alexnet."""
    n = NetSpec()
    inputs(n, data=[2, 3, 227, 227], label=[2])
    top = conv(n, "conv1", n.data, 96, 11, "relu1", stride=4)
    n.norm1 = L.LRN(top, local_size=5, alpha=1e-4, beta=0.75)
    top = max_pool(n, "pool1", n.norm1, 3, 2)
    top = conv(n, "conv2", top, 256, 5, "relu2", pad=2, group=2)
    n.norm2 = L.LRN(top, local_size=5, alpha=1e-4, beta=0.75)
    top = max_pool(n, "pool2", n.norm2, 3, 2)
    top = conv(n, "conv3", top, 384, 3, "relu3", pad=1)
    top = conv(n, "conv4", top, 384, 3, "relu4", pad=1, group=2)
    top = conv(n, "conv5", top, 256, 3, "relu5", pad=1, group=2)
    top = max_pool(n, "pool5", top, 3, 2)
    top = dense_with_dropout(n, 7, dense_with_dropout(n, 6, top, 4096), 4096)
    classify(n, dense(n, "fc8", top, 1000))
    return n


def vgg16() -> NetSpec:
    """Simonyan and Zisserman, 2014, configuration D."""
    n = NetSpec()
    inputs(n, data=[1, 3, 224, 224], label=[1])
    top = max_pool(n, "pool5", vgg_body(n)["conv5_3"], 2, 2)
    top = dense_with_dropout(n, 7, dense_with_dropout(n, 6, top, 4096), 4096)
    classify(n, dense(n, "fc8", top, 1000))
    return n


def inception(n: NetSpec, name: str, bottom: Top, one: int, three: tuple, five: tuple, projection: int) -> Top:
    def part(kind: str, below: Top, outputs: int, kernel: int, pad: int = 0) -> Top:
        return conv(n, f"{name}/{kind}", below, outputs, kernel, f"{name}/relu_{kind}", pad=pad)

    branches = [
        part("1x1", bottom, one, 1),
        part("3x3", part("3x3_reduce", bottom, three[0], 1), three[1], 3, 1),
        part("5x5", part("5x5_reduce", bottom, five[0], 1), five[1], 5, 2),
        part("pool_proj", max_pool(n, f"{name}/pool", bottom, 3, 1, 1), projection, 1),
    ]
    n[f"{name}/output"] = L.Concat(*branches)
    return n[f"{name}/output"]


def auxiliary_classifier(n: NetSpec, name: str, bottom: Top) -> None:
    top = average_pool(n, f"{name}/ave_pool", bottom, 5, 3)
    top = dense(n, f"{name}/fc", conv(n, f"{name}/conv", top, 128, 1, f"{name}/relu_conv"), 1024)
    n[f"{name}/relu_fc"] = L.ReLU(top, in_place=True)
    n[f"{name}/drop_fc"] = L.Dropout(n[f"{name}/relu_fc"], dropout_ratio=0.7, in_place=True)
    scores = dense(n, f"{name}/classifier", n[f"{name}/drop_fc"], 1000)
    n[f"{name}/loss"] = L.SoftmaxWithLoss(scores, n.label, loss_weight=0.3)


def googlenet() -> NetSpec:
    """Szegedy et al., 2014, as bvlc_googlenet, with its two auxiliary classifiers."""
    n = NetSpec()
    inputs(n, data=[2, 3, 224, 224], label=[2])
    top = conv(n, "conv1/7x7_s2", n.data, 64, 7, "conv1/relu_7x7", pad=3, stride=2)
    top = max_pool(n, "pool1/3x3_s2", top, 3, 2)
    n["pool1/norm1"] = L.LRN(top, local_size=5, alpha=1e-4, beta=0.75)
    top = conv(n, "conv2/3x3_reduce", n["pool1/norm1"], 64, 1, "conv2/relu_3x3_reduce")
    top = conv(n, "conv2/3x3", top, 192, 3, "conv2/relu_3x3", pad=1)
    n["conv2/norm2"] = L.LRN(top, local_size=5, alpha=1e-4, beta=0.75)
    top = max_pool(n, "pool2/3x3_s2", n["conv2/norm2"], 3, 2)
    top = inception(n, "inception_3a", top, 64, (96, 128), (16, 32), 32)
    top = inception(n, "inception_3b", top, 128, (128, 192), (32, 96), 64)
    top = max_pool(n, "pool3/3x3_s2", top, 3, 2)
    top = inception(n, "inception_4a", top, 192, (96, 208), (16, 48), 64)
    auxiliary_classifier(n, "loss1", top)
    top = inception(n, "inception_4b", top, 160, (112, 224), (24, 64), 64)
    top = inception(n, "inception_4c", top, 128, (128, 256), (24, 64), 64)
    top = inception(n, "inception_4d", top, 112, (144, 288), (32, 64), 64)
    auxiliary_classifier(n, "loss2", top)
    top = inception(n, "inception_4e", top, 256, (160, 320), (32, 128), 128)
    top = max_pool(n, "pool4/3x3_s2", top, 3, 2)
    top = inception(n, "inception_5a", top, 256, (160, 320), (32, 128), 128)
    top = inception(n, "inception_5b", top, 384, (192, 384), (48, 128), 128)
    top = average_pool(n, "pool5/7x7_s1", top, 7, 1)
    n["pool5/drop_7x7_s1"] = L.Dropout(top, dropout_ratio=0.4, in_place=True)
    classify(n, dense(n, "loss3/classifier", n["pool5/drop_7x7_s1"], 1000))
    return n


# ---- residual nets -----------------------------------------------------------------------------------------


def normalised_conv(
    n: NetSpec, name: str, suffix: str, bottom: Top, outputs: int, kernel: int, relu: bool = True, **fields: Any
) -> Top:
    """Convolution `name`, then bn, scale and relu, each in place and named by the suffix."""
    top = conv(n, name, bottom, outputs, kernel, bias_term=False, param=[{"lr_mult": 1, "decay_mult": 1}], **fields)
    n[f"bn{suffix}"] = L.BatchNorm(top, in_place=True)
    n[f"scale{suffix}"] = L.Scale(n[f"bn{suffix}"], bias_term=True, in_place=True)
    if not relu:
        return n[f"scale{suffix}"]
    n[f"{name}_relu"] = L.ReLU(n[f"scale{suffix}"], in_place=True)
    return n[f"{name}_relu"]


def bottleneck(n: NetSpec, name: str, bottom: Top, width: int, stride: int, project: bool) -> Top:
    def part(branch: str, below: Top, outputs: int, kernel: int, relu: bool, **fields: Any) -> Top:
        return normalised_conv(n, f"res{name}_{branch}", f"{name}_{branch}", below, outputs, kernel, relu, **fields)

    shortcut = part("branch1", bottom, 4 * width, 1, False, stride=stride) if project else bottom
    top = part("branch2a", bottom, width, 1, True, stride=stride)
    top = part("branch2b", top, width, 3, True, pad=1)
    top = part("branch2c", top, 4 * width, 1, False)
    n[f"res{name}"] = L.Eltwise(shortcut, top)
    n[f"res{name}_relu"] = L.ReLU(n[f"res{name}"], in_place=True)
    return n[f"res{name}_relu"]


def resnet(depths: tuple[int, int, int, int]) -> NetSpec:
    """He et al., 2015, table 1: bottleneck blocks in each of the four stages."""
    n = NetSpec()
    inputs(n, data=[2, 3, 224, 224], label=[2])
    top = normalised_conv(n, "conv1", "_conv1", n.data, 64, 7, pad=3, stride=2)
    top = max_pool(n, "pool1", top, 3, 2)
    deep = sum(depths) > 16
    for stage, depth in enumerate(depths):
        for block in range(depth):
            numbered = deep and stage in (1, 2)
            letter = "a" if block == 0 else f"b{block}" if numbered else "abcdef"[block]
            stride = 2 if stage and not block else 1
            top = bottleneck(n, f"{stage + 2}{letter}", top, 64 << stage, stride, project=block == 0)
    top = average_pool(n, "pool5", top, 7, 1)
    classify(n, dense(n, "fc1000", top, 1000))
    return n


def inception_resnet_v2() -> NetSpec:
    """Szegedy et al., 2016, the form and widths of the published TensorFlow weights."""
    n = NetSpec()
    inputs(n, data=[1, 3, 299, 299], label=[1])

    def part(
        name: str, bottom: Top, outputs: int, kernel: int | tuple[int, int], stride: int = 1, same: bool = True
    ) -> Top:
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        pads = [side // 2 if same else 0 for side in sides]
        fields = {"kernel_h": sides[0], "kernel_w": sides[1], "pad_h": pads[0], "pad_w": pads[1], "stride": stride}
        return normalised_conv(n, name, f"_{name}", bottom, outputs, 0, **fields)

    def chain(name: str, bottom: Top, *steps: tuple) -> Top:
        for i, step in enumerate(steps, 1):
            bottom = part(f"{name}_{i}", bottom, *step)
        return bottom

    def join(name: str, *branches: Top) -> Top:
        n[name] = L.Concat(*branches)
        return n[name]

    def residual(name: str, bottom: Top, width: int, scale: float, *branches: tuple, relu: bool = True) -> Top:
        tops = [chain(f"{name}_b{i}", bottom, *steps) for i, steps in enumerate(branches)]
        up = conv(n, f"{name}_up", join(f"{name}_concat", *tops), width, 1)
        n[name] = L.Eltwise(bottom, up, eltwise_param={"coeff": [1, scale]})
        if relu:
            n[f"{name}_relu"] = L.ReLU(n[name], in_place=True)
        return n[f"{name}_relu"] if relu else n[name]

    top = chain("stem", n.data, (32, 3, 2, False), (32, 3, 1, False), (64, 3))
    top = chain("stem2", max_pool(n, "stem_pool1", top, 3, 2), (80, 1), (192, 3, 1, False))
    top = max_pool(n, "stem_pool2", top, 3, 2)
    top = join(
        "mixed_5b",
        chain("mixed_5b_b0", top, (96, 1)),
        chain("mixed_5b_b1", top, (48, 1), (64, 5)),
        chain("mixed_5b_b2", top, (64, 1), (96, 3), (96, 3)),
        chain("mixed_5b_b3", average_pool(n, "mixed_5b_pool", top, 3, 1, 1), (64, 1)),
    )
    for i in range(1, 11):
        branches = [(32, 1)], [(32, 1), (32, 3)], [(32, 1), (48, 3), (64, 3)]
        top = residual(f"block35_{i}", top, 320, 0.17, *branches)
    top = join(
        "mixed_6a",
        chain("mixed_6a_b0", top, (384, 3, 2, False)),
        chain("mixed_6a_b1", top, (256, 1), (256, 3), (384, 3, 2, False)),
        max_pool(n, "mixed_6a_pool", top, 3, 2),
    )
    for i in range(1, 21):
        top = residual(f"block17_{i}", top, 1088, 0.1, [(192, 1)], [(128, 1), (160, (1, 7)), (192, (7, 1))])
    top = join(
        "mixed_7a",
        chain("mixed_7a_b0", top, (256, 1), (384, 3, 2, False)),
        chain("mixed_7a_b1", top, (256, 1), (288, 3, 2, False)),
        chain("mixed_7a_b2", top, (256, 1), (288, 3), (320, 3, 2, False)),
        max_pool(n, "mixed_7a_pool", top, 3, 2),
    )
    for i in range(1, 11):
        branches = [(192, 1)], [(192, 1), (224, (1, 3)), (256, (3, 1))]
        top = residual(f"block8_{i}", top, 2080, 1.0 if i == 10 else 0.2, *branches, relu=i < 10)
    top = average_pool(n, "pool", part("conv_7b", top, 1536, 1), 8, 1)
    n.drop = L.Dropout(top, dropout_ratio=0.2, in_place=True)
    classify(n, dense(n, "classifier", n.drop, 1000))
    return n


# ---- segmentation, sequences, pairs -------------------------------------------------------------


def fcn8s() -> NetSpec:
    """Long et al., 2015: VGG-16 with scores of three depths, for the 21 classes of PASCAL VOC.

    The upsampling is bilinear and fixed, class by class (group), so that no surgery on the weights is needed.
    """
    n, classes = NetSpec(), 21
    inputs(n, data=[1, 3, 256, 256], label=[1, 1, 256, 256])
    body = vgg_body(n, first_pad=100)

    def up(name: str, bottom: Top, kernel: int, stride: int) -> Top:
        fields = {"num_output": classes, "group": classes, "kernel_size": kernel, "stride": stride, "bias_term": False}
        fields["weight_filler"] = {"type": "bilinear"}
        n[name] = L.Deconvolution(bottom, convolution_param=fields, param=[{"lr_mult": 0, "decay_mult": 0}])
        return n[name]

    def score(name: str, bottom: Top, reference: Top, offset: int) -> Top:
        """Scores of an earlier pool, cropped to the reference."""
        scores = conv(n, f"score_{name}", bottom, classes, 1)
        n[f"score_{name}c"] = L.Crop(scores, reference, crop_param={"axis": 2, "offset": offset})
        return n[f"score_{name}c"]

    top = max_pool(n, "pool5", body["conv5_3"], 2, 2)
    for number, kernel in ((6, 7), (7, 1)):
        top = conv(n, f"fc{number}", top, 4096, kernel, f"relu{number}")
        n[f"drop{number}"] = L.Dropout(top, dropout_ratio=0.5, in_place=True)
        top = n[f"drop{number}"]
    top = up("upscore2", conv(n, "score_fr", top, classes, 1), 4, 2)
    n.fuse_pool4 = L.Eltwise(top, score("pool4", body["pool4"], top, 5))
    top = up("upscore_pool4", n.fuse_pool4, 4, 2)
    n.fuse_pool3 = L.Eltwise(top, score("pool3", body["pool3"], top, 9))
    top = up("upscore8", n.fuse_pool3, 16, 8)
    n.score = L.Crop(top, n.data, crop_param={"axis": 2, "offset": 31})
    n.loss = L.SoftmaxWithLoss(n.score, n.label, loss_param={"normalize": False, "ignore_label": 255})
    return n


def lrcn() -> NetSpec:
    """Donahue et al., 2015: a caption, word by word, of an image's features. 20 steps of 2 streams."""
    n, words, steps, streams = NetSpec(), 8801, 20, 2
    sequence = [steps, streams]
    inputs(n, cont_sentence=sequence, input_sentence=sequence, target_sentence=sequence, image_features=[streams, 4096])
    law = {"type": "uniform", "min": -0.08, "max": 0.08}
    lstm = {"num_output": 1000, "weight_filler": law, "bias_filler": {"type": "constant", "value": 0}}
    n.embedded = L.Embed(n.input_sentence, input_dim=words, num_output=1000, bias_term=False, weight_filler=law)
    n.lstm1 = L.LSTM(n.embedded, n.cont_sentence, recurrent_param=lstm)
    n.lstm2 = L.LSTM(n.lstm1, n.cont_sentence, n.image_features, recurrent_param=lstm)
    n.predict = L.InnerProduct(n.lstm2, num_output=words, axis=2, weight_filler=law)
    n.loss = L.SoftmaxWithLoss(
        n.predict, n.target_sentence, loss_weight=steps, softmax_param={"axis": 2}, loss_param={"ignore_label": -1}
    )
    n.accuracy = L.Accuracy(n.predict, n.target_sentence, axis=2, ignore_label=-1, include=TEST)
    return n


def siamese_mnist() -> NetSpec:
    """Hadsell et al., 2006, as Caffe's siamese example: two LeNets with shared parameters. data: pairs as channels."""
    n = NetSpec()
    inputs(n, pair_data=[64, 2, 28, 28], sim=[64])
    n.data, n.data_p = L.Slice(n.pair_data, slice_param={"slice_dim": 1, "slice_point": [1]}, ntop=2)

    def shared(name: str) -> list[dict]:
        return [{"name": f"{name}_w", "lr_mult": 1}, {"name": f"{name}_b", "lr_mult": 2}]

    def tower(top: Top, suffix: str) -> Top:
        filler = {"weight_filler": {"type": "xavier"}}
        for i, outputs in ((1, 20), (2, 50)):
            name = f"conv{i}"
            top = conv(n, name + suffix, top, outputs, 5, stride=1, param=shared(name))
            top = max_pool(n, f"pool{i}{suffix}", top, 2, 2)
        for name, outputs in (("ip1", 500), ("ip2", 10), ("feat", 2)):
            n[name + suffix] = L.InnerProduct(top, num_output=outputs, param=shared(name), **filler)
            top = n[name + suffix]
            if name == "ip1":
                top = n[f"relu1{suffix}"] = L.ReLU(top, in_place=True)
        return top

    n.loss = L.ContrastiveLoss(tower(n.data, ""), tower(n.data_p, "_p"), n.sim, margin=1)
    return n


NETS: dict[str, Callable[[], NetSpec]] = {
    "alexnet": alexnet,
    "googlenet": googlenet,
    "vgg16": vgg16,
    "resnet50": lambda: resnet((3, 4, 6, 3)),
    "resnet101": lambda: resnet((3, 4, 23, 3)),
    "resnet152": lambda: resnet((3, 8, 36, 3)),
    "inception_resnet_v2": inception_resnet_v2,
    "ssd300": ssd300,
    "fcn8s": fcn8s,
    "lrcn": lrcn,
    "siamese_mnist": siamese_mnist,
}


def text_of(name: str) -> str:
    """The net's prototxt."""
    return f'name: "{name}"\n{to_text(NETS[name]().to_proto())}'


if __name__ == "__main__":
    for net in NETS:
        Path(__file__).with_name(f"{net}.prototxt").write_text(text_of(net))

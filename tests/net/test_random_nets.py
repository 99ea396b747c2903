"""Nets drawn at random: a training's iteration, fused and channels_last, beside Caffe's way, layer by layer."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch

from pysolver.context import Context
from pysolver.errors import CaffeError
from pysolver.net.net import Net
from pysolver.proto import caffe_pb2
from pysolver.proto.text import parse_text

QUIET = Context(listener=lambda event: None)
DATA = """layer {{ name: 'in' type: 'Input' top: 'x' top: 'y' top: 'label' input_param {{
    shape {{ dim: 4 dim: {channels} dim: 9 dim: 8 }} shape {{ dim: 4 dim: {channels} dim: 9 dim: 8 }}
    shape {{ dim: 4 }} }} }}"""
FILLERS = "weight_filler { type: 'gaussian' std: 0.4 } bias_filler { type: 'gaussian' std: 0.2 }"
SCALE = "filler { type: 'uniform' min: 0.5 max: 2 } bias_filler { type: 'gaussian' std: 0.2 }"
IN_PLACE = ("ReLU", "ELU", "Sigmoid", "TanH", "Dropout", "PReLU", "BatchNorm", "Scale", "Bias", "Power")
CHOICES = {  # type -> its parameters, one of which is drawn; what fuses comes more often
    "Convolution": [f"convolution_param {{ num_output: {outputs} kernel_size: 3 pad: 1 {more} {FILLERS} }}"
                    for outputs in (1, 4) for more in ("", "stride: 2", "bias_term: false")],
    "Deconvolution": [f"convolution_param {{ num_output: 4 kernel_size: 3 stride: 2 {FILLERS} }}"],
    "InnerProduct": [f"inner_product_param {{ num_output: 4 {more} {FILLERS} }}" for more in ("", "axis: -1")],
    "Pooling": [f"pooling_param {{ pool: {pool} kernel_size: 3 stride: 2 {more} }}" for pool in ("MAX", "AVE")
                for more in ("", "pad: 1")],
    "BatchNorm": ["", "batch_norm_param { use_global_stats: true }", "batch_norm_param { eps: 0.1 }",
                  f"batch_norm_param {{ scale_bias: true scale_{SCALE} }}"],
    "Scale": [f"scale_param {{ {more} {SCALE} }}"
              for more in ("bias_term: true", "bias_term: true", "", "axis: -1", "num_axes: 0")],
    "Bias": ["bias_param { filler { type: 'gaussian' } }"],
    "ReLU": ["", "relu_param { negative_slope: 0.1 }", "relu_param { negative_slope: -0.3 }"],
    "Eltwise": ["", "eltwise_param { coeff: 2 coeff: 0.3 }", "eltwise_param { coeff: 0.5 coeff: -1 }",
                "eltwise_param { operation: MAX }", "eltwise_param { operation: PROD }"],
    "LRN": ["lrn_param { local_size: 3 alpha: 0.5 }", "lrn_param { local_size: 3 norm_region: WITHIN_CHANNEL }"],
    "Power": ["power_param { scale: 0.5 shift: 1 }", "power_param { power: 2 }"],
    "Slice": ["slice_param { axis: 0 }"],
    "Dropout": ["dropout_param { dropout_ratio: 0 }"],
    **dict.fromkeys(("Concat", "Split", "PReLU", "ELU", "Sigmoid", "TanH", "AbsVal", "Flatten", "Softmax"), [""]),
    "MVN": [""],
}  # fmt: skip
CHAINS = (  # what is fused stands like this; half of the layers come in such a row
    ("Convolution", "BatchNorm", "Scale", "ReLU"),
    ("Convolution", "ReLU", "Pooling"),
    ("BatchNorm", "Scale", "Eltwise", "ReLU"),
    ("BatchNorm", "Scale"),
    ("Split", "Eltwise"),
    ("Split", "Split", "Eltwise"),
    ("Convolution", "Eltwise"),
    ("InnerProduct", "Eltwise", "ReLU"),
    ("InnerProduct", "ReLU"),
    ("Sigmoid", "ReLU"),
    ("TanH", "Eltwise"),
    ("Flatten", "ReLU"),
)
CUT = {1: "propagate_down: false", 2: "propagate_down: false propagate_down: true"}  # of what others read, too
SHARED = ("Convolution", "InnerProduct", "Scale")


def net_of(text: str) -> Net:
    param = parse_text(text, caffe_pb2.NetParameter)
    param.state.phase = caffe_pb2.TRAIN
    return Net(param, QUIET)


def fits(text: str) -> bool:
    try:
        net_of(text)
    except CaffeError:
        return False
    return True


def grown(draw: random.Random) -> str:
    """Some layers, each on one or two of the last blobs, where it fits; then losses on most of what nobody reads."""
    text, blobs, read = DATA.format(channels=draw.choice([1, 3])), ["x", "y"], set()
    if draw.random() < 0.3:
        text = "force_backward: true " + text
    for number, (kind, goes_on) in enumerate(_kinds(draw)):
        bottoms = [blobs[-1] if goes_on else draw.choice(blobs[-3:])]
        if kind in ("Eltwise", "Concat"):
            bottoms.insert(draw.choice([0, 1]), draw.choice(blobs[-3:]))
        is_in_place = kind in IN_PLACE and bottoms[0] not in ("x", "y") and draw.random() < 0.6
        tops = bottoms[:1] if is_in_place else [f"b{number}"]
        if kind in ("Slice", "Split"):
            tops.append(f"c{number}")
        extras = CUT[len(bottoms)] if read & set(bottoms) and draw.random() < 0.3 else _extras(draw, kind, is_in_place)
        longer = text + layer(kind, bottoms, tops, f"l{number}", draw.choice(CHOICES[kind]), extras)
        if fits(longer):
            text = longer
            blobs += [top for top in tops if top not in blobs]
            read = read.union(bottoms).difference(tops)
    return text + _losses(draw, text)


def _kinds(draw: random.Random) -> Iterator[tuple[str, bool]]:
    """Types of layers, and whether each reads what the one before it made."""
    for _ in range(draw.randint(4, 7)):
        chain = draw.choice(CHAINS) if draw.random() < 0.5 else (draw.choice(list(CHOICES)),)
        yield from ((kind, place > 0) for place, kind in enumerate(chain))


def layer(kind: str, bottoms: list[str], tops: list[str], name: str, *more: str) -> str:
    ends = " ".join([*(f"bottom: '{bottom}'" for bottom in bottoms), *(f"top: '{top}'" for top in tops)])
    return f"\nlayer {{ name: '{name}' type: '{kind}' {ends} {' '.join(more)} }}"


def _extras(draw: random.Random, kind: str, is_in_place: bool) -> str:
    """Now and then: a weight for the loss, shared or frozen parameters.

    No weight in place: Caffe keeps it in the top's diff, which is the bottom's as well, and so lost after one backward.
    """
    chance = draw.random()
    if chance < 0.12 and not is_in_place:
        return "loss_weight: 0.01" + (" loss_weight: 0" if kind in ("Slice", "Split") else "")
    if chance < 0.22 and kind in SHARED:
        return f"param {{ name: '{kind}' share_mode: PERMISSIVE }}"
    return "param { lr_mult: 0 }" if chance < 0.28 and kind in SHARED else ""


def _losses(draw: random.Random, text: str) -> str:
    """A loss on each output but, now and then, one."""
    outputs, added = net_of(text).outputs, ""
    for number, name in enumerate(outputs):
        if name == "label" or "_split_" in name or (number and draw.random() < 0.2):
            continue
        score, loss = f"s{number}", f"loss{number}"
        product = layer("InnerProduct", [name], [score], score, CHOICES["InnerProduct"][0])
        kinds = [product + layer(kind, [score, "label"], [loss], loss) for kind in ("SoftmaxWithLoss", "HingeLoss")]
        kinds += [layer("EuclideanLoss", [name, draw.choice(outputs)], [loss], loss)]
        always = layer("Reduction", [name], [loss], loss, "loss_weight: 0.1 reduction_param { operation: SUMSQ }")
        chosen = draw.choice(kinds)
        added += chosen if fits(text + added + chosen) else always
    return added


def prepared(text: str, seed: int, dtype: torch.dtype) -> Net:
    """The net with parameters and a batch in this precision, the same for the same seed."""
    torch.manual_seed(seed)
    net = net_of(text)
    for slot in net.parameters.slots:
        slot.blob.grad, owner = None, slot.blob if slot.owner is None else net.learnable_params[slot.owner]
        if slot.owner is None:
            owner.data = owner.data.to(dtype)
            owner.grad = torch.zeros_like(owner, requires_grad=False)
        else:
            slot.blob.data, slot.blob.grad = owner.data.view_as(slot.blob), owner.grad.view_as(slot.blob)
    for name in ("x", "y"):
        net.blobs[name].value = torch.randn(net.blobs[name].shape, dtype=torch.float64).to(dtype)
    net.blobs["label"].value = torch.tensor([0, 3, 1, 2], dtype=dtype)
    return net


def calls(net: Net) -> list[str]:
    return [getattr(step.call, "__name__", type(step.call).__name__) for step in net.function.plan]


def compare(seed: int) -> Net:
    """Two iterations each; double precision, so that nothing rounds over the kink of a ReLU or the tie of a maximum."""
    draw = random.Random(seed)
    text = grown(draw)
    net, caffe = prepared(text, seed, torch.float64), prepared(text, seed, torch.float64)
    shown = draw.sample(sorted(net.blobs), draw.choice([0, 0, 2, len(net.blobs) // 2]))
    for name in shown:
        net.blobs[name].data  # noqa: B018  somebody looks at it
    losses = []
    for _ in range(2):
        losses.append(caffe.forward())
        caffe.backward()
        assert float(net.forward_backward()) == pytest.approx(losses[-1], rel=1e-9), text
    pairs = [(f"blob {name}", net.blobs[name].value, caffe.blobs[name].value) for name in {*shown, *net.outputs}]
    for number, (mine, theirs) in enumerate(zip(net.learnable_params, caffe.learnable_params, strict=True)):
        pairs += [(f"diff {number}", mine.grad, theirs.grad), (f"parameter {number}", mine.data, theirs.data)]
    for what, found, expected in pairs:
        digits = 1e-6 if found.dtype == torch.float32 else 1e-9  # a blob that is shown is single
        scale = expected.abs().max().clamp(min=1)
        assert (found - expected).abs().max() <= digits * scale, f"{what} {found} {expected}{text}"
    single = prepared(text, seed, torch.float32)
    assert float(single.forward_backward()) == pytest.approx(losses[0], rel=1e-3, abs=1e-5), text
    return net


def test_a_handful():
    """Every fusion is met in them."""
    nets = [compare(seed) for seed in range(26)]
    found = [call for net in nets for call in calls(net)]
    assert {"_AffineNorm", "overwrite"} <= set(found)
    assert any("Split" in (layer.type_name for layer in net.layers) and "Split" not in calls(net) for net in nets)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(26, 86))
def test_sixty_more(seed: int):
    compare(seed)

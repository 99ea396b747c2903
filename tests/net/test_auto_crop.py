"""AutoCrop against the offsets that FCN's crops have, and against where a pixel goes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pysolver.errors import CaffeError
from pysolver.net.auto_crop import set_offsets
from pysolver.net.net import Net
from pysolver.proto.caffe_pb2 import NetParameter
from pysolver.proto.text import parse_text


def net_of(layers: str, size: int = 40) -> Net:
    head = (
        f'layer {{ name: "in" type: "Input" top: "x" input_param {{ shape {{ dim: [1, 1, {size}, {size + 4}] }} }} }}'
    )
    return Net(parse_text(f"{head} {layers} state {{ phase: TEST }}", NetParameter))


def weights_of(net: Net, name: str) -> torch.nn.Parameter:
    return next(node.layer for node in net.nodes if node.layer.name == name).blobs[0]


def seen(net: Net, x: torch.Tensor) -> torch.Tensor:
    net.blobs["x"].value = x.contiguous()
    net.forward()
    return net.blobs["y"].value.detach().clone()


def layer(kind: str, bottom: str, top: str, fields: str = "") -> str:
    bottoms = " ".join(f'bottom: "{name}"' for name in bottom.split())
    return f'layer {{ name: "{top}" type: "{kind}" {bottoms} top: "{top}" {fields} }}'


def fcn(last_stride: int, kernel: int) -> str:
    """FCN's way down, five times half the size from a pad of 100, and back up at once."""
    text, name = "", "x"
    for number in range(5):
        pad = 100 if number == 0 else 1
        text += layer(
            "Convolution", name, f"c{number}", f"convolution_param {{ num_output: 1 kernel_size: 3 pad: {pad} }}"
        )
        text += layer("ReLU", f"c{number}", f"c{number}").replace(f'name: "c{number}"', f'name: "r{number}"')
        text += layer("Pooling", f"c{number}", f"p{number}", "pooling_param { pool: MAX kernel_size: 2 stride: 2 }")
        name = f"p{number}"
    text += layer("Convolution", name, "fc", "convolution_param { num_output: 1 kernel_size: 7 }")
    up = f"convolution_param {{ num_output: 1 kernel_size: {kernel} stride: {last_stride} }}"
    return text + layer("Deconvolution", "fc", "up", up) + layer("AutoCrop", "up x", "y")


def test_fcn_32s():
    """shelhamer/fcn.berkeleyvision.org has `offset: 19` there."""
    net = parse_text(fcn(32, 64), NetParameter)
    set_offsets(net)
    assert list(net.layer[-1].crop_param.offset) == [19, 19]
    assert net_of(fcn(32, 64), 64).blobs["y"].shape == (1, 1, 64, 68)


@pytest.mark.parametrize("kernel, stride, pad, up", [(3, 2, 1, 5), (2, 2, 0, 2), (5, 3, 1, 7), (4, 2, 2, 4)])
def test_where_a_pixel_goes(kernel, stride, pad, up):
    """Down by a mean over a window and up by another: a pixel's mark is centred on it."""
    down = f"convolution_param {{ num_output: 1 kernel_size: {kernel} stride: {stride} pad: {pad} bias_term: false }}"
    back = f"convolution_param {{ num_output: 1 kernel_size: {up} stride: {stride} bias_term: false }}"
    net = net_of(
        layer("Convolution", "x", "a", down) + layer("Deconvolution", "a", "b", back) + layer("AutoCrop", "b x", "y")
    )
    for name in "ab":
        weights_of(net, name).data.fill_(1)
    x = torch.arange(40.0)[:, None] + torch.arange(44.0)
    x = x.expand(1, 1, 40, 44)
    # A linear image, seen through windows of one sum, stays linear: its slope says nothing, its place does.
    mean = seen(net, x) / seen(net, torch.ones_like(x))
    inner = (slice(None), slice(None), slice(12, -12), slice(12, -12))
    # A pixel beside it would be 1 more; what is left comes from windows that are not cut whole.
    np.testing.assert_allclose((mean - x)[inner].mean(), 0, atol=0.3)


def test_what_does_not_fit():
    half = "pooling_param { pool: MAX kernel_size: 2 stride: 2 }"
    with pytest.raises(CaffeError, match=r"layer 'y' \(AutoCrop\): position x of 'a' is 2 x \+ 1/2 of 'x'"):
        net_of(layer("Pooling", "x", "a", half) + layer("AutoCrop", "a x", "y"))
    with pytest.raises(CaffeError, match=r"layer 'a' \(Flatten\) mixes positions"):
        net_of(layer("Flatten", "x", "a") + layer("AutoCrop", "a x", "y"))
    other = 'layer { name: "o" type: "Input" top: "o" input_param { shape { dim: [1, 1, 4, 4] } } }'
    with pytest.raises(CaffeError, match="'x' and 'o' have no blob in common below"):
        net_of(other + layer("AutoCrop", "x o", "y"))
    ring = layer("ReLU", "b", "a") + layer("ReLU", "a", "b") + layer("AutoCrop", "a x", "y")
    with pytest.raises(CaffeError, match="no blob in common|Unknown bottom"):
        net_of(ring)


def test_each_axis_has_its_own():
    """kernel_h and kernel_w, and a Crop on the way."""
    wide = "convolution_param { num_output: 1 kernel_h: 3 kernel_w: 5 stride: 1 bias_term: false }"
    cut = "crop_param { axis: 2 offset: 2 offset: 0 }"
    text = layer("Deconvolution", "x", "a", wide) + layer("Crop", "a x", "b", cut)
    with pytest.raises(CaffeError, match="position x of 'x' is 1 x [+] 2 of 'b'"):  # it lies outside, along the rows
        net_of(text + layer("AutoCrop", "x b", "y"))
    net = net_of(layer("Deconvolution", "x", "a", wide) + layer("AutoCrop", "a x", "y"))
    weights_of(net, "a").data.fill_(0)[0, 0, 1, 2] = 1  # the middle: the image moved by (1, 2)
    x = torch.randn(1, 1, 40, 44)
    assert torch.equal(seen(net, x), x)

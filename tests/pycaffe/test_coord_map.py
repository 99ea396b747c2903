"""Coordinate maps against the offsets of published nets and against a brute-force receptive field."""

from __future__ import annotations

import numpy as np
import pytest

from pysolver.proto.net_spec import layers as L
from pysolver.pycaffe.coord_map import (
    AxisMismatchException,
    UndefinedMapException,
    coord_map,
    coord_map_from_to,
    crop,
)


def _vgg_pools(pad: int):
    """The five poolings of VGG16, with `pad` at the first convolution."""
    data = L.Input(shape=dict(dim=[1, 3, 500, 500]))
    top, pools = data, []
    for convolutions in (2, 2, 3, 3, 3):
        for _ in range(convolutions):
            top = L.ReLU(L.Convolution(top, kernel_size=3, pad=pad), in_place=True)
            pad = 1
        top = L.Pooling(top, kernel_size=2, stride=2)
        pools.append(top)
    return data, pools


def _score(top):
    return L.Convolution(L.Dropout(L.Convolution(L.Convolution(top, kernel_size=7), kernel_size=1)), kernel_size=1)


def _offset(top):
    return list(top.fn.params["crop_param"]["offset"])


def test_offsets_of_the_fully_convolutional_nets():
    """Long, Shelhamer, Darrell 2015: the published FCN-32s, 16s and 8s crop their scores at 19, 27 and 31."""
    data, (_, _, pool3, pool4, pool5) = _vgg_pools(pad=100)
    score = _score(pool5)
    assert _offset(crop(L.Deconvolution(score, convolution_param=dict(kernel_size=64, stride=32)), data)) == [19]

    up2 = L.Deconvolution(score, convolution_param=dict(kernel_size=4, stride=2))
    score4 = crop(L.Convolution(pool4, kernel_size=1), up2)
    assert _offset(score4) == [5]
    fused = L.Eltwise(up2, score4)
    assert _offset(crop(L.Deconvolution(fused, convolution_param=dict(kernel_size=32, stride=16)), data)) == [27]

    up4 = L.Deconvolution(fused, convolution_param=dict(kernel_size=4, stride=2))
    score3 = crop(L.Convolution(pool3, kernel_size=1), up4)
    assert _offset(score3) == [9]
    fused = L.Eltwise(up4, score3)
    assert _offset(crop(L.Deconvolution(fused, convolution_param=dict(kernel_size=16, stride=8)), data)) == [31]


@pytest.mark.parametrize(
    ("kernel", "stride", "pad", "dilation"), [(3, 1, 0, 1), (5, 2, 1, 1), (3, 3, 2, 4), (1, 2, 0, 1)]
)
def test_a_position_maps_to_the_centre_of_its_window(kernel, stride, pad, dilation):
    data = L.Input()
    top = L.Convolution(data, kernel_size=kernel, stride=stride, pad=pad, dilation=dilation)
    axis, scale, shift = coord_map_from_to(top, data)
    assert axis == 1
    for position in range(4):
        window = position * stride - pad + dilation * np.arange(kernel)
        assert scale * position + shift == pytest.approx(window.mean())


def test_each_spatial_axis_has_its_own_map():
    data = L.Input()
    top = L.Convolution(data, kernel_size=[3, 5, 1], stride=[1, 2, 1], pad=[0, 1, 2])
    _, scale, shift = coord_map_from_to(top, data)
    assert scale.tolist() == [1, 2, 1] and shift.tolist() == [1, 1, -2]


def test_crop_layer_and_elementwise_layers():
    data, shape = L.Input(ntop=2)
    cropped = L.Crop(L.Convolution(data, kernel_size=3, pad=1), shape, axis=2, offset=7)
    axis, scale, shift = coord_map_from_to(L.ReLU(cropped), data)
    assert (axis, scale.tolist(), shift.tolist()) == (1, [1], [7])
    with pytest.raises(RuntimeError, match="no common ancestor"):  # the second bottom only lends its size
        coord_map_from_to(cropped, shape)
    assert tuple(coord_map(L.BatchNorm(data).fn)) == (None, 1, 0)
    assert _offset(crop(L.ReLU(data), data)) == [0]


def test_what_has_no_map():
    data = L.Input()
    dense = L.InnerProduct(data, num_output=3)
    with pytest.raises(UndefinedMapException):
        coord_map(dense.fn)
    with pytest.raises(RuntimeError, match="no common ancestor"):
        coord_map_from_to(dense, data)
    with pytest.raises(AssertionError, match="scales"):
        crop(L.Pooling(data, kernel_size=2, stride=2), data)
    with pytest.raises(AssertionError, match="outside"):
        crop(L.Deconvolution(data, kernel_size=3, pad=2), data)
    with pytest.raises(AssertionError, match="whole"):
        crop(L.Deconvolution(L.Pooling(data, kernel_size=2, stride=2), kernel_size=3, stride=2), data)
    with pytest.raises(AssertionError, match="pad_h"):
        coord_map(L.Pooling(data, kernel_size=2, pad_h=1).fn)
    with pytest.raises(AxisMismatchException):
        coord_map_from_to(L.Convolution(L.Convolution(data, kernel_size=1), kernel_size=1, axis=2), data)

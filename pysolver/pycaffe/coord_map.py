"""caffe.coord_map: how positions in one top of a NetSpec relate to positions in another (python/caffe/coord_map.py)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pysolver.proto.net_spec import Function, Top, layers

PASS_THROUGH_LAYERS = [
    *("AbsVal", "BatchNorm", "Bias", "BNLL", "Clip", "Dropout", "Eltwise", "ELU", "Exp", "Log", "LRN", "MVN", "Power"),
    *("PReLU", "ReLU", "Scale", "Sigmoid", "Split", "Swish", "TanH", "Threshold"),
]


class UndefinedMapException(Exception):
    """The layer mixes positions: its tops have no coordinates in its bottoms."""


class AxisMismatchException(Exception):
    """Two layers on the way have their first spatial axis at different places."""


class CoordMap(NamedTuple):
    """Position x of a bottom is position scale * x + shift of the top; numbers or one number a spatial axis.

    axis: the axis before the first spatial one; None for layers that work element by element.
    """

    axis: int | None
    scale: Any
    shift: Any


IDENTITY = CoordMap(None, 1, 0)


def compose(base_map: CoordMap, next_map: CoordMap) -> CoordMap:
    """First next_map, then base_map."""
    axis, scale, shift = base_map
    next_axis, next_scale, next_shift = next_map
    if None not in (axis, next_axis) and axis != next_axis:
        raise AxisMismatchException(f"spatial axes start after axis {axis} and after axis {next_axis}")
    return CoordMap(next_axis if axis is None else axis, scale * next_scale, scale * next_shift + shift)


def inverse(map_: CoordMap) -> CoordMap:
    """From positions of the top to positions of the bottom."""
    axis, scale, shift = map_
    return CoordMap(axis, 1 / scale, -shift / scale)


def coord_map(fn: Function) -> CoordMap:
    """The map of a layer from its bottom to its top."""
    if fn.type_name in PASS_THROUGH_LAYERS:
        return IDENTITY
    if fn.type_name == "Crop":
        params = fn.params.get("crop_param", fn.params)
        return CoordMap(params.get("axis", 2) - 1, 1, -np.atleast_1d(params.get("offset", 0)))
    if fn.type_name not in ("Convolution", "Deconvolution", "Im2col", "Pooling"):
        raise UndefinedMapException(fn.type_name)
    axis, stride, kernel, pad = _window(fn)
    if fn.type_name == "Deconvolution":
        return CoordMap(axis, stride, (kernel - 1) / 2 - pad)
    return CoordMap(axis, 1 / stride, (pad - (kernel - 1) / 2) / stride)


def _window(fn: Function) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """Axis, stride, extent (dilation included) and padding of a sliding window."""
    field = "pooling_param" if fn.type_name == "Pooling" else "convolution_param"
    params = fn.params.get(field, fn.params)
    separate = {f"{name}_{side}" for name in ("kernel", "stride", "pad") for side in "hw"} & set(params)
    assert not separate, f"{fn.type_name}: coordinates need kernel_size, stride and pad, not {', '.join(separate)}"
    assert "kernel_size" in params, f"{fn.type_name}: coordinates need a kernel_size"
    kernel, stride, pad, dilation = (
        np.atleast_1d(params.get(name, default))
        for name, default in (("kernel_size", 1), ("stride", 1), ("pad", 0), ("dilation", 1))
    )
    return params.get("axis", 1), stride, (kernel - 1) * dilation + 1, pad


def _maps_to(top: Top) -> dict[Top, CoordMap]:
    """For each ancestor with coordinates, nearest first: the map from it to `top`."""
    maps = {top: IDENTITY}
    open_tops = [top]
    for current in open_tops:  # grows while it is walked
        fn = current.fn
        bottoms = fn.inputs[:1] if fn.type_name == "Crop" else fn.inputs  # the second only lends its size
        try:
            step = coord_map(fn) if bottoms else IDENTITY
        except UndefinedMapException:
            continue
        for bottom in bottoms:
            if bottom not in maps:
                maps[bottom] = compose(maps[current], step)
                open_tops.append(bottom)
    return maps


def coord_map_from_to(top_from: Top, top_to: Top) -> CoordMap:
    """The map from positions of top_from to positions of top_to, by way of a common ancestor."""
    from_maps = _maps_to(top_from)
    for ancestor, to_map in _maps_to(top_to).items():
        if ancestor in from_maps:
            return compose(to_map, inverse(from_maps[ancestor]))
    raise RuntimeError("the two tops have no common ancestor by way of layers that keep coordinates")


def crop(top_from: Top, top_to: Top) -> Top:
    """A Crop layer that cuts top_from to the place and size of top_to."""
    axis, scale, shift = coord_map_from_to(top_from, top_to)
    assert np.all(np.equal(scale, 1)), f"a crop needs equal scales, here they differ by {scale}"
    assert np.all(np.less_equal(shift, 0)), f"a crop cannot start outside: offset {-np.asarray(shift)}"
    assert np.all(np.equal(np.round(shift), shift)), f"a crop starts at a whole position, not {-np.asarray(shift)}"
    offset = [int(value) for value in np.atleast_1d(-np.round(shift))]
    return layers.Crop(top_from, top_to, crop_param=dict(axis=1 + (1 if axis is None else axis), offset=offset))

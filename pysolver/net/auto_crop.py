"""Where AutoCrop cuts: so that its top lies on its second bottom, by the windows of the layers between (RCF,
auto_crop_layer.cpp and coords.hpp)."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple

from pysolver.errors import CaffeError
from pysolver.proto.caffe_pb2 import LayerParameter, NetParameter

# Their tops have the coordinates of their first bottom.
_SAME_PLACES = {
    *("AbsVal", "BNLL", "BatchNorm", "Bias", "Clip", "Concat", "Dropout", "ELU", "Eltwise", "Exp", "LRN", "Log", "MVN"),
    *("Mish", "PReLU", "Power", "ReLU", "ReLU6", "Scale", "Sigmoid", "Split", "Swish", "TanH", "Threshold"),
}


class _Map(NamedTuple):
    """Position x of a bottom is position scale x + shift of the top, along one axis."""

    scale: Fraction = Fraction(1)
    shift: Fraction = Fraction(0)

    def after(self, first: _Map) -> _Map:
        return _Map(self.scale * first.scale, self.scale * first.shift + self.shift)

    def inverse(self) -> _Map:
        return _Map(1 / self.scale, -self.shift / self.scale)


def set_offsets(net: NetParameter) -> None:
    """Write the crop_param.offset of every AutoCrop layer, in the net itself.

    Raises CaffeError if its bottoms have nothing in common, other scales, or no whole number of pixels between them.
    """
    makers: dict[str, LayerParameter] = {}  # the first layer that makes a blob: those in place keep its coordinates
    for layer in net.layer:
        if layer.type == "AutoCrop" and len(layer.bottom) == 2:
            layer.crop_param.axis = 2
            del layer.crop_param.offset[:]
            layer.crop_param.offset.extend(_offset(layer, makers, axis) for axis in (0, 1))
        for name in layer.top:
            makers.setdefault(name, layer)


def _offset(layer: LayerParameter, makers: dict[str, LayerParameter], axis: int) -> int:
    about = f"layer '{layer.name}' (AutoCrop)"
    below = dict(_down(layer.bottom[0], makers, axis))
    for name, way in _down(layer.bottom[1], makers, axis):
        if name in below:
            scale, shift = way.after(below[name].inverse())
            if scale != 1 or shift > 0 or shift.denominator != 1:
                raise CaffeError(
                    f"{about}: position x of '{layer.bottom[0]}' is {scale} x + {shift} of '{layer.bottom[1]}': "
                    "it cuts a whole number of pixels, at one scale",
                    layer.name,
                )
            return -int(shift)
    raise CaffeError(f"{about}: '{layer.bottom[0]}' and '{layer.bottom[1]}' have no blob in common below", layer.name)


def _down(name: str, makers: dict[str, LayerParameter], axis: int) -> Iterator[tuple[str, _Map]]:
    """The blobs below, along first bottoms, and the maps from each of them to this one."""
    way, seen = _Map(), set()
    yield name, way
    while name in makers and makers[name].bottom and name not in seen:
        seen.add(name)
        maker = makers[name]
        way, name = way.after(_step(maker, axis)), maker.bottom[0]
        yield name, way


def _step(layer: LayerParameter, axis: int) -> _Map:
    if layer.type in _SAME_PLACES:
        return _Map()
    if layer.type in ("Crop", "AutoCrop"):
        offsets = list(layer.crop_param.offset) or [0]
        return _Map(shift=Fraction(-offsets[-1 if axis else -2 if len(offsets) > 1 else 0]))
    if layer.type not in ("Convolution", "Deconvolution", "Im2col", "Pooling"):
        raise CaffeError(
            f"layer '{layer.name}' ({layer.type}) mixes positions: AutoCrop cannot cut across it", layer.name
        )
    kernel, stride, pad, dilation = _window(layer, axis)
    shift = Fraction((kernel - 1) * dilation, 2) - pad
    upwards = _Map(Fraction(stride), shift)
    return upwards if layer.type == "Deconvolution" else upwards.inverse()


def _window(layer: LayerParameter, axis: int) -> tuple[int, int, int, int]:
    p: Any = layer.pooling_param if layer.type == "Pooling" else layer.convolution_param
    values = []
    for field, short, default in (("kernel_size", "kernel", 1), ("stride", "stride", 1), ("pad", "pad", 0)):
        given = getattr(p, field)
        if p.HasField(f"{short}_h") or p.HasField(f"{short}_w"):
            given = getattr(p, f"{short}_{'hw'[axis]}")
        elif layer.type != "Pooling":
            given = [*given, *given][axis] if given else default
        values.append(given)
    if min(values[:2]) <= 0:
        raise CaffeError(f"layer '{layer.name}' ({layer.type}): AutoCrop needs its kernel and stride", layer.name)
    dilations = [1] if layer.type == "Pooling" else list(p.dilation) or [1]
    return values[0], values[1], values[2], dilations[min(axis, len(dilations) - 1)]

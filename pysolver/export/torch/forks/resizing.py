"""Interp of DeepLab and PSPNet, Upsample of SegNet and of YOLO nets."""

from __future__ import annotations

from pysolver.export.torch.source import Writer, writes
from pysolver.layers.forks import resizing as layers


@writes("Interp")
def interp(w: Writer, layer: layers.Interp, x: str, reference: str | None = None) -> str:
    begin, end = layer.pads
    if begin or end:
        x = f"F.pad({x}, {layer.pads * 2!r})"
    return f'F.interpolate({x}, {w.tops[0][2:]!r}, mode="bilinear", align_corners=True)'


@writes("Upsample")
def upsample(w: Writer, layer: layers.Upsample, x: str, mask: str | None = None) -> str:
    bottom, top = w.bottoms[0], w.tops[0]
    if mask is not None:
        return f"F.max_unpool2d({x}, {mask}.long(), 1, output_size={top[2:]!r})"
    rows, columns = layer.scale
    y = f"{x}.repeat_interleave({rows}, 2).repeat_interleave({columns}, 3)"
    return y if (bottom[2] * rows, bottom[3] * columns) == top[2:] else f"{y}[:, :, :{top[2]}, :{top[3]}]"

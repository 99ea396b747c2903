"""Convolution3D, Deconvolution3D and Pooling3D of C3D."""

from __future__ import annotations

from pysolver.export.torch.convolution import convolution, deconvolution, short
from pysolver.export.torch.source import Writer, writes
from pysolver.layers.forks import volumes as layers

writes("Convolution3D")(convolution)
writes("Deconvolution3D")(deconvolution)


@writes("Pooling3D")
def pooling3d(w: Writer, layer: layers.Pooling3D, x: str) -> str:
    size = w.bottoms[0][2:]
    axes = list(zip(size, layer.counts(size), layer.kernel, layer.stride, layer.pad, strict=True))
    if any((count - 1) * stride >= length + pad for length, count, _, stride, pad in axes):
        w.cannot("torch drops a window that starts behind the volume, Pooling3D keeps it")
    is_up = any(count > (length + 2 * pad - kernel) // stride + 1 for length, count, kernel, stride, pad in axes)
    parts = [short(layer.kernel), f"stride={short(layer.stride)}"]
    parts += [f"padding={short(layer.pad)}"] if any(layer.pad) else []
    parts += ["ceil_mode=True"] if is_up else []
    module = w.module(f"nn.{'Max' if layer.is_max else 'Avg'}Pool3d({', '.join(parts)})")
    return f"{module}({x})"

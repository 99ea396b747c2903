"""How each layer type is written in ONNX: one file a family, as in pysolver.layers. Importing registers them."""

from __future__ import annotations

from pysolver.export.onnx import (  # noqa: F401
    activations,
    affine,
    arithmetic,
    convolution,
    dense,
    forks,
    losses,
    normalisation,
    parameter,
    pooling,
    recurrent,
    shape,
)

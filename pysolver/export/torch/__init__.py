"""How each layer type is written in PyTorch: one file a family, as in pysolver.layers. Importing registers them."""

from __future__ import annotations

from pysolver.export.torch import (  # noqa: F401
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

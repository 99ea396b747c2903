"""All layer types, one file a family. Importing the package registers them.

The data layers, which read files, are in pysolver.data.
"""

from __future__ import annotations

from pysolver.layers import (  # noqa: F401
    accuracy,
    activations,
    affine,
    arithmetic,
    convolution,
    dense,
    ends,
    losses,
    normalisation,
    pooling,
    python_layer,
    recurrent,
    shape,
)

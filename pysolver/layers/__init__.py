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
    forks,
    hdf5_output,
    losses,
    normalisation,
    parameter,
    pooling,
    python_layer,
    recurrent,
    shape,
)


def __getattr__(name: str) -> object:
    """`from pysolver import layers as L; L.Convolution(...)`: pycaffe's language for writing nets, see NetSpec."""
    if not name[:1].isupper():
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from pysolver.proto.net_spec import layers

    return getattr(layers, name)

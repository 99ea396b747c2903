"""The one error that bad input raises."""

from __future__ import annotations


class CaffeError(RuntimeError):
    """What Caffe answers with a failed CHECK: one clear line that names file, layer and field.

    It is a RuntimeError because that is what pycaffe raises for a missing file.
    """

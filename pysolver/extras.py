"""Packages that only some calls need: imported when used, with an error that says what to install."""

from __future__ import annotations

import importlib
from types import ModuleType

from pysolver.errors import CaffeError

_EXTRA_OF = {
    "cv2": ("images", "opencv-python-headless"),
    "onnxruntime": ("export", "onnxruntime"),
    "distributed": ("dask", "dask and distributed"),
    "plotly": ("interactive", "plotly"),
    "plyvel": ("leveldb", "plyvel"),
    "pooch": ("download", "pooch"),
    "pydot": ("draw", "pydot"),
    "safetensors": ("export", "safetensors"),
    "scipy": ("images", "scipy"),
    "sklearn": ("digits", "scikit-learn"),
    "tensorboardX": ("tensorboard", "tensorboardX"),
}


class MissingPackage(CaffeError, ImportError):
    """An ImportError too, since that is what pycaffe scripts expect."""


def require(module: str) -> ModuleType:
    """The imported module. MissingPackage names the extra of pysolver that brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        extra, package = _EXTRA_OF[module.partition(".")[0]]
        raise MissingPackage(f"this needs {package}: pip install 'pysolver[{extra}]'") from error

"""Libraries that only some sources need: imported when used, with an error that says what to install."""

from __future__ import annotations

import importlib
from types import ModuleType

from pysolver.errors import CaffeError

_EXTRA_OF = {
    "cv2": ("images", "opencv-python-headless"),
    "pooch": ("download", "pooch"),
    "plyvel": ("leveldb", "plyvel"),
    "sklearn": ("digits", "scikit-learn"),
}


def require(module: str) -> ModuleType:
    """The imported module. Raises CaffeError naming the extra that brings it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        extra, package = _EXTRA_OF[module]
        raise CaffeError(f"this needs {package}: pip install 'pysolver[{extra}]'") from None

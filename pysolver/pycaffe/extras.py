"""Packages that only some calls need, imported by them."""

from __future__ import annotations

import importlib
from typing import Any

_EXTRA_OF = {"cv2": "images", "scipy.ndimage": "images", "pydot": "draw"}


def require(module: str) -> Any:
    """The module; ImportError says which extra of pysolver brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"this needs {module}: pip install 'pysolver[{_EXTRA_OF[module]}]'") from error

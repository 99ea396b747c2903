"""pysolver: Caffe's nets and solvers on PyTorch, its logs without it, and pycaffe's names for all of it.

`import pysolver as caffe` serves a pycaffe script. Names load at their first use, so that `import pysolver` and
`import pysolver.logs` need no torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "1.0.0"  # the Caffe whose interface this is: scripts compare it

_PACKAGES = ("layers", "proto")  # of our own, and names of pycaffe too: they serve both


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    return importlib.import_module(f"{__name__}.pycaffe").public(name, __name__)


def __dir__() -> list[str]:
    return sorted({*globals(), *importlib.import_module(f"{__name__}.pycaffe").__all__})

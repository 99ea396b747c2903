"""pycaffe's interface: what `import caffe` means here (python/caffe/__init__.py).

This module is the namespace: it says where each public name lives and loads it at its first use.
"""

from __future__ import annotations

import importlib
from typing import Any

from pysolver.solver_types import TYPES

__version__ = "1.0.0"

_HOME = {  # module of this package -> its public names
    "net": ("Net", "Blob"),
    "layer": ("Layer",),
    "solvers": (
        *(f"{name}Solver" for name in TYPES),
        *("Solver", "get_solver"),
    ),
    "mode": (
        *("set_mode_cpu", "set_mode_gpu", "set_device", "set_random_seed", "set_multiprocess"),
        "allow_python_layers",
        *("solver_count", "set_solver_count", "solver_rank", "set_solver_rank"),
    ),
    "misc": ("TRAIN", "TEST", "layer_type_list", "init_log", "log", "has_nccl", "NCCL", "Timer"),
    "net_spec": ("layers", "params", "NetSpec", "to_proto"),
    "classifier": ("Classifier",),
    "detector": ("Detector",),
}
MODULES = ("classifier", "coord_map", "detector", "draw", "io", "net_spec")  # importable as caffe.<name>
_HOME_OF = {name: module for module, names in _HOME.items() for name in names}
__all__ = sorted([*_HOME_OF, *MODULES, "proto"])


def public(name: str, asked: str = __name__) -> Any:
    """What pycaffe calls `name`; AttributeError in the words of module `asked` if it has no such name."""
    if name == "proto":
        return importlib.import_module("pysolver.proto")
    if name in MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _HOME_OF:
        return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module '{asked}' has no attribute '{name}'")


def __getattr__(name: str) -> Any:
    return public(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

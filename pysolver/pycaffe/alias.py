"""The name `caffe` in this process: taken at once (a script), or offered to whoever imports it (users' layers)."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from types import ModuleType

_FACADE = "pysolver.pycaffe"


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports a name as a module that has another one, not as a second copy of it."""

    def real_name(self, name: str) -> str | None:
        """The module that `name` means; None if it is not for this finder."""
        raise NotImplementedError

    def find_spec(self, name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        real = self.real_name(name)
        return importlib.machinery.ModuleSpec(name, self, origin=real) if real else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        try:
            module = importlib.import_module(spec.origin)
        except ModuleNotFoundError as error:
            if error.name != spec.origin:
                raise
            raise ModuleNotFoundError(f"No module named '{spec.name}'", name=spec.name) from None
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = module.__spec__.loader_state  # the import system has just put the alias there


class _Submodules(_Finder):
    """`caffe.io` is the very module pysolver.pycaffe.io."""

    def real_name(self, name: str) -> str | None:
        top, _, rest = name.partition(".")
        if top != "caffe" or not rest:
            return None
        return f"pysolver.{rest}" if rest.split(".")[0] == "proto" else f"{_FACADE}.{rest}"


class _Offer(_Finder):
    """`caffe` is pysolver.pycaffe where no other caffe is found."""

    def real_name(self, name: str) -> str | None:
        return _FACADE if name == "caffe" else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        _put(_Submodules(), 0)
        return super().create_module(spec)


def take() -> None:
    """From now on `caffe` is pysolver, whatever else is installed under that name."""
    _put(_Submodules(), 0)
    sys.modules["caffe"] = importlib.import_module(_FACADE)


def offer() -> None:
    """From now on `import caffe` finds pysolver if it finds nothing else: modules of users' Python layers do it."""
    _put(_Offer(), len(sys.meta_path))


def _put(finder: _Finder, place: int) -> None:
    if not any(type(other) is type(finder) for other in sys.meta_path):
        sys.meta_path.insert(place, finder)

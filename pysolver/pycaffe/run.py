"""Run a pycaffe script, module or piece of code as it is: its `import caffe` is pysolver."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from pysolver.pycaffe import alias

_ON_PATH = Path(__file__).parent / "on_path"


def install() -> None:
    """From now on `caffe` is pysolver, here and in processes that are started from here."""
    alias.take()
    folders = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(_ON_PATH) not in folders:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(_ON_PATH), *filter(None, folders)])


def run_script(path: str, argv: Sequence[str] = ()) -> None:
    """Run a script as `python path argv...` would, with caffe installed. The script's SystemExit comes through."""
    install()
    sys.argv = [path, *argv]
    sys.path[0] = str(Path(path).resolve().parent)
    runpy.run_path(path, run_name="__main__")


def run_module(name: str, argv: Sequence[str] = ()) -> None:
    """Run a module as `python -m name argv...` would."""
    install()
    sys.argv, sys.path[0] = ["-m", *argv], os.getcwd()
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def run_code(code: str, argv: Sequence[str] = ()) -> None:
    """Run a piece of code as `python -c code argv...` would."""
    install()
    sys.argv, sys.path[0] = ["-c", *argv], os.getcwd()
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})

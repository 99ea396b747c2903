"""Imports point one way, no circles; what reads logs needs no torch; no file is too long to be read."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "pysolver"
LONGEST = 400  # lines

# A room may import from those below it, and from those beside it on its own line.
FLOORS = (
    ("commands",),
    ("disciplined",),
    ("pycaffe", "export", "drawing"),
    ("solver",),
    ("net",),
    ("data", "layers", "component", "blob", "context"),
    ("proto",),
    ("logs", "schedule", "policies", "solver_types"),
    ("errors", "extras", "files", "lmdb_file", "cores", "memory", "lifetime", "checkout", "shelf"),
)


def modules() -> dict[str, Path]:
    """Every module by its dotted name."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = ["pysolver", *path.relative_to(ROOT).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path) -> set[str]:
    """Modules of pysolver that a file imports: at its top, within functions, and for the type checker."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    known = modules()
    told = set()
    for name in names:
        while name and name not in known:
            name = name.rpartition(".")[0]
        told |= {name} - {"", "pysolver"}
    return told


def floor(module: str) -> int | None:
    room = module.split(".")[1]
    return next((height for height, rooms in enumerate(FLOORS) if room in rooms), None)


def test_every_room_has_its_floor():
    homeless = {name for name in modules() if "." in name and floor(name) is None}
    assert homeless <= {"pysolver.__main__", "pysolver._version"}, homeless


def test_imports_point_one_way():
    upwards = [
        f"{name} imports {other}"
        for name, path in modules().items()
        if "." in name and floor(name) is not None
        for other in sorted(imported(path))
        if floor(other) is not None and floor(other) < floor(name)
    ]
    assert upwards == []


def test_there_are_no_circles():
    """Wherever in a file an import stands. A package counts as its __init__ alone."""
    edges = {name: imported(path) - {name} for name, path in modules().items()}
    left = dict(edges)
    while free := [name for name, others in left.items() if not others & set(left)]:
        for name in free:
            del left[name]
    assert left == {}, {name: sorted(others & set(left)) for name, others in left.items()}


READING = ["pysolver", "pysolver.logs", "pysolver.logs.drawing", "pysolver.logs.plot", "pysolver.schedule",
           "pysolver.proto.upgrade", "pysolver.disciplined.reading", "pysolver.disciplined.clues",
           "pysolver.disciplined.checker", "pysolver.disciplined.trial", "pysolver.disciplined.recipe",
           "pysolver.disciplined.tuning", "pysolver.disciplined.report", "pysolver.commands.plot_log",
           "pysolver.commands.tune"]  # fmt: skip


@pytest.mark.parametrize("module", READING)
def test_reading_needs_no_torch(module):
    code = f"import sys; sys.modules['torch'] = None; import {module}; assert 'pysolver.net.net' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_training_imports_only_what_it_uses():
    """The seconds before the first iteration are imports: torch, and little else."""
    idle = ("matplotlib", "scipy", "onnx", "dask", "sympy", "tensorboard", "torch._dynamo", "torch.distributed.elastic")
    code = f"import sys, pysolver.commands.train; sys.exit(str([name for name in {idle} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "[]"


def test_no_file_is_too_long():
    """What cannot be read in one sitting is two files."""
    rooms = ("pysolver", "caffe_patch", "tools", "tests", "benchmarks", "experiments", "examples")
    files = [file for room in rooms for file in (ROOT.parent / room).rglob("*.py")]
    long = {str(p.relative_to(ROOT.parent)): n for p in files if (n := len(p.read_bytes().splitlines())) > LONGEST}
    assert long == {}

"""Runs of a real Caffe (tests/golden/solvers), laid out in a folder of their own as they were when Caffe ran them."""

from __future__ import annotations

import json
import lzma
import shutil
from pathlib import Path

import pytest
import tiny_training

GOLDEN = Path(__file__).parents[1] / "golden" / "solvers"
CASES = json.loads((GOLDEN / "cases.json").read_text())


@pytest.fixture(scope="session")
def databases(tmp_path_factory) -> Path:
    """Folder of the two LMDBs that the runs read."""
    folder = tmp_path_factory.mktemp("databases")
    for packed in (GOLDEN / "data").iterdir():
        database = folder / packed.name.removesuffix(".mdb.xz")
        database.mkdir()
        (database / "data.mdb").write_bytes(lzma.decompress(packed.read_bytes()))
    return folder


@pytest.fixture
def golden(tmp_path, monkeypatch, databases):
    """golden(case): go to a fresh copy of the folder in which Caffe ran this case, without what Caffe wrote."""

    def enter(case: str) -> Path:
        folder = tmp_path / "solvers" / case
        shutil.copytree(GOLDEN / case, folder, ignore=shutil.ignore_patterns("*.caffemodel*", "*.solverstate*"))
        for name, stored in CASES[case]["weights"].items():
            shutil.copy(GOLDEN / "init" / stored, folder / name)
        (tmp_path / "data").symlink_to(databases)
        monkeypatch.chdir(folder)
        return folder

    return enter


@pytest.fixture
def folder(tmp_path, monkeypatch, databases):
    """folder(extra fields): a tiny training in the working directory."""

    def make(extra: str = ""):
        monkeypatch.chdir(tiny_training.write(tmp_path / "run", databases, extra))
        return tmp_path / "run"

    return make

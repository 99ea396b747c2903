"""A wheel, installed away from the checkout, runs every command."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from pysolver import commands

ROOT = Path(__file__).resolve().parents[2]
ALL = """
import sys
from pathlib import Path
import pysolver
from pysolver import commands
assert Path(pysolver.__file__).is_relative_to(sys.prefix), pysolver.__file__
for name in commands.names():
    try:
        commands.main([name, "--help"])
    except SystemExit as stop:
        assert stop.code == 0, name
"""


def run(*command: object, cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a fresh environment with the wheel in it; it sees the packages of this one, not pysolver."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy, since a build leaves files in its source
    wanted = ("pysolver", "caffe_patch", "proto", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
    source.mkdir()
    for name in wanted:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__", "caffe.desc", "*.pyi"))
        else:
            shutil.copy(path, source)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder, source, cwd=folder)
    (wheel,) = folder.glob("pysolver-*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    packages = [sysconfig.get_path("purelib"), *(p for p in sys.path if p.endswith("-packages"))]
    (Path(site) / "beside.pth").write_text("\n".join(packages))  # their own .pth files are not followed from there
    run(*pip, "--python", python, "install", "-q", "--no-deps", "--no-index", "--ignore-installed", wheel, cwd=folder)
    return python.parent


def test_every_command_explains_itself(installed, tmp_path):
    told = run(installed / "python", "-c", ALL, cwd=tmp_path)
    assert told.count("usage: pysolver ") == len(commands.names())


def test_some_do_their_work(installed, tmp_path):
    """With the schema that the build compiled, and with the grammar."""
    (tmp_path / "s.prototxt").write_text('base_lr: 0.5 lr_policy: "fixed" momentum: 0.25 max_iter: 2 net: "n.prototxt"')
    table = run(installed / "pysolver", "schedule", "--solver=s.prototxt", cwd=tmp_path)
    assert table.splitlines() == ["iter,lr,momentum,weight_decay", "0,0.5,0.25,0.0", "1,0.5,0.25,0.0"]
    log = ROOT / "tests" / "golden" / "logs" / "range_test.log.gz"
    assert run(installed / "pysolver", "parse_log", log, cwd=tmp_path).split() == [
        "range_test.log.train", "range_test.log.test"]  # fmt: skip
    (tmp_path / "n.prototxt").write_text(
        'layer { name: "x" type: "DummyData" top: "x" dummy_data_param { shape { dim: 2 dim: 3 } } }\n'
        'layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 1 } }\n'
        'layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "y" top: "loss" }'
    )
    run(installed / "pysolver", "train", "--solver=s.prototxt", cwd=tmp_path)
    assert (tmp_path / "s_iter_2.caffemodel").exists()

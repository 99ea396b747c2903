"""Questionable solver files, each as a real Caffe answered it: done or refused, and the same files left behind."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from pysolver.errors import CaffeError
from pysolver.solver.train import TrainOptions, train

DATA = Path(__file__).parents[1] / "golden" / "solvers"
CASES = json.loads((DATA / "refusals.json").read_text())
STRICTER = {"cyclical_momentum_one_value": "cyclical_momentum is given 1 times"}  # Caffe ignores a single value
CHECK = re.compile(r"Check failed: .*(\([^()]+ vs\. [^()]+\)|size\(\)) ")  # the expression before the words
OWN_WORDS = {  # where Caffe's message is an expression of its source or comes from its libraries
    "unknown_field": "solver.prototxt:10:1: SolverParameter has no field 'learning_rate'",
    "syntax": "solver.prototxt:10:7: expected ':' after gamma",
    "bad_enum": "solver_mode has no value TPU",
    "string_for_number": "solver.prototxt:10:8: expected a number for gamma",
    "number_out_of_range": "solver.prototxt:10:12: device_id: 5000000000 is out of range",
    "singular_field_twice": "solver.prototxt:10:1: SolverParameter has one 'base_lr'",
    "missing_net_file": "nowhere.prototxt: file not found",
    "missing_weights": "nowhere.caffemodel",
    "no_snapshot_unwritable": "Cannot write to snapshot prefix 'nowhere/snap'",  # said before the training, not after
    "snapshot_of_other_type": "a state of solver type SGD, this solver is Adam",
    "step_without_stepsize": "stepsize() > 0",
    "step_negative_gamma": "gamma() >= 0",
    "test_iter_without_interval": "test_interval() > 0",
}


@pytest.fixture
def folder(tmp_path, monkeypatch, databases):
    """What the cases refer to: net.prototxt, other.prototxt with another conv1, weights."""
    net = (DATA / "lenet_sgd_fixed" / "net.prototxt").read_text()
    net = re.sub(r"batch_size: \d+", "batch_size: 8", net).replace("../../data", str(databases))
    (tmp_path / "net.prototxt").write_text(net)
    (tmp_path / "other.prototxt").write_text(net.replace("num_output: 8", "num_output: 6"))
    (tmp_path / "folder").mkdir()
    cases = json.loads((DATA / "cases.json").read_text())
    shutil.copy(DATA / "init" / cases["lenet_sgd_fixed"]["weights"]["init.caffemodel"], tmp_path / "init.caffemodel")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", CASES)
def test_case(name, folder, capsys):
    case = CASES[name]
    options = dict(flag.removeprefix("--").split("=") for flag in case["flags"])
    if "kept" in options.get("snapshot", ""):
        kept = 'net: "net.prototxt" base_lr: 0.01 lr_policy: "fixed" momentum: 0.9 max_iter: 4 snapshot_prefix: "kept"'
        (folder / "kept.prototxt").write_text(kept)
        train(TrainOptions("kept.prototxt"))
    (folder / "solver.prototxt").write_text(case["solver"])
    before = set(folder.rglob("*"))
    capsys.readouterr()
    if case["done"] and name not in STRICTER:
        train(TrainOptions("solver.prototxt", **options))
        log = capsys.readouterr().err
        for line in case["says"]:
            if not line.startswith("Iteration"):
                assert line in log
    else:
        with pytest.raises(CaffeError) as caught:
            train(TrainOptions("solver.prototxt", **options))
        words = STRICTER.get(name) or OWN_WORDS.get(name) or CHECK.sub("", case["says"][-1])
        assert words in str(caught.value) and "\n" not in str(caught.value)
    written = sorted(str(file.relative_to(folder)) for file in set(folder.rglob("*")) - before)
    assert written == ([] if name in STRICTER else sorted(case["files"]))

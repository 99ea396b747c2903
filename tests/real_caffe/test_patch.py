"""What the patch changes in a real Caffe, and what it leaves alone."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from problems import CYCLES, write_digits, write_tiny
from real import BINARY, UNIT_TESTS, caffe, make, run, run_tool, train

CYCLE = "base_lr: 0.1 max_lr: 0.3 lr_policy: 'triangular' stepsize: 5"


def test_unpatched_refuses_what_the_patched_trains(plain, patched, tmp_path):
    write_digits(tmp_path, CYCLES + "max_iter: 5 display: 1")
    done = caffe(plain, tmp_path, "train", "--solver=solver.prototxt")
    assert done.returncode != 0
    assert re.search(r'has no field named "(max_lr|cyclical_momentum)"', done.stderr)
    assert "momentum = 0.947" in train(patched, tmp_path)


@pytest.mark.parametrize(
    "fields",
    [
        "type: 'SGD' lr_policy: 'step' gamma: 0.5 stepsize: 10 momentum: 0.9",
        "type: 'SGD' lr_policy: 'multistep' gamma: 0.5 stepvalue: 9 stepvalue: 20 momentum: 1.1 clip_gradients: 1",
        "type: 'Nesterov' lr_policy: 'inv' gamma: 0.1 power: 0.75 momentum: 0.95",
        "type: 'Adam' lr_policy: 'fixed' momentum: 0.9 momentum2: 0.999",
        "type: 'AdaDelta' lr_policy: 'exp' gamma: 0.99 momentum: 0.95 delta: 1e-6",
        "type: 'AdaGrad' lr_policy: 'poly' power: 2",
        "type: 'RMSProp' lr_policy: 'sigmoid' gamma: -0.1 stepsize: 15 rms_decay: 0.98",
    ],
    ids=lambda fields: fields.split()[1].strip("'"),
)
def test_without_the_new_fields_nothing_changes(fields, plain, patched, tmp_path):
    """Weights, history and log are the same to the last bit."""
    results = []
    for tree in (plain, patched):
        write_digits(tmp_path, f"{fields} base_lr: 0.02 weight_decay: 0.001 max_iter: 30 display: 1")
        log = re.sub(r", momentum = \S+, weight decay = \S+$", "", train(tree, tmp_path), flags=re.MULTILINE)
        lines = [line.split("] ", 1)[1] for line in log.splitlines() if re.search(r"\] +(Iteration|Train net)", line)]
        results.append((lines, *((tmp_path / f"snap_iter_30.{kind}").read_bytes() for kind in SNAPSHOT)))
    assert len(results[0][0]) > 60
    assert results[0] == results[1]


SNAPSHOT = ("caffemodel", "solverstate")


@pytest.mark.parametrize(
    "fields, message",
    [
        (f"{CYCLE} momentum: 0.9 cyclical_momentum: 0.8", "takes exactly two values"),
        (f"{CYCLE} momentum: 0.9 cyclical_momentum: [0.8, 5, 5]", "takes exactly two values"),
        (f"{CYCLE} momentum: 0.9 cyclical_momentum: [0.8, 0]", "second value of cyclical_momentum is 0, .*positive"),
        (f"{CYCLE} momentum: 0.9 cyclical_momentum: [0.8, -5]", "second value of cyclical_momentum is -5, .*positive"),
        (f"{CYCLE} momentum: 0.9 cyclical_momentum: [0.8, inf]", "second value of cyclical_momentum is inf"),
        (f"{CYCLE} momentum: 0.9 cyclical_momentum: [1.01, 5]", "first value of cyclical_momentum is 1.01, .*0, 1"),
        (f"{CYCLE} momentum: 0.9 cyclical_momentum: [-0.1, 5]", "first value of cyclical_momentum is -0.1, .*0, 1"),
        (f"{CYCLE} momentum: 1.5 cyclical_momentum: [0.8, 5]", r"momentum is 1.5, .*must lie in \[0, 1\]"),
        (f"{CYCLE} momentum: nan cyclical_momentum: [0.8, 5]", r"momentum is -?nan, .*must lie in \[0, 1\]"),
        ("base_lr: 0.1 lr_policy: 'triangular' stepsize: 5", '"triangular" needs .*write max_lr: RATE'),
        ("base_lr: 0.1 lr_policy: '1cycle' stepsize: 5", '"1cycle" needs .*write max_lr: RATE'),
        ("base_lr: 0.1 max_lr: 1 lr_policy: 'triangular2'", '"triangular2" needs .*write stepsize: N'),
        ("base_lr: 0.1 max_lr: 1 lr_policy: 'exp_range' stepsize: -5", '"exp_range" needs .*write stepsize: N'),
        ("base_lr: 0.1 max_lr: 1 lr_policy: 'exp_range' stepsize: 5 gamma: -1", "write for example gamma: 0.9999"),
        (f"{CYCLE} type: 'AdaGrad' cyclical_momentum: [0.8, 5]", "cannot be used with AdaGrad, which has no momentum"),
        (f"{CYCLE} type: 'RMSProp' cyclical_momentum: [0.8, 5]", "cannot be used with RMSProp, which has no momentum"),
        ("base_lr: 0.1 lr_policy: 'cosine'", "Unknown learning rate policy: cosine"),
    ],
)
def test_invalid_settings_stop_it_with_what_to_write(fields, message, patched, tmp_path):
    write_tiny(tmp_path, fields + " max_iter: 20 display: 1")
    done = caffe(patched, tmp_path, "train", "--solver=solver.prototxt")
    assert done.returncode != 0
    assert re.search(message, done.stderr), done.stderr[-1000:]
    assert "lr = " not in done.stderr
    assert "cosine" in fields or "Iteration 0" not in done.stderr, "it must stop at start-up"


def test_momentum_of_one_is_allowed(patched, tmp_path):
    """The paper cycles 0.90 to 1.00."""
    write_tiny(tmp_path, f"{CYCLE} momentum: 0.9 cyclical_momentum: [1, 5] max_iter: 10 display: 1")
    assert "Iteration 5, lr = 0.3, momentum = 1, weight decay = 0" in train(patched, tmp_path)


@pytest.mark.parametrize("binary", UNIT_TESTS)
def test_new_unit_tests_of_caffe_pass(binary, patched):
    done = run(patched, binary, patched)
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.search(r"\[  PASSED  \] (\d+) tests", done.stdout)[1]) >= 10


def test_unit_tests_fail_on_the_paper_appendix_to_the_letter(patched, tmp_path):
    """It changes SGDSolver alone: the momentum of Nesterov, which the paper's runs use, would stand still."""
    tree = tmp_path / "appendix"
    shutil.copytree(patched, tree, symlinks=True)  # with its times, so that make rebuilds three files only
    for name in ("nesterov", "adam", "adadelta"):
        path = tree / f"src/caffe/solvers/{name}_solver.cpp"
        path.write_text(path.read_text().replace("this->CurrentMomentum()", "this->param_.momentum()"))
    make(tree, BINARY, UNIT_TESTS[1])
    done = run(tree, UNIT_TESTS[1], tree)
    assert done.returncode != 0
    failed = set(re.findall(r"\[  FAILED  \] CyclicalSolverTest/\d+\.(\w+)", done.stdout))
    assert failed == {"TestNesterov", "TestAdam", "TestAdaDelta"}


def test_revert_gives_back_the_distribution(plain, patched, tmp_path):
    trees = []
    for name, tree in (("plain", plain), ("patched", patched)):
        trees.append(tmp_path / name)
        for part in ("src", "include", "docs"):
            shutil.copytree(tree / part, trees[-1] / part)
    run_tool("revert", trees[1])
    done = subprocess.run(["diff", "-r", *map(str, trees)], capture_output=True, text=True)
    assert done.stdout == ""

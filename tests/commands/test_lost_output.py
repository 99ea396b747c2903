"""Where a command's output cannot be written: nothing is lost but the output, and the exit status says so."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pysolver.logs import read_log

NET = """
layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param {
  shape { dim: 4 dim: 3 } shape { dim: 4 } data_filler { type: "gaussian" } data_filler { type: "constant" } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 2 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
SOLVER = 'net: "net.prototxt" base_lr: 0.01 lr_policy: "fixed" display: 1 max_iter: 100000 snapshot_prefix: "snap"\n'


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "net.prototxt").write_text(NET)
    (tmp_path / "solver.prototxt").write_text(SOLVER)
    return tmp_path


def shell(folder, command: str) -> subprocess.CompletedProcess:
    program = f"{sys.executable} -m pysolver"
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command.replace('pysolver', program)}"],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_a_log_whose_reader_has_gone_ends_the_run_with_a_snapshot(folder):
    done = shell(folder, "pysolver train --solver=solver.prototxt 2>&1 | head -3; exit ${PIPESTATUS[0]}")
    assert done.returncode == 1 and len(done.stdout.splitlines()) == 3
    (state,) = folder.glob("snap_iter_*.solverstate")
    assert int(state.stem.rpartition("_")[2]) < 100_000
    go_on = f"pysolver train --solver=solver.prototxt --snapshot={state.name} 2>&1 | head -200; exit ${{PIPESTATUS[0]}}"
    assert f"Resuming from {state.name}" in shell(folder, go_on).stdout


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full is needed")
def test_a_full_disk_under_the_log(folder):
    done = shell(folder, "pysolver train --solver=solver.prototxt 2> /dev/full")
    assert done.returncode == 1 and len(list(folder.glob("snap_iter_*.solverstate"))) == 1


def test_a_closed_stderr_is_silence(folder):
    (folder / "solver.prototxt").write_text(SOLVER.replace("100000", "3"))
    done = shell(folder, "pysolver train --solver=solver.prototxt 2>&-")
    assert done.returncode == 0 and done.stdout == done.stderr == ""
    assert (folder / "snap_iter_3.caffemodel").exists() and (folder / "snap_iter_3.caffemodel").stat().st_size > 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full is needed")
def test_a_full_disk_under_a_table(folder):
    done = shell(folder, "pysolver schedule --solver=solver.prototxt --csv - > /dev/full")
    assert done.returncode == 1
    assert done.stderr == "pysolver: the output cannot be written: No space left on device\n"


def test_a_table_whose_reader_has_enough(folder):
    done = shell(folder, "pysolver schedule --solver=solver.prototxt --csv - | head -2")
    assert done.stdout.startswith("iter,lr,momentum,weight_decay\n") and done.stderr == ""


def test_the_log_of_a_redirected_run_is_whole(folder):
    (folder / "solver.prototxt").write_text(SOLVER.replace("100000", "30"))
    assert shell(folder, "pysolver train --solver=solver.prototxt 2> a.log").returncode == 0
    run = read_log(folder / "a.log")
    assert run.finished and run.unknown == 0 and run.train.iteration.tolist() == list(range(31))

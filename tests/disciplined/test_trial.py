"""A trial is a folder that anyone can repeat; its result is what its log says."""

from __future__ import annotations

import pickle
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pysolver.disciplined.trial import Command, Trial, changed, here, read_pair, seconds
from pysolver.errors import CaffeError, OutOfMemory
from pysolver.logs.reader import read_log
from pysolver.logs.run import Run
from pysolver.proto import caffe_pb2
from pysolver.proto.text import parse_text

NET = """
layer { name: "in" type: "DummyData" top: "x" top: "y" dummy_data_param {
  shape { dim: 8 dim: 3 } shape { dim: 8 dim: 1 } data_filler { type: "gaussian" } data_filler { type: "gaussian" } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip"
        inner_product_param { num_output: 1 weight_filler { type: "gaussian" std: 3 } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "y" top: "loss" }
"""
SOLVER = """
net: "mine.prototxt" test_iter: 2 test_interval: 5 base_lr: 0.1 lr_policy: "fixed" max_iter: 20 display: 4
random_seed: 3 snapshot_after_train: false
"""


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    """A person's own files in the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("mine.prototxt").write_text(NET)
    Path("solver.prototxt").write_text(SOLVER)


def trial(folder: str = "t/a", backend=here, **fields: object) -> Trial:
    solver, net = read_pair("solver.prototxt")
    return Trial.of(folder, changed(solver, **fields), net, backend)


def losses(run: Run) -> list[float]:
    values = np.concatenate([run.train.main_loss, run.test.main_loss])
    return values[np.isfinite(values)].tolist()


def test_the_same_in_this_process_in_another_and_by_hand():
    one, other = trial("t/one").run(), trial("t/other", Command()).run()
    with open("by_hand", "w") as log:
        subprocess.run([sys.executable, "-m", "pysolver", "train", "--solver=solver.prototxt"], stderr=log)
    wanted = losses(read_log("by_hand"))
    assert len(wanted) == 5 + 5 and losses(one) == losses(other) == wanted
    assert sorted(path.name for path in Path("t/one").iterdir()) == [
        "solver.prototxt", "train.log", "train_test.prototxt"]  # fmt: skip
    log = subprocess.run(trial("t/one").command.replace("pysolver", f"{sys.executable} -m pysolver"), shell=True,
                         capture_output=True, text=True).stderr  # fmt: skip
    Path("again").write_text(log)
    assert losses(read_log("again")) == wanted
    assert 0 < seconds(one) < 60


def test_a_whole_log_is_not_run_again_and_a_broken_one_is():
    made = trial()
    assert made.result() is None
    run = made.run()
    before = made.log.stat().st_mtime_ns
    assert losses(made.run()) == losses(run) and made.log.stat().st_mtime_ns == before
    text = made.log.read_text()
    for broken in (text[: len(text) // 2], "", text.replace("Optimization Done.", "Optimization stopped early.")):
        made.log.write_text(broken)
        assert made.result() is None
        assert losses(made.run()) == losses(run)


def test_a_log_of_another_trial_does_not_count():
    trial(base_lr=0.2).run()
    assert trial(base_lr=0.2).result() is not None
    assert trial(base_lr=0.1).result() is None
    Path("t/a/train_test.prototxt").write_text(NET)
    assert trial(base_lr=0.2).result() is None


@pytest.mark.parametrize("backend", [here, Command()])
def test_one_that_was_killed_goes_on_from_its_newest_whole_snapshot(backend):
    """As if undisturbed: data and generators too. The log of a killed one ends in the midst of a line."""
    whole = trial("t/whole", snapshot=5).run()
    made = trial("t/killed", backend, snapshot=5)
    made.write()
    made.backend(made.folder / "solver.prototxt", made.log, None)  # to its end, from where its last part is taken away
    text = made.log.read_text()
    made.log.write_text(text[: text.index("Iteration 16, lr") + 14])
    for file in ("iter_20.caffemodel", "iter_20.solverstate"):  # never written
        Path(f"t/killed/snapshot_{file}").unlink()
    Path("t/killed/snapshot_iter_15.solverstate").write_bytes(b"half")  # by a Caffe, which does not write it whole
    assert made.result() is None
    run = made.run()
    assert [resume.iteration for resume in run.resumes] == [10]
    assert losses(run) == losses(whole) and run.test.iteration.tolist() == [0, 5, 10, 15, 20]
    assert run.unknown == 0 and made.result() is not None
    assert [path.name for path in made.folder.glob("*.solverstate")] == ["snapshot_iter_20.solverstate"]


def test_a_snapshot_of_other_settings_is_not_gone_on_from():
    other = trial(base_lr=0.2, snapshot=5)
    other.run()
    other.log.write_text(other.log.read_text()[:-200])
    made = trial(base_lr=0.1, snapshot=5)
    run = made.run()
    assert not run.resumes and losses(run) == losses(trial("t/other", snapshot=5).run())
    other.write()  # nor if it is killed before its own first one
    assert not list(Path("t/a").glob("snapshot*"))


def test_one_that_was_stopped_goes_on_and_is_then_whole():
    """Where the snapshot is that the signal left, between the regular ones."""
    whole = trial("t/whole", max_iter=400).run()
    made = trial(max_iter=400, snapshot=300, snapshot_after_train=True)
    made.write()
    script = """
import sys
from pysolver.solver.signals import Action
from pysolver.solver.train import TrainOptions, train
turns = iter(range(1000))
train(TrainOptions(sys.argv[1]), action=lambda: Action.STOP if next(turns) == 130 else Action.NONE)
"""
    with made.log.open("w") as log:
        subprocess.run([sys.executable, "-c", script, "t/a/solver.prototxt"], stderr=log, check=True)
    assert read_log(made.log).stopped and made.result() is None
    run = made.run()
    assert run.finished and not run.stopped and made.result() is not None
    assert run.test.main_loss.tolist() == whole.test.main_loss.tolist()
    assert run.train.main_loss[:-1].tolist() == whole.train.main_loss[:-1].tolist()


@pytest.mark.parametrize("backend", [here, Command()])
def test_a_judge_ends_it_and_the_log_says_why(backend, monkeypatch):
    monkeypatch.setattr("pysolver.disciplined.trial.LOOK", 0.2)
    seen = []

    def judge(run: Run) -> str | None:
        seen.append(run.test.main_loss[-1] if len(run.test) else np.nan)
        return "worse than the others" if len(run.test) >= 2 else None

    made = trial(backend=backend, max_iter=200_000)
    run = made.run(judge)
    assert 2 <= len(run.test) < 40_000 and "Gave up: worse than the others" in made.log.read_text()
    assert np.isfinite(seen[-1])
    assert losses(made.result()) == losses(run), "it is done, not to be done again"
    assert run.unknown == 0


def test_a_backend_that_fails_is_told_with_its_last_words():
    caffe = Path("caffe.sh")
    caffe.write_text(
        "#!/bin/sh\necho 'F1124 02:00:00.000000 1 x.cpp:1] Check failed: no GPU' '\n    @ 0x1 main' >&2\nexit 3\n"
    )
    caffe.chmod(0o755)
    with pytest.raises(CaffeError, match=r"t/a/train.log: \./caffe.sh ended with status 3: .*Check failed: no GPU"):
        trial(backend=Command(("./caffe.sh",))).run()
    assert not Command(("./caffe.sh",)).finds_gpu() and not Command(("nowhere/caffe",)).finds_gpu()
    assert Command(("true",)).finds_gpu()
    with pytest.raises(CaffeError, match="nowhere/caffe: cannot be started: No such file"):
        trial(backend=Command(("nowhere/caffe",))).run()
    with pytest.raises(CaffeError, match="t/a/solver.prototxt: .*stepsize"):
        trial(base_lr=-1.0, max_lr=1.0, lr_policy="triangular", stepsize=0).run()
    assert trial().result() is None


@pytest.mark.parametrize("ends, short", [
    ("echo 'F1124 02:00:00.000000 1 x.cpp:1] Check failed: error == cudaSuccess (2 vs. 0)  out of memory' >&2\n"
     "echo '*** Check failure stack trace: ***' >&2\nexit 134", True),
    ("echo 'terminate called after throwing an instance of std::bad_alloc' >&2\nexit 134", True),
    ("kill -KILL $$", True),
    ("echo 'Check failed: no GPU' >&2\nexit 134", False)])  # fmt: skip
def test_a_backend_without_memory_is_told_from_others(ends, short):
    caffe = Path("caffe.sh")
    caffe.write_text(f"#!/bin/sh\n{ends}\n")
    caffe.chmod(0o755)
    with pytest.raises(CaffeError, match="ended with status") as told:
        trial(backend=Command(("./caffe.sh",))).run()
    assert isinstance(told.value, OutOfMemory) == short


def test_a_trial_is_a_value():
    made = trial(backend=Command(("caffe",)))
    assert pickle.loads(pickle.dumps(made)) == made
    solver = parse_text(made.solver, caffe_pb2.SolverParameter)
    assert solver.net == "t/a/train_test.prototxt" and solver.snapshot_prefix == "t/a/snapshot"


def test_the_command_can_be_pasted_into_a_shell():
    """Before, a folder with a space in its name made two words of it."""
    made = replace(trial("t/my tuned $net", Command(("my caffe",))), start=Path("t/my tuned $net/x.solverstate"))
    assert shlex.split(made.command) == [
        "my caffe", "train", "--solver=t/my tuned $net/solver.prototxt", "--snapshot=t/my tuned $net/x.solverstate"
    ]  # fmt: skip
    assert trial().command == "pysolver train --solver=t/a/solver.prototxt"


def test_changed_replaces_and_clears():
    solver, _ = read_pair("solver.prototxt")
    other = changed(solver, test_iter=[7], base_lr=2, display=None, cyclical_momentum=[0.8, 9])
    assert (list(other.test_iter), other.base_lr, list(other.cyclical_momentum)[1]) == ([7], 2, 9)
    assert not other.HasField("display") and solver.display == 4
    with pytest.raises(ValueError):
        changed(solver, base_rl=1)


def test_nets_in_two_files_are_refused():
    Path("solver.prototxt").write_text('train_net: "a" test_net: "b"')
    with pytest.raises(CaffeError, match="solver.prototxt: needs `net`"):
        read_pair("solver.prototxt")

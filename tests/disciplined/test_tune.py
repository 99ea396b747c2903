"""`pysolver tune` on the handwritten digits: its files, going on after a kill, a validation set, another backend."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import lmdb
import numpy as np
import pytest
from pretend import Limited

import pysolver.disciplined
from pysolver.commands import main
from pysolver.data import datum
from pysolver.data.prepare import prepare
from pysolver.disciplined import answer, in_process
from pysolver.disciplined.engine import Engine
from pysolver.disciplined.plan import CYCLE, FINAL, FIXED, SPEED, Plan
from pysolver.disciplined.recipe import recipe
from pysolver.disciplined.stages import Decision
from pysolver.disciplined.trial import Command
from pysolver.disciplined.tuning import Tuning, epochs_of, last_epochs
from pysolver.errors import CaffeError
from pysolver.proto.caffe_pb2 import NetParameter, SolverParameter
from pysolver.proto.text import read_text
from pysolver.shelf import Shelf

ROOT = Path(__file__).resolve().parents[2]
QUICK = ["tune", "--solver=solver.prototxt", "--epochs=4", "--seeds=1", "--jobs=2", "--runs=1"]


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, net and solver."""
    folder = tmp_path_factory.mktemp("problem")
    prepare("digits", str(folder / "demo"))
    net = (ROOT / "examples/digits/digits_train_test.prototxt").read_text()
    (folder / "net.prototxt").write_text(net)
    solver = (ROOT / "examples/digits/solver.prototxt").read_text()
    (folder / "solver.prototxt").write_text(solver.replace("examples/digits/digits_train_test", "net"))
    return folder


def records(path: str) -> set[bytes]:
    with lmdb.open(path, readonly=True, lock=False) as base, base.begin() as transaction:
        return {key for key, _ in transaction.cursor()}


def test_one_command_then_nothing_is_done_twice(problem, monkeypatch, capsys):
    monkeypatch.chdir(problem)
    command = [*QUICK, "--out=quick", "--stages=batch,final", "--validation=300"]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert told.startswith("Judged on 300 training records set aside") and told.count("=> ") == 3
    first = (problem / "quick/decisions.json").read_text()
    logs = {path: path.stat().st_mtime_ns for path in problem.glob("quick/trials/*/*/train.log")}
    assert len(logs) == len(json.loads(first)["trials"]) >= 4

    assert main(command) == 0
    assert (problem / "quick/decisions.json").read_text() == first
    assert {path: path.stat().st_mtime_ns for path in problem.glob("quick/trials/*/*/train.log")} == logs

    decided = json.loads(first)["decisions"]
    assert [d["stage"] for d in decided] == ["batch", "choice", "final"] and "300 records set aside" in told
    assert "decides nothing" in told and all(
        d["reason"][-20:] in Path("quick/report.html").read_text() for d in decided
    )
    # the records set aside, and what is left, are the training set; the final runs have all of it
    apart = "quick/data/train_without_300_lmdb", "quick/data/validation_300_lmdb"
    for folder, names in (("batch", apart), ("choice", apart),
                          ("final", ("demo/digits_train_lmdb", "demo/digits_test_lmdb"))):  # fmt: skip
        net = read_text(next(problem.glob(f"quick/trials/{folder}/*/train_test.prototxt")), NetParameter)
        assert tuple(layer.data_param.source for layer in net.layer[:2]) == names
    rest, aside = records("quick/data/train_without_300_lmdb"), records("quick/data/validation_300_lmdb")
    assert len(aside) == 300 and not rest & aside and rest | aside == records("demo/digits_train_lmdb")
    final = read_text(next(problem.glob("quick/trials/final/*/solver.prototxt")), SolverParameter)
    assert final.test_interval == final.max_iter and not final.test_initialization  # the test set once

    tuned = read_text("quick/solver.prototxt", SolverParameter)
    assert tuned.net == "net.prototxt" and tuned.max_iter == round(4 * 1497 / 128)


def test_what_cannot_be_tuned_is_told(problem, monkeypatch, capsys):
    monkeypatch.chdir(problem)
    for words, message in (
        (["--stages=rnage"], "there is no stage 'rnage'; the stages are: batch, range"),
        (["--budget=two"], "--budget two: such as 2h"),
        (["--validation=5000"], "--validation 5000: demo/digits_train_lmdb has 1497 records"),
        (["--caffe=nowhere"], "--caffe nowhere: not a program"),
        (["--epochs=-3"], "--epochs -3: a length above 0"),
        (["--stages=batch, end"], "there is no stage 'end'"),
    ):
        assert main([*QUICK, "--out=wrong", *words]) == 1
        assert message in capsys.readouterr().err
    before = (problem / "solver.prototxt").read_bytes()
    assert main([*QUICK, "--out=."]) == 1
    assert "--out .: there is a solver.prototxt that no tuning wrote" in capsys.readouterr().err
    assert (problem / "solver.prototxt").read_bytes() == before and not (problem / "trials").exists()
    assert main([*QUICK, "--out=net.prototxt/new"]) == 1
    assert "net.prototxt/new: cannot be written: Not a directory" in capsys.readouterr().err
    (problem / "moved.prototxt").write_text('net: "gone/net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 9')
    assert main(["tune", "--solver=moved.prototxt", "--out=wrong"]) == 1
    assert "moved.prototxt: net: gone/net.prototxt is not there, seen from the working" in capsys.readouterr().err
    net = (problem / "net.prototxt").read_text()
    (problem / "other.prototxt").write_text(net.replace("digits_test_lmdb", "gone_lmdb"))
    (problem / "other_solver.prototxt").write_text('net: "other.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 9')
    assert main(["tune", "--solver=other_solver.prototxt", "--out=wrong"]) == 1
    assert "other.prototxt: layer 'digits': demo/gone_lmdb is not there" in capsys.readouterr().err


REGRESSION = """
layer { name: "d" type: "HDF5Data" top: "data" top: "target" include { phase: TRAIN }
  hdf5_data_param { source: "numbers.txt" batch_size: 50 } }
layer { name: "d" type: "HDF5Data" top: "data" top: "target" include { phase: TEST }
  hdf5_data_param { source: "numbers.txt" batch_size: 100 } }
layer { name: "o" type: "InnerProduct" bottom: "data" top: "o" inner_product_param { num_output: 1
  weight_filler { type: "xavier" } } }
layer { name: "far" type: "EuclideanLoss" bottom: "o" bottom: "target" top: "far" }
"""


def test_a_regression_on_hdf5_files_without_an_accuracy(problem, monkeypatch, capsys):
    monkeypatch.chdir(problem)
    dice = np.random.default_rng(0)
    for name, rows in (("a", 300), ("b", 100)):
        with h5py.File(f"{name}.h5", "w") as file:
            file["data"] = dice.normal(size=(rows, 4)).astype(np.float32)
            file["target"] = file["data"][:].sum(1, keepdims=True)
    Path("numbers.txt").write_text("a.h5\nb.h5\n")
    Path("regression.prototxt").write_text(REGRESSION)
    Path("regression_solver.prototxt").write_text(
        'net: "regression.prototxt" base_lr: 0.05 lr_policy: "fixed" max_iter: 80 display: 10'
    )
    command = ["tune", "--solver=regression_solver.prototxt", "--out=numbers", "--stages=final", "--seeds=1"]
    assert main(command) == 0
    assert "The test loss is the net's output 'far', no output is an accuracy.\n" in capsys.readouterr().out
    told = json.loads(Path("numbers/decisions.json").read_text())
    assert (told["problem"]["images"], told["problem"]["tests"], told["problem"]["epochs"]) == (400, 400, 10)
    comments = " ".join(Path("numbers/solver.prototxt").read_text().replace("#", "").split())
    assert "output 'far', no output is an accuracy." in comments
    assert "no output is an accuracy." in Path("numbers/report.html").read_text()
    Path("numbers.txt").write_text("a.h5\ngone.h5\n")
    assert main([*command[:2], "--out=others"]) == 1
    assert "numbers.txt is not there or cannot be counted: an LMDB, an image list or a" in capsys.readouterr().err


def test_a_validation_set_needs_a_data_layer_for_each_phase(problem, monkeypatch, capsys):
    """Before, both phases then read the records set aside: training on what it is judged by."""
    monkeypatch.chdir(problem)
    net = read_text("net.prototxt", NetParameter)
    del net.layer[1], net.layer[0].include[:]
    Path("one.prototxt").write_text(str(net))
    Path("one_solver.prototxt").write_text(Path("solver.prototxt").read_text().replace("net.prototxt", "one.prototxt"))
    assert main(["tune", "--solver=one_solver.prototxt", "--out=one", "--validation=300"]) == 1
    assert "layer 'digits': serves both phases; --validation needs one for each" in capsys.readouterr().err


def test_a_branch_goes_on_where_its_trunk_ended(problem, monkeypatch):
    """Digit for digit what one run of both lengths gives; another weight decay parts from it."""
    monkeypatch.chdir(problem)
    made = recipe("solver.prototxt", problem / "branches")
    trunk = Plan("weight_decay", FIXED, 2, 0.05, 0.05, (0.9, 0.9), 1e-3, 64, run=1)  # filler and batch vary, too
    same, other = replace(trunk, after=trunk), replace(trunk, after=trunk, weight_decay=0.3)
    whole = replace(trunk, epochs=4)
    runs = {plan: made.trial(plan).run() for plan in (trunk, same, other, whole)}
    begin = int(runs[trunk].test.iteration[-1])
    assert runs[same].test.iteration[0] == begin == made.begin(same)
    end = runs[whole].test.iteration[-1]
    assert end == runs[same].test.iteration[-1] and runs[same].test.main_loss[-1] == runs[whole].test.main_loss[-1]
    assert runs[other].test.main_loss[0] == runs[same].test.main_loss[0] != runs[trunk].test.main_loss[0]
    assert runs[other].test.main_loss[-1] != runs[same].test.main_loss[-1]
    assert epochs_of(made, same, runs[same]) == pytest.approx(2, rel=0.1)
    again = made.trial(same)
    assert again.command.endswith(f"--snapshot={made.folder(trunk)}/snapshot_iter_{begin}.solverstate")
    assert f"--snapshot={made.start(same)}" in (again.folder / "solver.prototxt").read_text()


WIDE = """
layer { name: "d" type: "HDF5Data" top: "data" top: "target" hdf5_data_param { source: "wide.txt" batch_size: 10 } }
layer { name: "wide" type: "InnerProduct" bottom: "data" top: "wide" inner_product_param { num_output: 200000
  weight_filler { type: "xavier" } } }
layer { name: "o" type: "InnerProduct" bottom: "wide" top: "o" inner_product_param { num_output: 1
  weight_filler { type: "xavier" } } }
layer { name: "far" type: "EuclideanLoss" bottom: "o" bottom: "target" top: "far" }
"""


def test_a_batch_that_does_not_fit_into_memory_is_given_up(problem, monkeypatch):
    """0.8 MB a blob and image: 400 images want 320 MB a blob, 4 some 60 MB beside torch. What a tuning makes of it is
    tested in test_stages.py, on made-up speeds."""
    monkeypatch.chdir(problem)
    with h5py.File("wide.h5", "w") as file:
        file["data"], file["target"] = np.ones((4000, 1), np.float32), np.ones((4000, 1), np.float32)
    Path("wide.txt").write_text("wide.h5\n")
    Path("wide.prototxt").write_text(WIDE)
    Path("wide_solver.prototxt").write_text('net: "wide.prototxt" base_lr: 1e-9 lr_policy: "fixed" max_iter: 80')
    made = recipe("wide_solver.prototxt", Path("wide"), epochs=1, backend=Limited(200 << 20))
    large, small = (
        made.trial(Plan("batch", SPEED, 2 * batch / 4000, 1e-9, 1e-9, (0.0, 0.0), 0.0, batch)) for batch in (400, 4)
    )
    with Engine(1) as engine:
        found = engine.run([large, small], may_be_too_large={large})
    assert ["GaveUp" in found[trial].counts for trial in (large, small)] == [True, False] and found[small].finished
    assert "out of memory; a smaller batch_size" in large.log.read_text().partition("Gave up: ")[2]


@pytest.mark.parametrize("budget", ["1epochs", "5epochs", "0.001s"])
def test_a_tiny_budget_leaves_the_file_as_it_came(problem, monkeypatch, capsys, budget):
    """Not a cycle that nobody has tried; and the time of a first trial is all that is spent before that is known."""
    monkeypatch.chdir(problem)
    assert main(["tune", "--solver=solver.prototxt", f"--out={budget}", "--jobs=1", f"--budget={budget}"]) == 0
    told = capsys.readouterr().out
    assert "=> the file stays as it came  (not sure)\n   the budget bore neither" in told
    assert told.count(": done") == (budget == "0.001s") and "the ramp gets longer" not in told
    tuned, own = (read_text(f"{name}solver.prototxt", SolverParameter) for name in (f"{budget}/", ""))
    assert tuned == own and "The file stays as it came" in Path(f"{budget}/report.html").read_text()


def test_a_worker_decodes_each_record_once(problem, monkeypatch):
    """Two trials of a whole epoch in one process: the second decodes only the record that tells the shape."""
    monkeypatch.chdir(problem)
    decoded, pixels = [], datum.pixels
    monkeypatch.setattr(datum, "pixels", lambda *given: decoded.append(1) or pixels(*given))
    monkeypatch.setattr(in_process, "_SHELF", Shelf())  # other tests read the same files in this process
    made = recipe("solver.prototxt", problem / "decoded", epochs=1)
    first, second = (Plan("batch", SPEED, 1.1, 1e-4, 1e-4, (0.9, 0.9), 0, 128, run) for run in range(2))
    made.trial(first).run()
    assert len(decoded) >= 1497
    decoded.clear()
    made.trial(second).run()
    assert len(decoded) <= 2  # of the training and the test set


def test_a_full_disk_names_the_file_and_what_is_done_is_kept(problem, monkeypatch):
    """A limit on the size of files stands for the disk; with room again the trial is run anew."""
    monkeypatch.chdir(problem)
    trial = recipe("solver.prototxt", Path("full"), epochs=1).trial(
        Plan(FINAL, CYCLE, 1, 0.01, 0.1, (0.9, 0.9), 0, 128)
    )
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        with pytest.raises(CaffeError, match="full/trials/final/.*/train.log: cannot be written: File too large"):
            trial.run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert trial.log.stat().st_size == 8192 and trial.result() is None
    assert trial.run().finished


def test_a_whole_training_that_broke_off_goes_on(problem, monkeypatch):
    """From the newest of four snapshots, as if undisturbed; at its end the last one is left."""
    monkeypatch.chdir(problem)
    plan = Plan(FINAL, CYCLE, 4, 0.01, 0.1, (0.95, 0.85), 1e-3, 128)  # 48 iterations, a test each 4, a snapshot each 12
    whole = recipe("solver.prototxt", Path("undisturbed"), epochs=4).trial(plan).run()
    trial = recipe("solver.prototxt", Path("broken"), epochs=4).trial(plan)

    def ends(run):
        if len(run.test) == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trial.run(ends)
    run = trial.run()
    assert [resume.iteration for resume in run.resumes] == [24]
    assert run.test.iteration.tolist() == whole.test.iteration.tolist() == list(range(4, 52, 4))
    assert run.test.main_loss.tolist() == whole.test.main_loss.tolist()
    assert [path.name for path in trial.folder.glob("*.solverstate")] == ["snapshot_iter_48.solverstate"]


def test_several_test_nets_are_all_in_the_answer(problem, monkeypatch):
    """The trials test the one of `net`; the solver that is left has the person's others and their test_iter."""
    monkeypatch.chdir(problem)
    text = (problem / "solver.prototxt").read_text()
    (problem / "several.prototxt").write_text(text + 'test_net: "net.prototxt"\ntest_iter: 2\n')
    tuning = Tuning(recipe("several.prototxt", Path("several"), epochs=1))
    tuning.decisions.append(Decision("range", {"max_lr": 0.3}, "so it is", "high"))
    solver = answer.solver(tuning)
    assert (
        solver.lr_policy == "1cycle" and list(solver.test_iter) == [3, 2] and list(solver.test_net) == ["net.prototxt"]
    )
    plan = answer.final_plan(tuning)
    assert not tuning.recipe.trial(plan).solver.count("test_net")


def test_ctrl_c_says_how_it_goes_on(problem, monkeypatch, capsys):
    monkeypatch.chdir(problem)

    class Session:
        tuning = Tuning(recipe("solver.prototxt", Path("stopped"), epochs=1))

        def __iter__(self):
            raise KeyboardInterrupt

    monkeypatch.setattr("pysolver.commands.tune.tune", lambda *words, **named: Session())
    assert main([*QUICK, "--out=stopped"]) == 130
    assert capsys.readouterr().out.endswith("interrupted: the same command goes on from here\n")


def test_from_python_and_in_a_notebook(problem, monkeypatch):
    monkeypatch.chdir(problem)
    session = pysolver.disciplined.tune("solver.prototxt", "python", epochs=1, seeds=1, jobs=1, stages=["final"])
    assert "as in the file" in session._repr_html_() and session.values["max_lr"] == pytest.approx(0.01)
    alone = pysolver.disciplined.tune("solver.prototxt", "alone", stages=["range"])
    assert last_epochs(session.tuning, "range") > 0 == last_epochs(alone.tuning, "range"), (
        "a budget keeps nothing for runs that never come"
    )
    (decision,) = session
    assert decision.stage == "final" and decision.values["accuracy"] > 0.3
    shown = session._repr_html_()
    assert shown.startswith("<iframe srcdoc=") and "Final training" in shown and shown.count('"') == 4
    assert f"<strong>{decision.headline}</strong> (not sure)" in decision._repr_html_()
    for name in ("solver.prototxt", "decisions.json", "report.html"):
        assert (problem / "python" / name).is_file()
    with pytest.raises(CaffeError, match="there is no stage 'end'"):
        pysolver.disciplined.tune("solver.prototxt", "python", stages=["end"])


def test_a_range_test_by_itself(problem, monkeypatch, capsys):
    monkeypatch.chdir(problem)
    words = ["range_test", "--solver=solver.prototxt", "--max_lr=1.5", "--epochs=12", "--jobs=2", "-o", "range.svg"]
    assert main(words) == 0
    told = capsys.readouterr().out
    said, picture = told.split("=> ")[1].split("\n")[:2], (problem / "range.svg").read_text()
    assert said[0].startswith("max_lr ") and all(" ".join(line.split()) in picture for line in said)
    assert "for the final runs" not in told, "there are none"
    decided = float(told.split("=> max_lr ")[1].split()[0])
    assert 0.2 < decided < 1.2  # where every run on this net breaks


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_killed_at_random_moments_it_decides_the_same(problem):
    """Twenty SIGKILLs; then it is left alone."""
    command = [sys.executable, "-m", "pysolver", "tune", "--solver=solver.prototxt", "--epochs=6", "--seeds=1",
               "--stages=range,cycle", "--jobs=2"]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def begin(out: str) -> subprocess.Popen:
        return subprocess.Popen([*command, f"--out={out}"], cwd=problem, env=environment, stdout=subprocess.DEVNULL)

    started = time.monotonic()
    assert begin("undisturbed").wait() == 0
    span = time.monotonic() - started
    dice = random.Random(5)
    for _ in range(20):
        process = begin("killed")
        try:
            process.wait(dice.uniform(span / 10, span / 2))  # starting alone takes a tenth of it
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert begin("killed").wait() == 0
    decided = [json.loads((problem / name / "decisions.json").read_text()) for name in ("undisturbed", "killed")]
    for told in decided:
        for trial in told["trials"]:
            del trial["seconds"], trial["command"]
        del told["cost"]["seconds"]
    assert decided[0] == decided[1]


def test_a_trial_of_two_processes_takes_two_batches_an_update(problem, monkeypatch):
    monkeypatch.chdir(problem)
    one = recipe("solver.prototxt", Path("t"), epochs=4)
    two = recipe("solver.prototxt", Path("t"), epochs=4, backend=Command(("pysolver",), processes=2), processes=2)
    assert two.facts.batch == 2 * one.facts.batch and two.facts.rate == one.facts.rate
    plan = Plan(FINAL, CYCLE, 4, 0.01, 0.1, (0.9, 0.9), 0, two.facts.batch)
    images = read_text("net.prototxt", NetParameter).layer[0].data_param.batch_size
    assert two.with_batch(plan.batch).layer[0].data_param.batch_size == images
    assert one.with_batch(plan.batch).layer[0].data_param.batch_size == 2 * images
    assert two.solver_of(plan).max_iter == one.solver_of(plan).max_iter, "as many updates of as many images"
    assert two.trial(plan).command.startswith("pysolver train --processes=2 --solver=t/trials/final/")


@pytest.mark.long
def test_the_trials_are_such_runs(problem, monkeypatch, capsys):
    monkeypatch.chdir(problem)
    command = ["tune", "--solver=solver.prototxt", "--out=ranks", "--stages=final", "--seeds=1", "--epochs=1"]
    assert main([*command, "--processes=2"]) == 0
    logs = [path.read_text() for path in problem.glob("ranks/trials/*/*/train.log")]
    assert len(logs) == 2
    assert all(
        "2 processes train this net: an update takes 2 batches" in log and "Optimization Done" in log for log in logs
    )
    assert "# For 2 processes, each with the net's batch." in Path("ranks/solver.prototxt").read_text()
    trials = json.loads(Path("ranks/decisions.json").read_text())["trials"]
    assert all(" train --processes=2 --solver=ranks/trials/" in trial["command"] for trial in trials)
    assert all(trial["epochs"] == pytest.approx(1, abs=0.1) for trial in trials)
    assert main([*command, "--processes=2", "--caffe=/bin/true"]) == 1
    assert "--processes is for trials of pysolver" in capsys.readouterr().err

"""The experiments train: on made-up data, whole through the command, and the paper's nets for 20 iterations."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import EXPERIMENT, NET, make_data, nets_of_the_paper, short_trial

import pysolver as caffe
from pysolver.commands import main
from pysolver.disciplined.paper import page_words
from pysolver.disciplined.paper.experiment import read_all
from pysolver.disciplined.paper.lock import HOLDER
from pysolver.disciplined.paper.results import read_results
from pysolver.disciplined.paper.trials import Variation, net_of
from pysolver.disciplined.trial import here
from pysolver.proto.text import to_text

ROOT = Path(__file__).parents[3]
# Learned parameters: cifar10_full as its layers add up; densenet as published (1.0 M with k = 12, 40 layers); the
# residual nets as the layers of the author's published nets add up.
PARAMETERS = {
    "three_layers": (75 * 32 + 32) + (800 * 32 + 32) + (800 * 64 + 64) + (1024 * 10 + 10),
    "resnet56": 860_874,
    "wide_resnet32": 5_903_626,
    "densenet40": 1_019_722,
}


def residual_parameters(blocks: list[int]) -> int:
    """Convolutions with biases, two numbers a channel for Scale behind each, and the last layer."""

    def layer(inputs: int, outputs: int, kernel: int) -> int:
        return kernel**2 * inputs * outputs + 3 * outputs

    total, channels = layer(3, 16, 3), 16
    for outputs in blocks:
        total += layer(channels, outputs, 3) + layer(outputs, outputs, 3)
        total += layer(channels, outputs, 2) if outputs != channels else 0
        channels = outputs
    return total + 10 * channels + 10


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("generate_experiment_nets", ROOT / "experiments/nets/generate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_files_are_what_the_generator_writes():
    module = generator()
    assert set(module.NETS) == set(PARAMETERS) == {path.stem for path in (ROOT / "experiments/nets").glob("*.prototxt")}
    for name in module.NETS:
        text = (ROOT / f"experiments/nets/{name}.prototxt").read_text()
        assert text == module.text_of(name), "run experiments/nets/generate.py"


def test_sizes_of_the_nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert PARAMETERS["resnet56"] == residual_parameters([16] * 8 + [32] * 9 + [64] * 9)
    assert PARAMETERS["wide_resnet32"] == residual_parameters([16] * 5 + [64] * 5 + [256] * 5)
    make_data(tmp_path, "cifar10", 20)
    monkeypatch.chdir(ROOT)
    curve = read_all("experiments")["fig9"].curves[0]
    for name, count in PARAMETERS.items():
        net = net_of(replace(curve, net=f"experiments/nets/{name}.prototxt"), Variation(1, 2, "msra"), tmp_path)
        (tmp_path / "net.prototxt").write_text(to_text(net))
        built = caffe.Net(str(tmp_path / "net.prototxt"), caffe.TRAIN)
        learned = {k: blobs for k, blobs in built.params.items() if built.layer_dict[k].type != "BatchNorm"}
        assert sum(blob.count for blobs in learned.values() for blob in blobs) == count, name
        for words in (page_words.BEFORE, (ROOT / "experiments/README.md").read_text()):
            assert f"{count:,}".replace(",", " ") in words


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    Path("experiments").mkdir()
    Path("experiments/table9.toml").write_text(EXPERIMENT)
    Path("net.prototxt").write_text(NET)
    assert main(["reproduce", "table9"]) == 1
    assert "first: pysolver data mnist experiments/data/mnist" in capfd.readouterr().err
    make_data(Path("experiments/data"), "mnist", 60)
    assert main(["reproduce", "table9", "--rows", "first", "third"]) == 1
    assert "no rows 'third'; there are: 'first', 'low', 'high', 'again'" in capfd.readouterr().err

    assert main(["reproduce", "table9", "--rows", "first", "--runs", "2", "--jobs", "2"]) == 0
    out = capfd.readouterr().out
    assert "table9: loss: high < low: holds" in out
    assert "table9: loss: again < low: not run" in out
    experiment = read_all("experiments")["table9"]
    kept = read_results(Path("experiments/results"), experiment)
    assert [(r.curve, r.seed, r.batch, r.filler, r.iterations) for r in kept] == [
        ("low", 1, 6000, "xavier", 21),
        ("low", 2, 6000, "msra", 21),
        ("high", 1, 6000, "xavier", 21),
        ("high", 2, 6000, "msra", 21),
    ]
    log = Path("experiments/runs/table9/high/run_1/train.log")
    before = log.stat().st_mtime_ns
    assert main(["reproduce", "table9", "--runs", "2", "--page", "docs/paper.md"]) == 0
    assert log.stat().st_mtime_ns == before  # done is done
    assert "table9: loss: again < low: holds" in capfd.readouterr().out
    assert "| test loss: `high` < `low` | **holds** | `high` " in Path("docs/paper.md").read_text()
    assert Path("docs/paper/table9.png").exists()
    assert main(["reproduce"]) == 0
    assert re.search("3 of 3 curves at 1 +3 hold", capfd.readouterr().out)

    shutil.rmtree("experiments/runs")  # as in a fresh checkout: what is kept is done
    capfd.readouterr()
    assert main(["reproduce", "table9", "--runs", "2", "--caffe", "none"]) == 0
    assert not Path("experiments/runs").exists()
    assert "6 of 6 runs are kept already, whoever made them" in capfd.readouterr().out
    kept_file = Path("experiments/results/table9.jsonl")
    kept_file.write_text("".join(line for line in kept_file.open() if '"again", "seed": 2' not in line))
    assert main(["reproduce", "table9", "--runs", "2"]) == 0  # one is missing, and goes on from another's weights
    assert sorted(str(path.parent) for path in Path("experiments/runs").rglob("train.log")) == [
        "experiments/runs/table9/again/run_2",
        "experiments/runs/table9/high/run_2",
    ]


def test_other_settings_and_other_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    """A run counts as long as the experiment says what was trained; and a run has one process at a time."""
    monkeypatch.chdir(tmp_path)
    Path("experiments").mkdir()
    Path("experiments/table9.toml").write_text(EXPERIMENT)
    Path("net.prototxt").write_text(NET)
    make_data(Path("experiments/data"), "mnist", 60)
    words = ["reproduce", "table9", "--rows", "low", "--runs", "1"]
    run = Path("experiments/runs/table9/low/run_1")
    run.mkdir(parents=True)
    handle = os.open(run, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)  # as another process that trains it
    (run / HOLDER).write_text("1")
    assert main(words) == 0
    assert capfd.readouterr().out.splitlines()[0] == "table9, low, run 1: is being run by process 1"
    assert [path.name for path in run.iterdir()] == [HOLDER]  # nothing of the other's was touched
    (run / HOLDER).unlink()  # it has not said yet who it is
    assert main(words) == 0
    assert capfd.readouterr().out.splitlines()[0] == "table9, low, run 1: is being run by another process"
    os.close(handle)

    assert main(words) == 0
    assert "accuracy" in capfd.readouterr().out
    Path("experiments/table9.toml").write_text(EXPERIMENT.replace("rate = 1e-6", "rate = 2e-6"))
    assert main(["reproduce"]) == 0
    told = capfd.readouterr()
    assert "table9, low, run 1: does not count: was made with other settings than today's; run it again" in told.err
    assert "0 of 3 curves" in told.out
    assert main(words) == 0
    assert "table9, low, run 1: accuracy" in capfd.readouterr().out
    assert main(["reproduce"]) == 0
    assert "1 of 3 curves" in capfd.readouterr().out
    text = EXPERIMENT.replace("[curves.low]", "[curves.lower]").replace("low ", "lower ").replace("< low", "< lower")
    Path("experiments/table9.toml").write_text(text)
    assert main(["reproduce"]) == 0
    assert "table9, low, run 1: does not count: is of a curve that is no more" in capfd.readouterr().err


def begin(*words: str) -> subprocess.Popen:
    """`pysolver reproduce` in a process of its own, which hears Ctrl-C and SIGHUP even if the tests (nohup) do not."""
    listen = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    listen += "signal.signal(signal.SIGHUP, signal.SIG_DFL); "
    code = f"{listen}from pysolver.commands import main; sys.exit(main({['reproduce', *words]}))"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def wait_for(found: Callable[[], Any]) -> Any:
    """What it gives as soon as it gives something."""
    end = time.monotonic() + 60
    while not (answer := found()):
        assert time.monotonic() < end
        time.sleep(0.005)
    return answer


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout with one experiment, and a Caffe without a GPU that says its process and trains for long."""
    monkeypatch.chdir(tmp_path)
    Path("experiments").mkdir()
    Path("experiments/table9.toml").write_text(EXPERIMENT)
    Path("net.prototxt").write_text(NET)
    make_data(Path("experiments/data"), "mnist", 60)
    Path("caffe").write_text("#!/bin/sh\n[ $1 = train ] || exit 1\necho $$ > caffe_process\nexec sleep 60\n")
    Path("caffe").chmod(0o755)


def caffes_process() -> int:
    return wait_for(lambda: Path("caffe_process").exists() and int(Path("caffe_process").read_text() or 0))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_what_ends_it_ends_its_training(folder: None, number: signal.Signals):
    ours = begin("table9", "--rows", "first", "--caffe", "./caffe")
    training = caffes_process()
    assert "solver_mode: CPU" in Path("experiments/runs/table9/low/run_1/solver.prototxt").read_text()
    ours.send_signal(number)
    told, _ = ours.communicate(timeout=60)
    assert ours.returncode == 128 + number
    assert not is_running(training)
    assert told.splitlines() == ["stopped; the same command goes on from the snapshots"]  # and nothing else was begun
    assert not Path("experiments/runs/table9/low/run_1", HOLDER).exists()


def test_a_run_of_another_process_is_skipped(folder: None, capfd: pytest.CaptureFixture[str]):
    """Also when that was killed, and its training goes on; and what would go on from that run waits."""
    ours = begin("table9", "--rows", "high", "--runs", "1", "--caffe", "./caffe")
    training = caffes_process()
    assert main(["reproduce", "table9", "--rows", "high", "again", "--runs", "1"]) == 0
    assert capfd.readouterr().out.splitlines()[:2] == [
        f"table9, high, run 1: is being run by process {ours.pid}",
        "table9, again, run 1: goes on from 'high', which is not there yet",
    ]
    ours.kill()
    ours.communicate()
    assert is_running(training)
    assert main(["reproduce", "table9", "--rows", "high", "--runs", "1"]) == 0
    told = f"high, run 1: is being run by a training that process {ours.pid} left behind"
    assert told in capfd.readouterr().out
    os.kill(training, signal.SIGKILL)


def test_a_run_that_was_ended_goes_on_as_if_undisturbed(folder: None, capfd: pytest.CaptureFixture[str]):
    """The very numbers of a run in one go, for which it is run once more."""
    text = EXPERIMENT.replace("batch = 6000", "batch = 120").replace("rate = 1e-6", "rate = 0.05")
    Path("experiments/table9.toml").write_text(text)
    words, run = ["table9", "--rows", "low", "--runs", "1"], Path("experiments/runs/table9/low/run_1")
    ours = begin(*words)
    wait_for(lambda: list(run.glob("*.solverstate")))
    ours.send_signal(signal.SIGTERM)
    assert "stopped" in ours.communicate(timeout=60)[0]
    assert "Optimization stopped early" in (run / "train.log").read_text()
    assert not read_results(Path("experiments/results"), read_all("experiments")["table9"])

    assert main(["reproduce", *words]) == 0
    (resumed,) = read_results(Path("experiments/results"), read_all("experiments")["table9"])
    assert ", resumed at " in resumed.machine
    assert sorted(path.name for path in run.glob("snapshot*")) == [
        f"snapshot_iter_{resumed.iterations}.caffemodel",
        f"snapshot_iter_{resumed.iterations}.solverstate",
    ]
    shutil.rmtree("experiments/runs")
    Path("experiments/results/table9.jsonl").unlink()
    assert main(["reproduce", *words]) == 0
    (whole,) = read_results(Path("experiments/results"), read_all("experiments")["table9"])
    assert "resumed" not in whole.machine
    assert (resumed.test, resumed.train) == (whole.test, whole.train)


@pytest.mark.long
@pytest.mark.timeout(1800)  # inception-resnet-v2 has 20 iterations at 299 x 299
@pytest.mark.parametrize(("experiment", "curve"), nets_of_the_paper())
def test_trains_20_iterations(experiment: str, curve: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With batches of 2; what a whole run costs stands in the experiment."""
    monkeypatch.chdir(ROOT)
    short = short_trial(experiment, curve, tmp_path, here, 20)
    run = short.run()
    assert run.finished
    assert np.isfinite(run.train.loss).all()
    assert len(run.test) == 2

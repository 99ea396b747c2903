"""One net trained by several processes: the same training as with a larger iter_size, resumed and stopped as one."""

from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import rank_runs
import tiny_training

from pysolver.logs import read_log
from pysolver.proto import blobproto
from pysolver.proto.upgrade import read_weights
from pysolver.solver import state_file

GOLDEN = Path(__file__).parents[1] / "golden" / "solvers"
CASES = json.loads((GOLDEN / "cases.json").read_text())

# No crops, dropout or batch statistics: what is left depends on the records alone, not on who reads them. Two layers
# share one weight, one layer is frozen, one parameter gets no gradient.
PLAIN = """
name: "Plain"
layer { name: "data" type: "Data" top: "data" top: "label"
  transform_param { scale: 0.0039 }
  data_param { source: "DATABASES/mnist640_lmdb" batch_size: 7 backend: LMDB } }
layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1"
  param { lr_mult: 0 } inner_product_param { num_output: 12 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "ip1" top: "ip1" }
layer { name: "a" type: "InnerProduct" bottom: "ip1" top: "a"
  param { name: "w" } param { lr_mult: 2 } inner_product_param { num_output: 12 weight_filler { type: "xavier" } } }
layer { name: "b" type: "InnerProduct" bottom: "a" top: "b"
  param { name: "w" } inner_product_param { num_output: 12 weight_filler { type: "xavier" } } }
layer { name: "unused" type: "InnerProduct" bottom: "b" top: "unused" propagate_down: false
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "silence" type: "Silence" bottom: "unused" }
layer { name: "ip2" type: "InnerProduct" bottom: "b" top: "ip2"
  inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }
"""
FIELDS = """type: "Nesterov" momentum: 0.9 cyclical_momentum: [0.7, 8] base_lr: 0.1 max_iter: 60 snapshot: 0
  test_iter: [] test_interval: 0 display: 1 average_loss: 1 """


def plain(folder, databases, extra: str):
    """The plain net in a folder. A field in `extra` replaces the one above."""
    tiny_training.write(folder, databases, FIELDS + extra)
    (folder / "net.prototxt").write_text(PLAIN.replace("DATABASES", str(databases)))
    return folder


def blobs(file) -> list[np.ndarray]:
    return [blobproto.to_array(blob) for layer in read_weights(str(file)).layer for blob in layer.blobs]


@pytest.mark.parametrize(("ranks", "passes"), [(2, 1), (4, 1), (2, 2)])
def test_ranks_are_an_iter_size(ranks, passes, tmp_path, databases):
    """To rounding: the sums are the same numbers in another order. Caffe clips the sum of the passes, but the mean of
    the ranks, so the limit of one process is that much higher."""
    alone = plain(tmp_path / "alone", databases, f"iter_size: {ranks * passes} clip_gradients: {0.4 * passes * ranks}")
    log = rank_runs.run(alone, 1)
    together = plain(tmp_path / "ranks", databases, f"iter_size: {passes} clip_gradients: {0.4 * passes}")
    ranked = rank_runs.run(together, ranks)
    assert ranked.count("Gradient clipping") == log.count("Gradient clipping") > 5
    before, after = (blobs(folder / "snap_iter_60.caffemodel") for folder in (alone, together))
    for a, b in zip(before, after, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=3e-5 * np.abs(b).max())
    rates = [re.findall(r"Iteration \d+, lr = .*", text) for text in (log, ranked)]
    assert rates[0] == rates[1] and len(rates[0]) == 60
    states = [state_file.read(str(folder / "snap_iter_60.solverstate")) for folder in (alone, together)]
    positions = [point.train[0].state["batches"] for state in states for point in state.note.points]
    assert positions == [60 * passes * ranks, *[60 * passes] * ranks]


@pytest.mark.parametrize(("ranks", "passes"), [(4, 1), (2, 2)])
def test_a_real_caffes_run_with_iter_size_4(ranks, passes, golden):
    """Its final weights, as near as one process comes to them, and its test results."""
    case = "lenet_iter_size4"
    folder = golden(case)
    text = (folder / "solver.prototxt").read_text()
    (folder / "solver.prototxt").write_text(text.replace("iter_size: 4", f"iter_size: {passes}"))
    spec = CASES[case]
    options = dict(word.removeprefix("--").split("=") for word in spec["commands"][0].split()[1:])
    options.pop("solver")
    log = rank_runs.run(folder, ranks, **options)
    ours, caffes = (
        blobs(folder / "snap_iter_60.caffemodel"),
        blobs(next(GOLDEN.joinpath(case).glob("final.caffemodel"))),
    )
    for a, b in zip(ours, caffes, strict=True):
        assert np.linalg.norm(a - b) <= 50 * spec["noise"]["weights"] * (np.linalg.norm(b) + 1e-3)
    tests = [
        re.findall(r"Test net output #\d: (\w+) = (\S+)", text) for text in (log, (folder / "log.txt").read_text())
    ]
    assert len(tests[0]) == len(tests[1]) == 8
    for (name, value), (_, expected) in zip(*tests):
        assert float(value) == pytest.approx(float(expected), abs=0.021 if name == "accuracy" else 2e-5)


def test_two_runs_with_one_seed_are_the_same_and_ranks_differ(tmp_path, databases):
    """Crops, mirrors, dropout: bit by bit the same twice; each rank has random numbers of its own."""
    files = []
    for name in ("first", "second"):
        folder = tiny_training.write(tmp_path / name, databases, "max_iter: 12 snapshot: 0")
        rank_runs.run(folder, 2)
        files.append((folder / "snap_iter_12.caffemodel").read_bytes())
    assert files[0] == files[1]
    points = state_file.read(str(folder / "snap_iter_12.solverstate")).note.points
    assert len(points) == 2 and points[0].rng.tolist() != points[1].rng.tolist()


def test_n_steps_and_m_more_are_n_plus_m_with_ranks(tmp_path, databases):
    """Test nets, multistep, iter_size, Adam: the snapshot holds every rank's generator and position."""
    whole = tiny_training.write(tmp_path / "whole", databases, "max_iter: 20 snapshot: 9")
    rank_runs.run(whole, 2)
    part = tiny_training.write(tmp_path / "part", databases, "max_iter: 20 snapshot: 9")
    for file in whole.glob("snap_iter_9.*"):
        shutil.copy(file, part)
    log = rank_runs.run(part, 2, snapshot="snap_iter_9.solverstate")
    assert "Continuing exactly" in log and "2 processes train this net" in log
    for name in ("snap_iter_18.caffemodel", "snap_iter_20.caffemodel"):
        assert (part / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize("ranks", [1, 3])
def test_another_number_of_ranks_goes_on_and_says_what_changes(ranks, tmp_path, databases):
    folder = tiny_training.write(tmp_path / "run", databases, "max_iter: 4 snapshot: 0")
    rank_runs.run(folder, 2)
    tiny_training.write(folder, databases, "max_iter: 7 snapshot: 0")
    log = rank_runs.run(folder, ranks, snapshot="auto")
    assert f"A snapshot of 2 processes, this run has {ranks}: weights, history and schedule go on" in log
    assert "Iteration 6" in log and "Iteration 3," not in log.replace("Iteration 3, Testing", "")


def test_a_log_of_every_rank(tmp_path, databases):
    folder = plain(tmp_path / "run", databases, "")
    log = rank_runs.run(folder, 2, log_ranks="logs")
    first, second = (read_log(folder / "logs" / f"rank_{rank}.log") for rank in range(2))
    assert (len(first.train), len(second.train)) == (61, 60), "the last display is rank 0's alone"
    assert first.finished and second.finished
    assert list(first.train.lr[:60]) == list(second.train.lr)
    assert not np.array_equal(first.train["loss"][:60], second.train["loss"]), "records of its own"
    assert log.count("Iteration 3 (") == 1


def test_divided_tests_have_the_results_of_one_process(tmp_path, databases):
    """The train net has BatchNorm, whose statistics are rank 0's; 3 and 7 batches do not divide by 2."""
    logs = []
    for divided in (False, True):
        folder = tiny_training.write(
            tmp_path / str(divided), databases, "max_iter: 20 test_iter: [3, 7] test_interval: 4 snapshot: 10"
        )
        log = rank_runs.run(folder, 2, distributed_test=divided)
        logs.append([line.split("] ", 1)[-1] for line in log.splitlines() if "Test net" in line or "Testing" in line])
    assert logs[0] == logs[1] and len(logs[0]) == 24
    rest = tiny_training.write(
        tmp_path / "rest", databases, "max_iter: 20 test_iter: [3, 7] test_interval: 4 snapshot: 10"
    )
    for file in (tmp_path / "True").glob("snap_iter_10.*"):
        shutil.copy(file, rest)
    log = rank_runs.run(rest, 2, snapshot="snap_iter_10.solverstate")
    after = [line.split("] ", 1)[-1] for line in log.splitlines() if "Test net" in line or "Testing" in line]
    assert after == logs[0][-12:], "a snapshot of either is continued by the other"


@pytest.mark.parametrize("divided", [False, True])
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("poll", [10, 12, 14])
def test_any_rank_may_ask_in_a_test_too(rank, poll, divided, tmp_path, databases):
    """PREEMPT at a poll: after an update, or before a batch of the test at iteration 5. All stop, and go on exactly."""
    extra = "max_iter: 11 snapshot: 0 test_iter: [4, 2]"
    whole = tiny_training.write(tmp_path / "whole", databases, extra)
    rank_runs.run(whole, 2, distributed_test=divided)
    part = tiny_training.write(tmp_path / "part", databases, extra)
    log = rank_runs.run(part, 2, distributed_test=divided, ask=(rank, poll, signal.SIGTERM))
    assert "Optimization stopped early." in log and not (part / "snap_iter_11.solverstate").exists()
    assert "To go on: pysolver train --solver=solver.prototxt" in log
    rank_runs.run(part, 2, distributed_test=divided, snapshot="auto")
    assert (part / "snap_iter_11.caffemodel").read_bytes() == (whole / "snap_iter_11.caffemodel").read_bytes()


@pytest.mark.long
@pytest.mark.parametrize(
    ("rank", "number", "said"),
    [
        (1, signal.SIGSTOP, "no answer from rank 1 within 20 seconds"),
        (0, signal.SIGSTOP, r"no answer within 20 seconds, nor from 127.0.0.1:\d+, where the ranks meet"),
        (0, signal.SIGKILL, "another process of this training is gone"),
    ],
)
def test_a_rank_that_hangs_or_is_gone_is_told_by_all_others(rank, number, said, tmp_path, databases):
    """Without a starter; rank 0 is also where the ranks meet."""
    folder = tiny_training.write(tmp_path / "run", databases, "max_iter: 1000000 snapshot: 0 test_interval: 50")
    processes = rank_runs.start(folder, 3, ask=(rank, 5, number), timeout=20)
    others = [0, 1, 2]
    others.remove(rank)
    for other in others:
        processes[other].join(120)
    statuses = [processes[other].exitcode for other in others]
    for process in processes:
        process.kill()
    assert statuses == [1, 1]
    for other in others:
        errors = [line for line in (folder / f"log{other}").read_text().splitlines() if line.startswith("pysolver: ")]
        assert len(errors) == 1 and re.fullmatch(f"pysolver: {said}", errors[0])


def test_time_of_several_processes(tmp_path):
    """The first times the layers alone; then both, and what they exchange: 6 of the 7 MB are trained."""
    (tmp_path / "net.prototxt").write_text("""
layer { name: "in" type: "DummyData" top: "x" top: "y"
  dummy_data_param { shape { dim: 2 dim: 1024 } shape { dim: 2 } } }
layer { name: "a" type: "InnerProduct" bottom: "x" top: "a" param { lr_mult: 0 } param { lr_mult: 0 }
  inner_product_param { num_output: 256 } }
layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" inner_product_param { num_output: 4096 bias_term: false } }
layer { name: "c" type: "InnerProduct" bottom: "b" top: "c" inner_product_param { num_output: 128 bias_term: false } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "c" bottom: "y" top: "loss" }
""")
    first, second = rank_runs.command(tmp_path, 2, "time", "--model=net.prototxt", "--iterations=3")
    assert second == "" and "Average Forward-Backward: " in first
    assert "Gradients are exchanged in parts: 2.1 MB + 4.19 MB" in first
    told = re.search(r"2 processes at once: (\S+) ms an iteration each, (\S+) ms of it \((\d+)%\) waiting", first)
    assert 0 < float(told[2]) < float(told[1]) and int(told[3]) == round(100 * float(told[2]) / float(told[1]))

"""SIGKILL at any moment, resume with --snapshot=auto: the final weights are those of a run that was never disturbed."""

from __future__ import annotations

import itertools
import random
import re
import signal
from collections.abc import Iterator

import numpy as np
import pytest
import tiny_training

from pysolver.solver import state_file

LAST = 40  # max_iter of the tiny training
LONG = 200


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, databases):
    """Folder of the reference run, and the processor time it takes."""
    folder = tiny_training.write(tmp_path_factory.mktemp("kill") / "reference", databases)
    finish(folder)
    return folder, float((folder / "seconds").read_text())


def finish(folder, **options) -> None:
    process = tiny_training.start(folder, snapshot="auto", **options)
    process.join(60)
    assert process.exitcode == 0, (folder / "log").read_text()[-3000:]


def assert_same_end(folder, reference, last: int = LAST) -> None:
    model, state = f"snap_iter_{last}.caffemodel", f"snap_iter_{last}.solverstate"
    assert (folder / model).read_bytes() == (reference / model).read_bytes(), "weights differ"
    ours, expected = (state_file.read(str(place / state)) for place in (folder, reference))
    assert all(np.array_equal(a, b) for a, b in zip(ours.history, expected.history, strict=True))
    assert ours.current_step == expected.current_step
    assert ours.note.points[0].smoothing == expected.note.points[0].smoothing
    assert told(folder, last) == told(reference, last)
    assert not list(folder.glob(".*.tmp")), "leftovers of killed runs"


def told(folder, iteration: int) -> list[str]:
    """The last test: its results depend on the weights and on where the test data stand."""
    lines = [line.split("] ", 1)[-1] for line in (folder / "log").read_text().splitlines()]
    last = len(lines) - lines[::-1].index(f"Iteration {iteration}, Testing net (#0)")
    return [line for line in lines[last:] if "Test net output" in line]


def kill_and_resume(folder, kills: list[dict], **options) -> int:
    """Run until killed, as often as `kills` says, then to the end; how many kills came before the end."""
    killed = 0
    for kill in kills:
        process = tiny_training.start(folder, **kill, snapshot="auto", **options)
        process.join(60)
        assert process.exitcode in (0, -signal.SIGKILL, -signal.SIGPROF)
        killed += process.exitcode != 0
    finish(folder, **options)
    return killed


def random_kills(seed: int, seconds: float) -> Iterator[list[dict]]:
    """For one run after the other: where it is killed. Half at any time, half at file operations of snapshot writing;
    some runs are killed twice."""
    rng = random.Random(seed)
    for n in itertools.count():
        kills = [{"die_after": rng.uniform(0.01, seconds)} if n % 2 else {"die_at_call": rng.randint(1, 56)}]
        if rng.random() < 0.25:
            kills.append({"die_at_call": rng.randint(1, 8)})
        yield kills


def check(number: int, undisturbed, databases, tmp_path) -> None:
    reference, seconds = undisturbed
    killed = runs = 0
    for kills in random_kills(number, seconds):
        folder = tiny_training.write(tmp_path / str(runs), databases)
        killed += kill_and_resume(folder, kills)
        assert_same_end(folder, reference)
        runs += 1
        if killed >= number:
            break
    print(f"{killed} kills in {runs} runs; all ended bit for bit as the undisturbed run")


def test_20_kills(undisturbed, databases, tmp_path):
    check(20, undisturbed, databases, tmp_path)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_200_kills(undisturbed, databases, tmp_path):
    check(LONG, undisturbed, databases, tmp_path)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_goes_on_exactly(precision: str, databases, tmp_path):
    """Killed within the first snapshot and within the second: what the last start says is the end of the whole log."""
    extra = "max_iter: 15 clip_gradients: 2 display: 1"
    reference, folder, single = (tiny_training.write(tmp_path / name, databases, extra) for name in "rks")
    for each in (reference, folder, single):
        net = each / "net.prototxt"  # the weight is for an overflow of fp16, which is over before the first snapshot
        net.write_text(net.read_text().replace('top: "loss"', 'top: "loss" loss_weight: 8'))
    finish(reference, precision=precision)
    kills = [{"die_at_call": 3}, {"die_at_call": 13}]
    assert kill_and_resume(folder, kills, precision=precision) == 2
    assert_same_end(folder, reference, 15)
    expected, found = iterations(reference), iterations(folder)
    assert found and found == expected[-len(found) :] and found[0].startswith("Iteration 6, loss")
    assert any("Gradient clipping" in line for line in found) and any("Test net output" in line for line in found)
    assert any("Overflow" in line for line in expected) == (precision == "fp16")
    assert (folder / "log").read_text().count(f"Precision: {precision}; ") == 3, "each start says it"
    finish(single)
    assert iterations(single) != expected, "half precision rounds"


def iterations(folder) -> list[str]:
    """What the folder's last start said of its iterations, without times and file names."""
    texts = [line.split("] ", 1)[-1] for line in (folder / "log").read_text().splitlines()]
    last = len(texts) - texts[::-1].index("Solving Tiny")
    told = [re.sub(r" \(.*? iter/s, .*?\)", "", text) for text in texts[last:]]
    return [text for text in told if re.match(r"\s*(Iteration|Test|Train|Gradient|Overflow)", text)]


@pytest.mark.parametrize(("format", "calls"), [("BINARYPROTO", range(1, 17)), ("HDF5", [1, 3, 6, 16])])
def test_each_file_operation_of_the_first_snapshots(format, calls, databases, tmp_path):
    """Killed before or inside each write, fsync and rename of model and state, at iterations 6 and 12."""
    extra = f"snapshot_format: {format} max_iter: 14 snapshot: 6"
    reference = tiny_training.write(tmp_path / "reference", databases, extra)
    finish(reference)
    end = ".h5" if format == "HDF5" else ""
    for call in calls:
        folder = tiny_training.write(tmp_path / str(call), databases, extra)
        assert kill_and_resume(folder, [{"die_at_call": call}]) == 1
        model = f"snap_iter_14.caffemodel{end}"
        assert (folder / model).read_bytes() == (reference / model).read_bytes(), call

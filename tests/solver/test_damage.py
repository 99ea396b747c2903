"""Damaged files: a clear error or a load that is proven equal; never a traceback, a hang, a silently wrong net."""

from __future__ import annotations

import random
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_training

from pysolver.errors import CaffeError
from pysolver.proto import caffe_pb2
from pysolver.proto.upgrade import read_solver
from pysolver.solver import snapshots
from pysolver.solver.solver import Solver
from pysolver.solver.train import TrainOptions, train


@pytest.fixture(scope="module")
def trained(tmp_path_factory, databases):
    """Folders of a finished tiny training, by format."""
    folders = {}
    for kind in ("BINARYPROTO", "HDF5"):
        extra = f"snapshot_format: {kind} max_iter: 13"
        folder = tiny_training.write(tmp_path_factory.mktemp("damage") / kind, databases, extra)
        process = tiny_training.start(folder)
        process.join(60)
        assert process.exitcode == 0
        folders[kind] = folder
    return folders


@pytest.fixture(params=["BINARYPROTO", "HDF5"])
def folder(request, trained, tmp_path, monkeypatch):
    """A copy to damage, which is the working directory."""
    copy = tmp_path / "run"
    shutil.copytree(trained[request.param], copy)
    monkeypatch.chdir(copy)
    return copy


def solver() -> Solver:
    return Solver(read_solver("solver.prototxt"), subscribers=())


def content(of: Solver) -> list[np.ndarray]:
    """All that a restore takes from the two files."""
    numbers = [np.array([of.iter, of.current_step]), np.array(of.losses.smoothing.window, np.float32)]
    return (
        [p.detach().numpy().copy() for p in of.net.learnable_params] + [h.numpy().copy() for h in of.history] + numbers
    )


def names(folder) -> tuple:
    return next(folder.glob("snap_iter_13.caffemodel*")), next(folder.glob("snap_iter_13.solverstate*"))


def assert_error_or_equal(target: Solver, state, expected) -> bool:
    """Restore; True if it was refused. A refused restore leaves the solver as it was."""
    before = content(target)
    try:
        target.restore(str(state))
    except CaffeError as error:
        assert "\n" not in str(error) and len(str(error)) < 400, error
        assert ".solverstate" in str(error) or ".caffemodel" in str(error)
        assert all(np.array_equal(a, b) for a, b in zip(content(target), before, strict=True))
        return True
    assert all(np.array_equal(a, b) for a, b in zip(content(target), expected, strict=True))
    return False


@pytest.mark.parametrize("which", ["caffemodel", "solverstate"])
def test_bit_flips(which, folder):
    model, state = names(folder)
    damaged = model if which == "caffemodel" else state
    intact = damaged.read_bytes()
    good, target = solver(), solver()
    good.restore(str(state))
    rng = random.Random(11)
    refused = 0
    for _ in range(500):
        data = bytearray(intact)
        bit = rng.randrange(8 * len(data))
        data[bit // 8] ^= 1 << bit % 8
        damaged.write_bytes(data)
        refused += assert_error_or_equal(target, state.name, content(good))
        if refused and target.iter:
            target = solver()
    assert refused >= 490  # the rest hit the name of an HDF5 file's checksum


@pytest.mark.parametrize("which", ["caffemodel", "solverstate"])
def test_cuts(which, folder):
    model, state = names(folder)
    damaged = model if which == "caffemodel" else state
    intact = damaged.read_bytes()
    good, target = solver(), solver()
    good.restore(str(state))
    size = len(intact)
    lengths = {0, 1, 2, 3, 4, 5, 7, 8, 9, 16, 100, 512, size // 2, *range(size - 30, size), *range(9, size, size // 50)}
    for length in sorted(lengths):
        damaged.write_bytes(intact[:length])
        assert_error_or_equal(target, state.name, content(good))
    damaged.write_bytes(intact + b"more")
    assert_error_or_equal(target, state.name, content(good))


@pytest.mark.parametrize("case", ["lenet_resume_multistep", "lenet_resume_hdf5_nesterov"])
@pytest.mark.parametrize("which", ["caffemodel", "solverstate"])
def test_flips_in_files_of_a_real_caffe(case, which, golden):
    """They carry no checksum: a flip in a number is not to be seen, one in the structure is a clear error."""
    here = golden(case)
    for file in (Path(__file__).parents[1] / "golden" / "solvers" / case).glob("snap_iter_*"):
        shutil.copy(file, here)
    damaged, state = next(here.glob(f"snap*.{which}*")), next(here.glob("snap*.solverstate*"))
    intact, target = damaged.read_bytes(), solver()
    rng = random.Random(3)
    for n in range(200):
        data = bytearray(intact)
        bit = rng.randrange(8 * (len(data) if n % 2 else 3000))  # the structure is mostly in front
        data[bit // 8] ^= 1 << bit % 8
        damaged.write_bytes(data)
        try:
            target.restore(state.name)
        except CaffeError as error:
            assert "\n" not in str(error) and len(str(error)) < 400


def test_auto_falls_back_to_the_one_before_and_says_so(folder, capsys):
    model, state = names(folder)
    prefix = "snap"
    assert snapshots.newest(prefix) == state.name
    state.write_bytes(state.read_bytes()[:-40])
    before = snapshots.newest(prefix)
    assert before.startswith("snap_iter_12.solverstate")
    assert f"Passing over a snapshot: {state.name}: " in capsys.readouterr().err
    other = folder / before.replace("solverstate", "caffemodel")
    other.write_bytes(other.read_bytes()[::-1])
    assert snapshots.newest(prefix).startswith("snap_iter_6.solverstate")
    assert "is not the file that was written with it" in capsys.readouterr().err
    train(TrainOptions("solver.prototxt", snapshot="auto"))
    log = capsys.readouterr().err
    assert "Resuming from snap_iter_6.solverstate" in log and "Continuing exactly" in log


def test_auto_without_any_intact_snapshot_starts_anew(folder, capsys):
    for file in folder.glob("*.solverstate*"):
        file.write_bytes(b"")
    train(TrainOptions("solver.prototxt", snapshot="auto"))
    log = capsys.readouterr().err
    assert log.count("Passing over a snapshot") == 3 and "the file is empty" in log
    assert "No intact snapshot of snap" in log and "Iteration 0, Testing net" in log


def test_a_disk_that_is_full(folder, capsys, databases):
    """A limit on file sizes stands for a full disk: what was there survives, the run says what happened."""
    earlier = {file.name: file.read_bytes() for file in folder.glob("snap*")}
    tiny_training.write(folder, databases, "max_iter: 30 snapshot: 5")
    process = tiny_training.start(folder, largest_file=2000, snapshot="auto")
    process.join(60)
    assert process.exitcode == 1
    log = (folder / "log").read_text()
    assert "No snapshot at iteration 15: snap_iter_15.caffemodel: cannot be written: File too large" in log
    assert "Earlier snapshots are intact" in log and "Traceback" not in log
    assert {file.name: file.read_bytes() for file in folder.glob("snap*")} == earlier
    assert not list(folder.glob(".*tmp*"))


def test_history_of_another_shape_is_refused_though_caffe_takes_it(trained, monkeypatch):
    folder = trained["BINARYPROTO"]
    monkeypatch.chdir(folder)
    state = caffe_pb2.SolverState.FromString((folder / "snap_iter_13.solverstate").read_bytes())
    state.DiscardUnknownFields()
    state.history[0].shape.dim[:] = [1, len(state.history[0].data)]
    (folder / "other.solverstate").write_bytes(state.SerializeToString())
    with pytest.raises(CaffeError, match="history blob 0 has shape .* a state of another net"):
        solver().restore("other.solverstate")


def test_memory_stays_bounded_by_the_file(tmp_path, monkeypatch, databases):
    """A few bytes that promise a huge blob."""
    monkeypatch.chdir(tiny_training.write(tmp_path / "x", databases))
    state = caffe_pb2.SolverState(iter=1, learned_net="none", current_step=0)
    state.history.add().shape.dim.extend([1 << 40, 1 << 40])
    (tmp_path / "x" / "big.solverstate").write_bytes(state.SerializeToString())
    with pytest.raises(CaffeError, match="history blob 0"):
        solver().restore("big.solverstate")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4 << 20  # kB

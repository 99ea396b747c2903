"""The files of a prefix: which are written, which are kept, who may write them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import threading

import pytest
from short_runs import make_solver

from pysolver.errors import CaffeError
from pysolver.solver import snapshots
from pysolver.solver.train import TrainOptions, train


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ("max_iter: 5 snapshot: 0", ["snap_iter_5"]),
        ("max_iter: 5 snapshot: 2", ["snap_iter_2", "snap_iter_4", "snap_iter_5"]),
        ("max_iter: 4 snapshot: 2", ["snap_iter_2", "snap_iter_4"]),
        ("max_iter: 5 snapshot: 2 snapshot_after_train: false", ["snap_iter_2", "snap_iter_4"]),
        ("max_iter: 0 snapshot: 2", []),
        ("max_iter: 0 snapshot: 0", ["snap_iter_0"]),
    ],
)
def test_which_snapshots(folder, extra, expected):
    here = folder(extra)
    make_solver()[0].solve()
    assert sorted(file.stem for file in here.glob("*.solverstate")) == expected
    assert sorted(file.stem for file in here.glob("*.caffemodel")) == expected


def test_keep(folder):
    here = folder("max_iter: 20 snapshot: 3")
    (here / "snap_iter_90.caffemodel").write_text("later than this run")
    (here / "snap_iter_1.caffemodel").write_text("no state beside it: not a snapshot")
    make_solver(keep=2)[0].solve()
    assert sorted(file.name for file in here.glob("snap*")) == [
        *("snap_iter_1.caffemodel", "snap_iter_18.caffemodel", "snap_iter_18.solverstate"),
        *("snap_iter_20.caffemodel", "snap_iter_20.solverstate", "snap_iter_90.caffemodel"),
    ]


def test_keep_does_not_count_a_damaged_snapshot(folder, capsys):
    """`auto` passes over iteration 13 and goes on from 12: at 18 the two that stay are 12 and 18."""
    here = folder("max_iter: 13 snapshot: 6")
    make_solver()[0].solve()
    damaged = here / "snap_iter_13.solverstate"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    folder("max_iter: 18 snapshot: 6")
    train(TrainOptions("solver.prototxt", snapshot="auto", keep=2))
    assert "Passing over a snapshot" in capsys.readouterr().err
    assert sorted(file.stem for file in here.glob("*.solverstate")) == ["snap_iter_12", "snap_iter_18"]
    assert snapshots.newest("snap") == "snap_iter_18.solverstate"


def test_a_prefix_has_one_run(folder):
    """The second is told; when the first dies, however, the prefix is free, and what it left goes."""
    here = folder("max_iter: 1")
    code = (
        "import sys, time\nfrom pysolver.solver.snapshots import claim\n"
        "with claim('snap'):\n    print('has it', flush=True)\n    time.sleep(60)"
    )
    first = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout.readline() == "has it\n"
        leftover = here / ".0123abcd.tmp.snap_iter_3.caffemodel"
        leftover.write_bytes(b"half")
        with pytest.raises(CaffeError, match=f"prefix 'snap' is in use by another run .process {first.pid}."):
            train(TrainOptions("solver.prototxt"))
        assert leftover.exists()
    finally:
        first.kill()
        first.wait()
    train(TrainOptions("solver.prototxt"))
    assert sorted(file.name for file in here.iterdir()) == [
        *("net.prototxt", "snap_iter_1.caffemodel", "snap_iter_1.solverstate", "solver.prototxt"),
    ]


def test_other_prefixes_are_free(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with snapshots.claim("a"), snapshots.claim("b"), snapshots.claim("nowhere/c"):
        with pytest.raises(CaffeError, match="in use"), snapshots.claim("a"):
            pass
        assert sorted(os.listdir()) == [".a.lock", ".b.lock"]
    assert os.listdir() == []


def test_a_lock_on_a_file_that_bears_the_name_no_more_is_none(tmp_path, monkeypatch):
    """Between our open and our flock the last holder removes its file, and a third run makes and locks a new one."""
    flock, others = fcntl.flock, []

    def after_the_others(handle: int, how: int) -> None:
        if not others:
            os.unlink(tmp_path / ".snap.lock")
            others.append(os.open(tmp_path / ".snap.lock", os.O_RDWR | os.O_CREAT))
            flock(others[0], how)
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", after_the_others)
    with pytest.raises(CaffeError, match="in use by another run"), snapshots.claim(str(tmp_path / "snap")):
        pass
    os.close(others[0])


def test_threads_that_claim_at_once_are_let_in_one_by_one(tmp_path):
    """Each waits until it has the prefix; the lock's file is removed and made anew all the time."""
    inside, most = [], []

    def claim_often():
        for _ in range(200):
            with contextlib.suppress(CaffeError), snapshots.claim(str(tmp_path / "snap")):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=claim_often) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1}


def test_a_lock_leads_to_no_other_file(tmp_path):
    """Somebody else may have put a link there, in /tmp: what it leads to was emptied."""
    (tmp_path / "notes").write_text("of years")
    (tmp_path / ".snap.lock").symlink_to(tmp_path / "notes")
    with snapshots.claim(str(tmp_path / "snap")):
        assert (tmp_path / "notes").read_text() == "of years"

"""`--processes N`: processes that are started and watched; whatever ends one of them ends all, with one line."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import pytest
import rank_runs
import tiny_training

from pysolver.errors import CaffeError
from pysolver.solver.ranks import STARTER
from pysolver.solver.train import TrainOptions

LIMIT = 200  # seconds until a process counts as hanging


class Job:
    """`pysolver train --processes 2` in a folder."""

    started: ClassVar[list[subprocess.Popen]] = []

    def __init__(
        self, folder: Path, *arguments: str, module: tuple[str, ...] = ("pysolver",), out: str = "out"
    ) -> None:
        self.out = folder / out
        command = [sys.executable, "-m", *module, "train", "--solver=solver.prototxt", *arguments]
        with self.out.open("w") as out:
            self.process = subprocess.Popen(
                command, cwd=folder, stderr=out, stdout=out, env={**os.environ, "OMP_NUM_THREADS": "1"}
            )
        self.started.append(self.process)

    @property
    def log(self) -> str:
        return self.out.read_text()

    def ranks(self) -> list[int]:
        """The process ids, rank 0 first; none once the job has ended."""
        if self.process.poll() is not None:
            return []
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return sorted(map(int, children.split()))

    def reach(self, iteration: int) -> Job:
        end = time.monotonic() + LIMIT
        while f"Iteration {iteration} " not in self.log:
            assert self.process.poll() is None and time.monotonic() < end, self.log[-2000:]
            time.sleep(0.05)
        return self

    def end(self) -> int:
        """The status. No process is left, and no more than one line is not the log's."""
        ranks = self.ranks() if self.process.poll() is None else []
        status = self.process.wait(LIMIT)
        time.sleep(0.1)
        assert not [pid for pid in ranks if Path(f"/proc/{pid}").exists()]
        assert len(self.errors()) == (status != 0), self.errors()
        return status

    def errors(self) -> list[str]:
        return [
            line for line in self.log.splitlines() if re.match(r"pysolver: |Traceback|Exception|\[|terminate", line)
        ]


@pytest.fixture(autouse=True)
def nothing_is_left():
    """A test that fails leaves no training behind: the processes of a starter end with it."""
    yield
    while Job.started:
        Job.started.pop().kill()


def endless(folder: Path, databases: Path, extra: str = "") -> Path:
    return tiny_training.write(folder, databases, f"max_iter: 1000000 snapshot: 0 test_interval: 50 {extra}")


@pytest.mark.parametrize(
    ("to", "number"),
    [
        ("the starter", signal.SIGINT),
        *(
            pytest.param(to, number, marks=pytest.mark.long)
            for to, number in (
                ("the starter", signal.SIGTERM),
                (0, signal.SIGINT),
                (0, signal.SIGTERM),
                (1, signal.SIGINT),
                (1, signal.SIGTERM),
            )
        ),
    ],
)
def test_a_stop_to_any_process_stops_all_and_snapshots(to, number, tmp_path, databases):
    folder = endless(tmp_path / "run", databases)
    job = Job(folder, "--processes=2").reach(6)
    os.kill(job.process.pid if to == "the starter" else job.ranks()[to], number)
    assert job.end() == 0
    assert "Optimization stopped early." in job.log
    again = re.search(r"To go on: pysolver train --solver=solver.prototxt --snapshot=(\S+) --processes=2", job.log)
    assert (folder / again[1]).exists()


@pytest.mark.long
@pytest.mark.parametrize("to", ["the starter", 0, 1])
def test_hang_up_snapshots_and_goes_on(to, tmp_path, databases):
    folder = endless(tmp_path / "run", databases)
    job = Job(folder, "--processes=2").reach(6)
    os.kill(job.process.pid if to == "the starter" else job.ranks()[to], signal.SIGHUP)
    end = time.monotonic() + LIMIT
    while not list(folder.glob("*.solverstate")) and time.monotonic() < end:
        time.sleep(0.05)
    os.kill(job.process.pid, signal.SIGTERM)
    assert job.end() == 0 and len(list(folder.glob("*.solverstate"))) == 2


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.long), 1])
def test_a_killed_rank_ends_the_job_with_its_name(rank, tmp_path, databases):
    job = Job(endless(tmp_path / "run", databases), "--processes=2").reach(6)
    os.kill(job.ranks()[rank], signal.SIGKILL)
    assert job.end() == 1
    assert re.fullmatch(rf"pysolver: rank {rank} \(process \d+\) was killed by SIGKILL; the others.*", job.errors()[0])


@pytest.mark.long
def test_a_rank_that_begins_when_its_starter_is_dead_ends():
    """Before, it waited for the others, who had as little to meet at."""
    dead = subprocess.Popen(["true"])
    dead.wait()
    code = "from pysolver.solver.ranks import as_rank\nwith as_rank():\n    print('at work')"
    place = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x"}
    for starter, status in ((dead.pid, 1), (os.getpid(), 0)):
        environment = {**os.environ, **place, STARTER: str(starter)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (status, "" if status else "at work\n"), done.stderr


def test_a_killed_starter_leaves_no_process(tmp_path, databases):
    job = Job(endless(tmp_path / "run", databases), "--processes=2").reach(6)
    ranks = job.ranks()
    job.process.kill()
    end = time.monotonic() + LIMIT
    while any(Path(f"/proc/{pid}").exists() for pid in ranks) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks)


def kill_some(folder: Path, rng: random.Random, kills: int) -> int:
    """Train to the end, killing a rank at so many moments by chance; how many of them came before the end."""
    job = Job(folder, "--processes=2", f"--max_restarts={kills}")
    done = 0
    for _ in range(kills):
        end = time.monotonic() + rng.uniform(1, 7)
        while time.monotonic() < end and job.process.poll() is None:
            time.sleep(0.02)
        if ranks := job.ranks():
            with contextlib.suppress(ProcessLookupError):
                os.kill(rng.choice(ranks), signal.SIGKILL)
                done += 1
    assert job.end() == 0, job.log[-3000:]
    return done


def check_kills(folder: Path, reference: Path) -> None:
    assert (folder / "snap_iter_40.caffemodel").read_bytes() == (reference / "snap_iter_40.caffemodel").read_bytes()
    assert not list(folder.glob(".*"))


@pytest.fixture(scope="module")
def reference(tmp_path_factory, databases):
    folder = tiny_training.write(tmp_path_factory.mktemp("ranks") / "reference", databases)
    rank_runs.run(folder, 2)
    return folder


def test_a_restart_ends_as_if_nothing_had_been(tmp_path, databases, reference):
    folder = tiny_training.write(tmp_path / "run", databases)
    job = Job(folder, "--processes=2", "--max_restarts=1").reach(9)
    os.kill(job.ranks()[1], signal.SIGKILL)
    assert job.end() == 0
    assert "Resuming from snap_iter_" in job.log and "Continuing exactly" in job.log
    check_kills(folder, reference)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_20_kills_at_random_moments(tmp_path, databases, reference):
    rng, kills, number = random.Random(5), 0, 0
    while kills < 20:
        assert number < 30, f"only {kills} of the moments came before the end"
        folder = tiny_training.write(tmp_path / str(number), databases)
        kills, number = kills + kill_some(folder, rng, 2), number + 1
        check_kills(folder, reference)


@pytest.mark.long
def test_torchrun_with_two_nodes(tmp_path, databases, reference):
    """Two agents on this machine, a process each: the run of two processes here."""
    folder = tiny_training.write(tmp_path / "run", databases)
    port = rank_runs.free_port()
    nodes = []
    for node in range(2):
        words = ["torch.distributed.run", "--nnodes=2", f"--node-rank={node}", "--nproc-per-node=1"]
        words += ["--master-addr=127.0.0.1", f"--master-port={port}", "-m", "pysolver"]
        nodes.append(Job(folder, module=tuple(words)))
        nodes[-1].out = folder / "out"
    assert [node.process.wait(200) for node in nodes] == [0, 0], (folder / "out").read_text()[-3000:]
    check_kills(folder, reference)


@pytest.mark.long
def test_torchrun_goes_on_when_a_machine_is_lost(tmp_path, databases, reference, monkeypatch):
    """The agent of one of two nodes is killed, its rank goes with it; another takes the place."""
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    folder = tiny_training.write(tmp_path / "run", databases)
    words = ["torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--max-restarts=3", "--rdzv-backend=c10d"]
    words += [f"--rdzv-endpoint=127.0.0.1:{rank_runs.free_port()}", "--rdzv-id=1", "-m", "pysolver"]

    def node(name: str) -> Job:
        return Job(folder, module=tuple(words), out=name)

    first = node("first")
    time.sleep(5)  # it is to be where the agents meet
    second = node("second")
    first.reach(9)
    lost = second.ranks()
    second.process.kill()
    end = time.monotonic() + LIMIT
    while any(Path(f"/proc/{pid}").exists() for pid in lost) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in lost), "an orphan"
    third = node("third")
    assert [job.process.wait(LIMIT) for job in (first, third)] == [0, 0], first.log[-3000:]
    assert "Continuing exactly" in first.log + third.log
    check_kills(folder, reference)


# ---- mistakes -------------------------------------------------------------------------------------------------------


def refused(folder: Path, *arguments: str) -> str:
    """The one line of a job that cannot run."""
    job = Job(folder, *arguments)
    assert job.end() == 1
    return job.errors()[0]


@pytest.mark.long
def test_mistakes_are_told_once(tmp_path, databases):
    folder = tiny_training.write(tmp_path / "run", databases)
    net = (folder / "net.prototxt").read_text()
    (folder / "net.prototxt").write_text(net.replace('"InnerProduct"', '"InnerProdukt"', 1))
    assert re.match(r"pysolver: (rank 1: )?net.prototxt: layer 'ip1'", refused(folder, "--processes=2"))
    again = Job(folder, "--processes=2", "--max_restarts=2")
    assert again.end() == 1 and again.log.count("Initializing solver from parameters") == 1, "it would come back"
    assert "torch finds no CUDA device here" in refused(folder, "--gpu=0,1")
    bad = Job(folder, "--processes=2", "--max_restarts=-1")
    assert bad.process.wait(LIMIT) == 2 and "must be at least 0, not -1" in bad.log
    assert 'Invalid signal effect "halt"' in refused(folder, "--processes=2", "--sigint_effect=halt")


@pytest.mark.long
def test_more_processes_than_records(tmp_path, databases, monkeypatch):
    """Said before anything is trained, by one of them."""
    folder = tiny_training.write(tmp_path / "run", databases)
    images = "".join(f"{k}.png 0\n" for k in range(1))
    (folder / "list.txt").write_text(images)
    cv2 = pytest.importorskip("cv2")
    import numpy as np

    cv2.imwrite(str(folder / "0.png"), np.zeros((9, 9), np.uint8))
    net = (folder / "net.prototxt").read_text()
    data = net[net.index("layer {") : net.index('layer { name: "ip1"')]
    image_data = """layer { name: "data" type: "ImageData" top: "data" top: "label"
      image_data_param { source: "list.txt" batch_size: 2 is_color: false } }\n"""
    (folder / "net.prototxt").write_text(net.replace(data, image_data))
    tiny_training_solver = (folder / "solver.prototxt").read_text()
    (folder / "solver.prototxt").write_text(re.sub(r"(?m)^test_.*\n", "", tiny_training_solver))
    assert "1 records for 2 processes: each needs one of its own" in refused(folder, "--processes=2")


def test_a_port_in_use(tmp_path, databases):
    folder = tiny_training.write(tmp_path / "run", databases)
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        first, second = rank_runs.start(folder, 2, port=port)
        first.join(LIMIT)
        second.kill()  # it waits for somebody to answer at that port
        second.join()
    assert first.exitcode == 1
    said = [line for line in (folder / "log0").read_text().splitlines() if line.startswith("pysolver: ")]
    assert len(said) == 1 and f"port 127.0.0.1:{port} is in use" in said[0]


def test_flags_say_the_options():
    options = TrainOptions("a b.prototxt", keep=2, progress=False, stop_on_nan=True, processes=3)
    assert options.flags() == ["--no-progress", "--solver=a b.prototxt", "--keep=2", "--stop_on_nan", "--processes=3"]
    assert TrainOptions("s").flags() == ["--solver=s"]


def test_the_root_cause_comes_before_its_consequences():
    from types import SimpleNamespace as Failure

    from pysolver.solver import starter

    def failure(exitcode=1, message="", timestamp=5, **data):
        return Failure(exitcode=exitcode, message=message, timestamp=timestamp, pid=7, error_file_data=data,
                       signal_name=lambda: "SIGKILL")  # fmt: skip

    lost = failure(message="gone", timestamp=1, rank="0", lost=True)
    own = failure(message="no such file", timestamp=9, rank="1", lost=False)
    killed = failure(exitcode=-9, timestamp=2)
    ended = failure(exitcode=-15, timestamp=0)
    assert starter._root_cause({0: lost, 1: own, 2: killed, 3: ended}) == "rank 1: no such file"
    assert starter._root_cause({0: lost, 2: killed, 3: ended}).startswith("rank 2 (process 7) was killed by SIGKILL")
    assert starter._root_cause({0: lost}) == "gone"
    with pytest.raises(CaffeError):
        raise CaffeError(starter._root_cause({0: own}))

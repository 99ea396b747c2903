"""The engine: nothing lost, nothing done twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pretend import LOG, Pretend

from pysolver.disciplined import session
from pysolver.disciplined.engine import Engine, Progress, locked, share_cores, share_gpus
from pysolver.disciplined.session import workers
from pysolver.disciplined.trial import Trial
from pysolver.errors import CaffeError


def trial(folder: Path, **options: object) -> Trial:
    return Trial(folder, "base_lr: 1\n", None, Pretend(**options))


def calls(made: Trial) -> list[str]:
    return (made.folder / "calls").read_text().splitlines()


def test_each_is_run_once_in_processes_of_their_own_cores(tmp_path):
    trials = [trial(tmp_path / f"t{i}", loss=i + 1.0) for i in range(5)]
    with Engine(2) as engine:
        found = engine.run([*trials, trials[0]])
        again = engine.run(trials)
    assert {t: run.test.main_loss[0] for t, run in found.items()} == {t: i + 1.0 for i, t in enumerate(trials)}
    assert set(again) == set(trials) and all(len(calls(t)) == 1 for t in trials)
    assert {line.partition(" gpu:")[0] for t in trials for line in calls(t)} <= {str(sorted(s)) for s in share_cores(2)}
    assert str(os.getpid()) not in {line.rsplit(" ", 1)[1] for t in trials for line in calls(t)}


def test_a_worker_that_dies_costs_its_trial_one_retry(tmp_path):
    told: list[Progress] = []
    once, others = trial(tmp_path / "once", deaths=1), [trial(tmp_path / f"t{i}") for i in range(3)]
    with Engine(2, told.append) as engine:
        found = engine.run([once, *others])
    assert set(found) == {once, *others} and len(calls(once)) == 2 and all(len(calls(t)) == 1 for t in others)
    assert [p.words for p in told if p.state == "again"] == ["its worker died"]
    with Engine(1) as engine, pytest.raises(CaffeError, match="twice: its worker process died 2 times"):
        engine.run([trial(tmp_path / "twice", deaths=2)])


def test_what_may_be_too_large_for_memory_is_given_up_and_not_tried_again(tmp_path):
    """Where torch says so, and where the kernel kills. The log says it; another trial's end is an error."""
    told = trial(tmp_path / "told", words="out of memory; so and so", memory=True)
    killed, other = trial(tmp_path / "killed", deaths=9), trial(tmp_path / "other")
    with Engine(1) as engine:
        found = engine.run([told, killed, other], may_be_too_large={told, killed})
        assert [run.counts.get("GaveUp", 0) for run in found.values()] == [1, 1, 0]
        again = engine.run([told, killed], may_be_too_large={told, killed})
    assert (len(calls(told)), len(calls(killed))) == (1, 2) and set(again) == {told, killed}
    words = [made.log.read_text().splitlines()[-1].partition("] ")[2] for made in (told, killed)]
    assert words == ["Gave up: out of memory; so and so", f"Gave up: {killed.folder}: its worker process died 2 times"]
    small = trial(tmp_path / "small", words="out of memory; so and so", memory=True)
    with Engine(1) as engine, pytest.raises(CaffeError, match="out of memory; so and so"):
        engine.run([small], may_be_too_large={told})


def test_a_worker_that_dies_while_it_has_nothing_to_do_costs_nothing(tmp_path):
    told: list[Progress] = []
    before, after = trial(tmp_path / "before"), trial(tmp_path / "after")
    with Engine(1, told.append) as engine:
        engine.run([before])
        worker = int(calls(before)[0].split()[-1])
        os.kill(worker, signal.SIGKILL)
        until(lambda: not Path(f"/proc/{worker}").exists())
        assert after in engine.run([after])
    assert len(calls(after)) == 1 and not [p for p in told if p.state == "again"]


def test_a_trial_that_fails_is_told_and_what_is_done_is_kept(tmp_path):
    good, bad = trial(tmp_path / "good"), trial(tmp_path / "bad", words="net.prototxt: no such layer")
    with Engine(1) as engine, pytest.raises(CaffeError, match="net.prototxt: no such layer"):
        engine.run([good, bad])
    assert good.result() is not None and bad.result() is None


def test_logs_come_back_from_another_machine(tmp_path, monkeypatch):
    """An executor whose trials leave no files here: their logs are what it returns."""

    class Elsewhere(ThreadPoolExecutor):
        def submit(self, function, *arguments):
            return super().submit(lambda: LOG.format(loss=7.0).encode())

    made = trial(tmp_path / "far")
    with Engine(2, executor=Elsewhere(2)) as engine:
        assert engine.run([made])[made].test.main_loss.tolist() == [7.0]
    assert made.result() is not None and (made.folder / "solver.prototxt").read_text() == made.solver


def test_a_second_tuning_of_the_folder_refuses(tmp_path):
    with locked(tmp_path / "out"):
        code = "import pathlib, sys; from pysolver.disciplined.engine import locked; "
        code += f"locked(pathlib.Path({str(tmp_path / 'out')!r})).__enter__()"
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert other.returncode != 0 and "another tuning is at work in this folder" in other.stderr
    with locked(tmp_path / "out"):
        pass


def test_cores_are_dealt_out(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3, 8, 9})
    assert share_cores(2) == [{0, 1, 2}, {3, 8, 9}] and share_cores(6) == [{0}, {1}, {2}, {3}, {8}, {9}]
    assert share_cores(4) == [{0}, {1}, {2}, {3}]
    assert len(share_cores(12)) == 12 and all(len(share) == 1 for share in share_cores(12))


@pytest.mark.parametrize("number, status", [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_nobody_outlives_a_tuning(number, status, tmp_path):
    """Neither its two workers nor what these started (a Caffe, say), who would write into the trials' folders; SIGTERM
    and Ctrl-C, which all of a terminal's processes get, without a word (of Python's, about semaphores)."""
    (tmp_path / "caffe").write_text('#!/bin/sh\necho $$ > "${2#--solver=}.pid"\nexec sleep 600\n')
    (tmp_path / "caffe").chmod(0o755)
    code = f"""
import signal, sys
from pathlib import Path
from pysolver.disciplined.engine import Engine
from pysolver.disciplined.trial import Command, Trial
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests may run in a background that ignores it
    caffe = Command(({str(tmp_path / "caffe")!r},))
    with Engine(2) as engine:
        try:
            engine.run([Trial(Path({str(tmp_path)!r}) / name, "", None, caffe) for name in ("a", "b")])
        except KeyboardInterrupt:
            sys.exit(130)
"""
    (tmp_path / "tuning.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(tmp_path / "tuning.py")]
    parent = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, start_new_session=True)
    files = [tmp_path / name / "solver.prototxt.pid" for name in ("a", "b")]
    until(lambda: all(file.exists() and file.read_text().endswith("\n") for file in files))
    caffes = [int(file.read_text()) for file in files]
    workers = [int(Path(f"/proc/{pid}/stat").read_text().split()[3]) for pid in caffes]
    assert parent.pid not in workers and len({*workers, *caffes}) == 4
    if number == signal.SIGINT:
        os.killpg(parent.pid, number)
    else:
        parent.send_signal(number)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in (*workers, *caffes)))
    said = parent.communicate()[1]
    assert parent.returncode == status and (number == signal.SIGKILL or said == b"")


def test_no_thread_of_a_pool_is_left(tmp_path):
    """One that still closed its pipes while Python ended made Python write into them, and say so on the terminal."""
    before = set(threading.enumerate())
    with Engine(1) as engine:
        engine.run([trial(tmp_path / "t")])
        assert set(threading.enumerate()) > before
    assert set(threading.enumerate()) == before


def test_a_second_ctrl_c_leaves_the_signals_as_they_were(monkeypatch):
    def interrupted(engine: Engine) -> None:
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(Engine, "close", interrupted)
    engine = Engine(1)
    with pytest.raises(KeyboardInterrupt), engine:
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_log_comes_back_from_other_machines_alone(tmp_path, monkeypatch):
    """A pool whose worker was killed while it sent one never ended: only what is too short to be cut goes that way."""
    sent, take = [], Engine._take
    monkeypatch.setattr(Engine, "_take", lambda engine, trial, log: sent.append(log) or take(engine, trial, log))
    with Engine(1) as engine:
        engine.run([trial(tmp_path / "here")])
    with ThreadPoolExecutor(1) as pool, Engine(1, executor=pool) as engine:
        engine.run([trial(tmp_path / "there")])
    assert sent == [b"", (tmp_path / "there/train.log").read_bytes()] and sent[1]


def until(condition) -> None:
    """Wait for it, as long as a test may take at all."""
    while not condition():
        time.sleep(0.05)


@pytest.mark.parametrize("named, gpus", [("3, 5", ["3", "5", "3"]), ("", ["", "", ""])])
def test_each_worker_has_a_gpu_where_there_are_some(tmp_path, monkeypatch, named, gpus):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert share_gpus(3) == gpus
    with Engine(1) as engine:
        engine.run([made := trial(tmp_path / "t")])
    assert f"gpu:{gpus[0]} " in calls(made)[0]


def test_a_real_dask_cluster(tmp_path):
    """A scheduler and two workers in processes of their own, reached by its address; one of them dies on the way."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        executor, jobs = workers(cluster.scheduler_address, None)
        assert jobs == 2
        with Engine(jobs, executor=executor) as engine:
            trials = [trial(tmp_path / f"t{i}", loss=i + 1.0) for i in range(4)]
            once = trial(tmp_path / "once", deaths=1, loss=9.0)
            found = engine.run([once, *trials])
        pids = {line.split()[-1] for t in trials for line in calls(t)}
        executor.shutdown()
    assert {t: run.test.main_loss[0] for t, run in found.items()} == {
        once: 9.0, **{t: i + 1.0 for i, t in enumerate(trials)}}  # fmt: skip
    assert len(calls(once)) == 2 and str(os.getpid()) not in pids


def test_a_cluster_that_is_not_there(monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(session, "CONNECT", 1)
    with pytest.raises(CaffeError, match="--dask tcp://127.0.0.1:9: .*onnect"):
        workers("tcp://127.0.0.1:9", None)
    monkeypatch.setattr(distributed, "Client", lambda address, timeout: (_ for _ in ()).throw(ValueError("no scheme")))
    with pytest.raises(CaffeError, match="--dask nonsense: no scheme"):
        workers("nonsense", None)

"""Running experiments: their trials one by one or side by side, each kept as soon as it is done."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

import numpy as np

from pysolver.checkout import commit
from pysolver.cores import check_crowd
from pysolver.disciplined.children import HEED, ended_by_signals
from pysolver.disciplined.paper.experiment import Curve, Experiment
from pysolver.disciplined.paper.lock import Busy, alone
from pysolver.disciplined.paper.results import Origin, Result, find, keep, read_results, result_of
from pysolver.disciplined.paper.trials import (
    Variation,
    fillers_of,
    folder_of,
    missing_data,
    settings_of,
    trial_of,
    weights_of,
    write_fresh_state,
)
from pysolver.disciplined.trial import Command
from pysolver.errors import CaffeError
from pysolver.proto.caffe_pb2 import NetParameter
from pysolver.proto.text import parse_text


@dataclass(frozen=True)
class Wish:
    """What to run: the first `runs` runs of each curve (0: as many as the experiment says) of the groups in `rows`.

    scale: of every length. out: where the trials' folders go, results: where what is kept of them goes.
    gpu: whether the backend finds one, if it is a Caffe.
    """

    runs: int = 0
    jobs: int = 1
    rows: tuple[str, ...] = ()
    scale: float = 1
    out: Path = Path("experiments/runs")
    data: Path = Path("experiments/data")
    results: Path = Path("experiments/results")
    backend: Command = field(default_factory=Command)
    gpu: bool = True

    def curves(self, experiment: Experiment) -> tuple[Curve, ...]:
        """The experiment's curves of the rows asked for."""
        asked = {c.name for row in self.rows for c in _curves(experiment, row)}
        return tuple(c for c in experiment.curves if not self.rows or c.name in asked)


Job = tuple[Experiment, Curve, int]  # which of the curve's runs


def _curves(experiment: Experiment, row: str) -> list[Curve]:
    """Those of this group or name; if there are none, those whose names begin so: `3-layer cycle`, not `1cycle 5`."""
    exact = [c for c in experiment.curves if row in (c.group, c.name)]
    return exact or [c for c in experiment.curves if c.name.startswith(row) and not c.name[len(row) :][:1].isalnum()]


def _begins(key: str, name: str) -> bool:
    """fig7 begins fig7a and fig begins all figures, but fig1 does not begin fig10."""
    rest = key[len(name) :]
    return key.startswith(name) and not (name[-1:].isdigit() and rest[:1].isdigit())


def choose(experiments: dict[str, Experiment], names: Sequence[str]) -> list[Experiment]:
    """`fig10`, or all panels and parts with `fig7`, `table2`; CaffeError for a name that is none."""
    found: dict[str, Experiment] = {}
    for name in names:
        parts = [key for key in experiments if _begins(key, name)]
        if not parts:
            raise CaffeError(f"there is no experiment '{name}'; there are: {', '.join(experiments)}")
        found |= {key: experiments[key] for key in parts}
    return list(found.values())


def reproduce(experiments: Sequence[Experiment], wish: Wish, say: Callable[[str], None]) -> None:
    """Run what is not kept yet. CaffeError if a row or data is missing, or, at the end, if trainings failed.

    A run that another process is at work on is left to it. What ends this process ends its trainings.
    """
    check_crowd(wish.jobs, "--jobs")
    wanted = [(e, c, n) for e in experiments for c in wish.curves(e) for n in range(1, (wish.runs or e.runs) + 1)]
    known = list(dict.fromkeys(name for e in experiments for c in e.curves for name in (c.group, c.name) if name))
    if unknown := [row for row in wish.rows if not any(_curves(e, row) for e in experiments)]:
        raise CaffeError(f"no rows {', '.join(map(repr, unknown))}; there are: {', '.join(map(repr, known))}")
    asked, wanted = len(wanted), _missing(wanted, wish)
    if kept := asked - sum(job[1] in wish.curves(job[0]) for job in wanted):
        say(f"{kept} of {asked} runs are kept already, whoever made them, and are not repeated")
    if missing := missing_data([curve for _, curve, _ in wanted], wish.data):
        raise CaffeError(missing)
    if wish.jobs > 1:  # two processes with a thread a core each would wait for one another
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // wish.jobs)))
    with ended_by_signals(), ThreadPoolExecutor(wish.jobs) as pool:
        try:
            failed = _run(wanted, wish, pool, say)
        except BaseException as end:
            pool.shutdown(wait=False, cancel_futures=True)
            wish.backend.end()
            if isinstance(end, (KeyboardInterrupt, SystemExit)):
                say("stopped; the same command goes on from the snapshots")
            raise
    if failed:
        raise CaffeError(f"{len(failed)} of {len(wanted)} trainings failed; the first: {failed[0]}")


def _run(wanted: Sequence[Job], wish: Wish, pool: Executor, say: Callable[[str], None]) -> list[str]:
    """Run and keep them, those that go on from others after these; what is said of those that failed."""
    failed, absent = [], set()
    for wave in ([job for job in wanted if not job[1].after], [job for job in wanted if job[1].after]):
        coming = {}
        for experiment, curve, number in wave:
            if (experiment.name, curve.after, number) in absent:
                say(f"{_place(experiment, curve, number)}: goes on from '{curve.after}', which is not there yet")
            else:
                coming[pool.submit(_one, experiment, curve, number, wish)] = experiment, curve, number
        for done in _as_they_end(coming):
            experiment, curve, number = coming[done]
            place = _place(experiment, curve, number)
            try:
                say(f"{place}: {_told(done.result())}")
            except CaffeError as error:
                absent.add((experiment.name, curve.name, number))
                if isinstance(error, Busy):
                    say(f"{place}: {error}")
                else:
                    failed.append(str(error))
                    say(f"{place}: failed: {error}")
    return failed


def _as_they_end(futures: Iterable[Future]) -> Iterator[Future]:
    """One after the other. A wait without end would not hear a signal that another thread has caught."""
    waiting = set(futures)
    while waiting:
        done, waiting = wait(waiting, HEED, FIRST_COMPLETED)
        yield from done


def _place(experiment: Experiment, curve: Curve, number: int) -> str:
    return f"{experiment.name}, {curve.name}, run {number}"


def _told(result: Result) -> str:
    loss = result.value("loss")
    accuracy = result.value("accuracy")
    percent = "" if np.isnan(accuracy) else f"accuracy {accuracy:.2f} %, "
    told = f"{percent}test loss {loss:.4f}" if loss < np.inf else "diverged"
    return f"{told}, {result.iterations} iterations in {result.seconds:.0f} s"


def _missing(wanted: Sequence[Job], wish: Wish) -> list[Job]:
    """Those whose results are not kept, and the first parts whose weights a missing one goes on from."""
    kept = {name: read_results(wish.results, e) for name, e in {job[0].name: job[0] for job in wanted}.items()}
    missing = {(e.name, c.name, n): (e, c, n) for e, c, n in wanted if not find(kept[e.name], e, c, n, wish.scale)}
    for e, c, n in list(missing.values()):
        if c.after:
            missing[e.name, c.after, n] = (e, e.curve(c.after), n)
    return list(missing.values())


def _one(experiment: Experiment, curve: Curve, number: int, wish: Wish) -> Result:
    """Run one and keep it; what is kept and has its folder stays as it is. Busy: another process is at work on it."""
    package = Path(__file__).parents[2]  # results beside it are no code
    origin = Origin(commit(package), date.today().isoformat(), _machine(wish.backend))
    with alone(folder_of(experiment, curve, number, wish.out, wish.scale), wait=False) as lock:
        backend = replace(wish.backend, keeps=(lock,))  # a training that outlives this process still has its folder
        trial = trial_of(experiment, curve, number, wish.out, wish.scale, wish.data, backend, wish.gpu)
        kept = find(read_results(wish.results, experiment), experiment, curve, number, wish.scale)
        if kept and trial.result():
            return kept
        if trial.start:
            write_fresh_state(trial.start, weights_of(experiment, curve, number, wish.out, wish.scale))
        run = trial.run()
        if run.stopped or not run.finished:
            raise CaffeError(f"{trial.log}: was stopped before its end; the same command goes on from there")
        settings = settings_of(experiment, curve, number, wish.scale)
        variation = replace(Variation.of(curve, number), filler=fillers_of(parse_text(trial.net or "", NetParameter)))
        result = result_of(run, curve, wish.scale, variation, origin, settings)
        keep(wish.results, experiment, [result])
        return result


def _machine(backend: Command) -> str:
    what = "pysolver" if backend.is_pysolver else Path(backend.argv[0]).name
    return f"{platform.machine()}, {os.cpu_count()} cores, {what}"

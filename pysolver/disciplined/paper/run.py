"""Running experiments: their trials one by one or side by side, each kept as soon as it is done."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np

from pysolver.checkout import commit
from pysolver.cores import check_crowd
from pysolver.disciplined.paper.experiment import Curve, Experiment
from pysolver.disciplined.paper.lock import alone
from pysolver.disciplined.paper.results import Origin, Result, keep, outdated, read_results, result_of
from pysolver.disciplined.paper.trials import Variation, missing_data, settings_of, trial_of
from pysolver.disciplined.trial import Command
from pysolver.errors import CaffeError


@dataclass(frozen=True)
class Wish:
    """What to run: the first `runs` runs of each curve (0: as many as the experiment says) of the groups in `rows`.

    scale: of every length. out: where the trials' folders go, results: where what is kept of them goes.
    """

    runs: int = 0
    jobs: int = 1
    rows: tuple[str, ...] = ()
    scale: float = 1
    out: Path = Path("experiments/runs")
    data: Path = Path("experiments/data")
    results: Path = Path("experiments/results")
    backend: Command = Command()

    def curves(self, experiment: Experiment) -> tuple[Curve, ...]:
        """The experiment's curves of the rows asked for: by group, or by name."""
        return tuple(c for c in experiment.curves if not self.rows or {c.group, c.name} & set(self.rows))


Job = tuple[Experiment, Curve, int]  # which of the curve's runs


def choose(experiments: dict[str, Experiment], names: Sequence[str]) -> list[Experiment]:
    """`fig10`, or all panels and parts with `fig7`, `table2`; CaffeError for a name that is none."""
    found: dict[str, Experiment] = {}
    for name in names:
        parts = [key for key in experiments if key.startswith(name) and not key[len(name) : len(name) + 1].isdigit()]
        if not parts:
            raise CaffeError(f"there is no experiment '{name}'; there are: {', '.join(experiments)}")
        found |= {key: experiments[key] for key in parts}
    return list(found.values())


def reproduce(experiments: Sequence[Experiment], wish: Wish, say: Callable[[str], None]) -> None:
    """Run what is not kept yet. CaffeError if a row or data is missing, or, at the end, if trainings failed."""
    check_crowd(wish.jobs, "--jobs")
    wanted = [(e, c, n) for e in experiments for c in wish.curves(e) for n in range(1, (wish.runs or e.runs) + 1)]
    known = list(dict.fromkeys(name for e in experiments for c in e.curves for name in (c.group, c.name) if name))
    if unknown := [name for name in wish.rows if name not in known]:
        raise CaffeError(f"no rows {', '.join(unknown)}; there are: {', '.join(known)}")
    wanted = _missing(wanted, wish)
    if missing := missing_data([curve for _, curve, _ in wanted], wish.data):
        raise CaffeError(missing)
    if wish.jobs > 1:  # two processes with a thread a core each would wait for one another
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // wish.jobs)))
    package = Path(__file__).parents[2]  # results beside it are no code
    origin = Origin(commit(package), date.today().isoformat(), _machine(wish.backend))
    failed = []
    for wave in ([w for w in wanted if not w[1].after], [w for w in wanted if w[1].after]):
        with ThreadPoolExecutor(wish.jobs) as pool:
            coming = {pool.submit(_one, *job, wish, origin): job for job in wave}
            for done in as_completed(coming):
                experiment, curve, number = coming[done]
                place = f"{experiment.name}, {curve.name}, run {number}"
                try:
                    result = done.result()
                except CaffeError as error:
                    failed.append(str(error))
                    say(f"{place}: failed: {error}")
                    continue
                keep(wish.results, experiment, [result])
                loss = result.value("loss")
                told = (
                    f"accuracy {result.value('accuracy'):.2f} %, test loss {loss:.4f}" if loss < np.inf else "diverged"
                )
                say(f"{place}: {told}, {result.iterations} iterations in {result.seconds:.0f} s")
    if failed:
        raise CaffeError(f"{len(failed)} of {len(wanted)} trainings failed; the first: {failed[0]}")


def _missing(wanted: Sequence[Job], wish: Wish) -> list[Job]:
    """Those whose results are not kept, and the first parts whose weights a missing one goes on from."""
    kept = set()
    for e in {job[0].name: job[0] for job in wanted}.values():
        results = [r for r in read_results(wish.results, e) if r.scale == wish.scale]
        old = outdated(e, results)
        kept |= {(e.name, r.curve, r.seed) for r in results if r not in old}
    missing = {(e.name, c.name, n): (e, c, n) for e, c, n in wanted if (e.name, c.name, n) not in kept}
    for e, c, n in list(missing.values()):
        if c.after:
            missing[e.name, c.after, n] = (e, e.curve(c.after), n)
    return list(missing.values())


def _one(experiment: Experiment, curve: Curve, number: int, wish: Wish, origin: Origin) -> Result:
    trial = trial_of(experiment, curve, number, wish.out, wish.scale, wish.data, wish.backend)
    with alone(trial.folder, "another process is at work on this run"):
        run = trial.run()
    if not run.finished:
        raise CaffeError(f"{trial.log}: did not come to its end")
    settings = settings_of(experiment, curve, number, wish.scale)
    return result_of(run, curve, wish.scale, Variation.of(curve, number), origin, settings)


def _machine(backend: Command) -> str:
    what = "pysolver" if "pysolver" in " ".join(map(str, backend.argv)) else Path(backend.argv[0]).name
    return f"{platform.machine()}, {os.cpu_count()} cores, {what}"

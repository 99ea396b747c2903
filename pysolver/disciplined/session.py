"""A whole tuning from a solver file, for the command, a script and a notebook."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from html import escape
from pathlib import Path

from pysolver.cores import check_crowd, usable_cores
from pysolver.disciplined import answer, report
from pysolver.disciplined.engine import LOCK
from pysolver.disciplined.plan import FINAL
from pysolver.disciplined.recipe import recipe
from pysolver.disciplined.show import Silent, Watcher
from pysolver.disciplined.stages import Decision
from pysolver.disciplined.trial import Backend, Command, here
from pysolver.disciplined.tuning import STAGES, Budget, Tuning, chosen, tune_recipe
from pysolver.errors import CaffeError
from pysolver.extras import require

CONNECT = 10  # seconds to wait for a cluster's scheduler


class Session(Iterator[Decision]):
    """Yields the decisions as they fall; a notebook shows it as the report of what there is so far."""

    def __init__(self, tuning: Tuning, states: Iterator[Tuning]) -> None:
        self.tuning, self._states = tuning, states

    def __next__(self) -> Decision:
        self.tuning = next(self._states)
        answer.write(self.tuning)
        report.write(self.tuning)
        return self.tuning.decisions[-1]

    @property
    def values(self) -> dict[str, float]:
        """What holds after the decisions so far, by the solver's field names."""
        return self.tuning.values

    def _repr_html_(self) -> str:
        """The report, in a frame of its own so that its style and the notebook's do not meet."""
        page = escape(report.page(self.tuning), quote=True)
        return f'<iframe srcdoc="{page}" style="width: 100%; height: 40rem; border: 0"></iframe>'


def tune(
    solver_file: str | Path,
    out: str | Path,
    *,
    epochs: float | None = None,
    runs: int = 2,
    seeds: int = 4,
    validation: int = 0,
    budget: str | None = None,
    jobs: int | None = None,
    processes: int = 1,
    stages: Sequence[str] = tuple(STAGES),
    compare_batch_sizes: bool = False,
    from_snapshot: bool = False,
    caffe: str | None = None,
    dask: str | None = None,
    allow_python_layers: bool = False,
    watcher: Watcher | None = None,
) -> Session:
    """What `pysolver tune` does, with its options: each step decides one stage and writes what is known by then.

    watcher: hears of stages and trials. CaffeError if the files cannot be tuned, and later if a trial fails.
    """
    _refuse_others(Path(out))
    steps = chosen(stages, compare_batch_sizes=compare_batch_sizes, from_snapshot=from_snapshot)
    most = Budget.parse(budget) if budget else None
    seeds = seeds if FINAL in stages else 0
    made = recipe(solver_file, Path(out), epochs=epochs, runs=runs, seeds=seeds, validation=validation,
                  backend=backend(caffe, processes, allow_python_layers), processes=processes)  # fmt: skip
    executor, places = workers(dask, jobs, processes)
    watcher = watcher or Silent()
    states = tune_recipe(made, stages=steps, jobs=places, budget=most, executor=executor, listener=watcher.trial,
                         announce=watcher.stage)  # fmt: skip
    return Session(Tuning(made), states)


def _refuse_others(out: Path) -> None:
    """CaffeError if a file that a tuning would replace is there and no tuning wrote it."""
    if not (out / LOCK).exists():
        for name in answer.NAMES:
            if (out / name).exists():
                raise CaffeError(f"--out {out}: there is a {name} that no tuning wrote: name another folder")


def backend(caffe: str | None, processes: int = 1, allow_python_layers: bool = False) -> Backend:
    """Who trains: this Caffe, or pysolver, in so many processes. CaffeError if it is no program.

    allow_python_layers: the code of a net that may be anybody's runs in processes of its own. A Caffe asks nobody.
    """
    if not caffe:
        arguments = ("--allow-python-layers",) if allow_python_layers else ()
        return Command(arguments=arguments, processes=processes) if arguments or processes > 1 else here
    if processes > 1:
        raise CaffeError("--processes is for trials of pysolver, not for those of --caffe")
    if not os.access(caffe, os.X_OK) or os.path.isdir(caffe):
        raise CaffeError(f"--caffe {caffe}: not a program")
    return Command((caffe,))


def workers(dask: str | None, jobs: int | None, processes: int = 1) -> tuple[Executor | None, int]:
    """Where trials run, and how many at a time: on a cluster's workers, else (None) in processes of our own."""
    if not dask:
        check_crowd((jobs or 1) * processes, "--jobs" if (jobs or 1) > processes else "--processes")
        return None, jobs or max(1, usable_cores() // processes)
    try:
        client = require("distributed").Client(dask, timeout=CONNECT)
    except (OSError, ValueError) as error:
        raise CaffeError(f"--dask {dask}: {error}") from None
    return client.get_executor(), jobs or max(1, len(client.scheduler_info()["workers"]))

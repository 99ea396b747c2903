"""A run as files: CSV as Caffe's tools/extra/parse_log.py writes it, and JSON."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any

import numpy as np

from pysolver.files import write_atomic
from pysolver.logs.run import Run, Table


def write_csv(run: Run, folder: str | Path, delimiter: str = ",") -> list[Path]:
    """Writes LOG.train and LOG.test (LOG.test1, ... of further test nets) into a folder; answers their paths.

    Columns: NumIters, Seconds, LearningRate, the outputs in the net's order, then Momentum and WeightDecay.
    """
    name = Path(run.name).name.removesuffix(".gz").strip("<>")
    tables = {".train": run.train}
    tables |= {f".test{net or ''}": table for net, table in run.tests.items()} or {".test": run.test}
    paths = []
    for suffix, table in tables.items():
        paths.append(Path(folder) / (name + suffix))
        file = io.StringIO()
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        columns = csv_columns(_with_outputs(table) if table is run.train else table)
        writer.writerow(columns)
        writer.writerows(zip(*(column.tolist() for column in columns.values())))
        write_atomic(paths[-1], file.getvalue().encode("utf-8", "replace"))
    return paths


def _with_outputs(table: Table) -> Table:
    """Without the display after the last update, which has no outputs and no rate: Caffe's parser has no row for it."""
    if not table.outputs or not table.told.any():
        return table
    empty = np.logical_and.reduce([np.isnan(column) for column in table.outputs.values()])
    return table.select(~empty | table.told)


def csv_columns(table: Table) -> dict[str, np.ndarray]:
    """The columns of a CSV file by their heads; iterations as floats, as Caffe's parser has them."""
    first = {"NumIters": table.iteration.astype(float), "Seconds": table.seconds, "LearningRate": table.lr}
    return {**first, **table.outputs, "Momentum": table.momentum, "WeightDecay": table.weight_decay}


def to_json(run: Run) -> dict[str, Any]:
    """Everything of a run as plain data; what is no finite number is null."""
    return {
        "name": run.name,
        "solver": run.solver,
        "batch": run.batch,
        "finished": run.finished,
        "failure": run.failure,
        "train": _table(run.train),
        "tests": {str(net): _table(table) for net, table in run.tests.items()},
        "resumes": [vars(resume) for resume in run.resumes],
        "superseded": {"train": _table(run.old_train), "tests": {str(k): _table(t) for k, t in run.old_tests.items()}},
        "clipping": {name: _plain(column) for name, column in run.clipping.items()},
        "gradients": {name: _plain(column) for name, column in run.gradients.items()},
        "counts": run.counts,
        "not_understood": {"count": run.unknown, "examples": [vars(odd) for odd in run.oddities]},
    }


def _table(table: Table) -> dict[str, Any]:
    columns = {k: _plain(v) for k, v in vars(table).items() if isinstance(v, np.ndarray)}
    return {**columns, "outputs": {name: _plain(column) for name, column in table.outputs.items()}}


def _plain(column: np.ndarray) -> list[Any]:
    return [x if isinstance(x, int) or math.isfinite(x) else None for x in column.tolist()]

"""Experiments of the paper, and what is kept of their runs."""

from __future__ import annotations

import functools
import json
from dataclasses import asdict
from pathlib import Path

from pysolver.disciplined.paper import experiment, results
from tests.fuzz.mutation import mutate_text
from tests.fuzz.targets.target import folder_of, target

_EXPERIMENTS = Path(__file__).parents[3] / "experiments"


def _tomls() -> list[bytes]:
    return [path.read_bytes() for path in sorted(_EXPERIMENTS.glob("*.toml"))[:8]]


@target("experiment", _tomls, mutate_text)
def _experiment(data: bytes) -> None:
    """Read, and what each curve trains."""
    from pysolver.disciplined.paper import claims, trials

    Path("fig1.toml").write_bytes(data)
    read = experiment.read("fig1.toml")
    for claim in read.claims:
        claims.parse(claim, [curve.name for curve in read.curves])
    for curve in read.curves:
        trials.solver_of(read, curve, trials.Variation.of(curve, 1), 0.5)


@functools.cache
def _kept() -> experiment.Experiment:
    return experiment.read(sorted(_EXPERIMENTS.glob("fig*.toml"))[0])


def _results() -> list[bytes]:
    test = {name: [0, 1.5, None] for name in ("iteration", "loss", "accuracy", "gap", "rate", "momentum")}
    result = results.Result(
        _kept().curves[0].name, 1, 0.25, 512, "xavier", 2, 1.5, "abc", "2026-11-28", "m", "0a1b", test, test
    )
    return [(json.dumps(asdict(result)) + "\n").encode() * 2]


@target("results of runs", _results, mutate_text)
def _read_results(data: bytes) -> None:
    with folder_of("results") as folder:
        (folder / f"{_kept().name}.jsonl").write_bytes(data)
        for result in results.read_results(folder, _kept()):
            for what in ("accuracy", "loss", "lowest loss"):
                result.value(what)
            result.column("test loss")

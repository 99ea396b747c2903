"""Learning rate and momentum that a patched Caffe prints, against `pysolver schedule` and the author's own logs."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from problems import write_tiny
from real import CHECKOUT, rates, train

AUTHOR = json.loads((CHECKOUT / "tests/golden/schedules/author.json").read_text())["runs"]

POLICIES = {
    "fixed": "",
    "step": "gamma: 0.5 stepsize: 7",
    "exp": "gamma: 0.97",
    "inv": "gamma: 0.1 power: 0.75",
    "multistep": "gamma: 0.3 stepvalue: 5 stepvalue: 11 stepvalue: 11 stepvalue: 30",
    "poly": "power: 1.5",
    "sigmoid": "gamma: 0.3 stepsize: 15",
    "triangular": "max_lr: 0.7 stepsize: 7",
    "triangular from 9": "max_lr: 0.7 stepsize: 7 start_lr_policy: 9",
    "triangular downwards": "max_lr: 0.01 stepsize: 7",
    "triangular2": "max_lr: 0.7 stepsize: 7",
    "triangular2 from 9": "max_lr: 0.7 stepsize: 7 start_lr_policy: 9",
    "exp_range": "max_lr: 0.7 stepsize: 7 gamma: 0.97",
    "exp_range from 9": "max_lr: 0.7 stepsize: 7 gamma: 0.97 start_lr_policy: 9",
    "1cycle": "max_lr: 0.7 stepsize: 20",
    "1cycle, start ignored": "max_lr: 0.7 stepsize: 20 start_lr_policy: 9",
}
MOMENTA = {
    "cyclical momentum": "momentum: 0.95 cyclical_momentum: 0.85 cyclical_momentum: 7",
    "rising to 1": "momentum: 0.9 cyclical_momentum: 1 cyclical_momentum: 6.5",
    "constant": "momentum: 0.9",
}


def scheduled(solver) -> dict[int, tuple[str, ...]]:
    """`pysolver schedule` of a solver file, as Caffe would print it."""
    command = [sys.executable, "-m", "pysolver", "schedule", f"--solver={solver}", "--csv", "-"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = csv.DictReader(io.StringIO(done.stdout))
    return {int(row["iter"]): tuple(_printed(row[k]) for k in ("lr", "momentum", "weight_decay")) for row in rows}


def _printed(value: str) -> str:
    """The six digits that C++ prints of a float given by its shortest decimal form."""
    return f"{float(np.float32(value)):g}"


@pytest.mark.parametrize("kind", ["SGD", "Nesterov", "Adam", "AdaDelta"])
@pytest.mark.parametrize("momentum", MOMENTA)
def test_equals_pysolver_at_every_iteration(kind, momentum, patched, tmp_path):
    for policy, fields in POLICIES.items():
        solver = write_tiny(
            tmp_path,
            f"type: '{kind}' lr_policy: '{policy.split()[0].strip(',')}' base_lr: 0.1 {fields} {MOMENTA[momentum]} "
            "weight_decay: 0.0005 display: 1 max_iter: 45",
        )
        printed = rates(train(patched, tmp_path))
        assert len(printed) == 45
        assert printed == scheduled(solver), (kind, policy)


@pytest.mark.parametrize("run", AUTHOR, ids=lambda run: run["run"])
def test_equals_what_the_author_printed(run, patched, tmp_path):
    fields = []
    for name, value in run["solver"].items():
        for item in value if isinstance(value, list) else [value]:
            fields.append(f'{name}: "{item}"' if isinstance(item, str) else f"{name}: {item}")
    points = {int(point[0]): point[1:] for point in run["points"]}
    every = min([b - a for a, b in zip(sorted(points), sorted(points)[1:])], default=1)
    display = every if all(i % every == 0 for i in points) else 1
    fields = [field for field in fields if not field.startswith("max_iter")]
    write_tiny(tmp_path, " ".join(fields) + f" display: {display} max_iter: {max(points) + 1}")
    printed = rates(train(patched, tmp_path))
    for i, point in points.items():
        for name, theirs, ours in zip(("lr", "momentum", "weight_decay"), point, printed[i]):
            if theirs is not None and (name != "weight_decay" or name in run["solver"]):
                assert float(ours) == theirs, (i, name)

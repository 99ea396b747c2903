"""What a tuning leaves for a script and for the next training: solver.prototxt and decisions.json."""

from __future__ import annotations

import json
import math
import textwrap
from typing import Any

from pysolver.disciplined.plan import CHOICE, CYCLE, FINAL, Plan
from pysolver.disciplined.recipe import Recipe
from pysolver.disciplined.stages import Decision
from pysolver.disciplined.trial import changed, seconds
from pysolver.disciplined.tuning import Tuning, epochs_of
from pysolver.files import write_atomic
from pysolver.logs.run import Run
from pysolver.proto.caffe_pb2 import SolverParameter
from pysolver.proto.text import to_text

NAMES = ("solver.prototxt", "train_test.prototxt", "decisions.json", "report.html")  # of what a tuning writes
FIELDS = {  # of a solver -> the value of a decision that it comes from
    "base_lr": "base_lr",
    "max_lr": "max_lr",
    "momentum": "momentum",
    "cyclical_momentum": "momentum_low",
    "weight_decay": "weight_decay",
    "max_iter": "epochs",
}


def write(tuning: Tuning) -> None:
    """Write both, and train_test.prototxt if the batch size changed, into the folder of the tuning."""
    out, net = tuning.recipe.out, tuning.recipe.out / "train_test.prototxt"
    if batch(tuning) != tuning.recipe.facts.batch:
        write_atomic(net, to_text(tuning.recipe.with_batch(batch(tuning))).encode())
    else:
        net.unlink(missing_ok=True)  # of a decision that the final training overruled
    write_atomic(out / "solver.prototxt", solver_text(tuning).encode())
    write_atomic(out / "decisions.json", (json.dumps(to_json(tuning), indent=1) + "\n").encode())


def batch(tuning: Tuning) -> int:
    """The batch size that was decided."""
    return int(tuning.values["batch_size"])


def final_plan(tuning: Tuning) -> Plan:
    """The training that the decisions so far amount to."""
    values = tuning.values
    momentum = (values["momentum"], values["momentum_low"])
    return Plan(FINAL, CYCLE, values["epochs"], values["base_lr"], values["max_lr"], momentum, values["weight_decay"],
                batch(tuning))  # fmt: skip


def solver(tuning: Tuning) -> SolverParameter:
    """The solver that was found: the person's own, with the cycle in place of its schedule, a test about every epoch,
    the last one at the end.

    If no cycle was found, or none that is better, the person's own with what else was decided.
    """
    recipe: Recipe = tuning.recipe
    if not tuning.cycles:
        return _own_schedule(tuning)
    own, found = recipe.solver, recipe.solver_of(final_plan(tuning))
    epoch = recipe.sizes(final_plan(tuning))[0] / batch(tuning)
    tests = max(1, round(found.max_iter / epoch))  # in equal parts: whole epochs may end before the cycle does
    interval = max(1, round(found.max_iter / tests))
    fields: dict[str, Any] = {
        "max_iter": interval * tests,
        "test_interval": interval,
        "display": own.display or found.display,
        "snapshot_after_train": own.snapshot_after_train if own.HasField("snapshot_after_train") else None,
        "random_seed": own.random_seed if own.HasField("random_seed") else None,
        "snapshot": own.snapshot if own.HasField("snapshot") else None,
        "average_loss": own.average_loss if own.HasField("average_loss") else None,
        "test_initialization": own.test_initialization if own.HasField("test_initialization") else None,
        "test_iter": list(own.test_iter) or list(found.test_iter),  # one for each test net
        "test_state": list(own.test_state),
    }
    if batch(tuning) != recipe.facts.batch:
        fields["net"] = str(recipe.out / "train_test.prototxt")
    return changed(found, **fields)


def _own_schedule(tuning: Tuning) -> SolverParameter:
    recipe, values = tuning.recipe, tuning.values
    facts, fields = recipe.facts, dict[str, Any]()
    if (values["epochs"], batch(tuning)) != (facts.epochs, facts.batch) or not facts.open_ended:
        fields["max_iter"] = max(1, round(values["epochs"] * recipe.sizes(final_plan(tuning))[0] / batch(tuning)))
    fields |= {name: values[name] for name in ("momentum", "weight_decay") if name in tuning.reasons}
    if batch(tuning) != facts.batch:
        fields["net"] = str(recipe.out / "train_test.prototxt")
    return changed(recipe.solver, **fields)


def judged_on(tuning: Tuning) -> str:
    """What decides, in a sentence; another one tells which outputs of the net that is, once there was a test."""
    aside = tuning.recipe.facts.tests
    words = "Judged on the test loss, as the paper does."
    if tuning.recipe.apart is not None:
        words = (
            f"Judged on {aside} training records set aside, the choice between the cycle and the file as it came, too; "
            "the test set is touched once, at the end, by the final trainings, and decides nothing."
        )
    return f"{words} {outputs_read(tuning)}".strip()


def outputs_read(tuning: Tuning) -> str:
    """Which outputs of the net are its loss and its accuracy, in a sentence; empty before the first test."""
    table = next((run.test for run in tuning.results.values() if len(run.test)), None)
    if table is None or table.loss_name is None:
        return ""
    accuracy = table.accuracy_name
    score = "no output is an accuracy" if accuracy is None else f"the accuracy is '{accuracy}'"
    return f"The test loss is the net's output '{table.loss_name}', {score}."


def solver_text(tuning: Tuning) -> str:
    """The solver as a file whose comments give the reason of each value."""
    recipe, images = tuning.recipe, tuning.recipe.sizes(final_plan(tuning))[0]
    head = [
        "Tuned by `pysolver tune`, after arXiv 1803.09820. The report beside this file shows how.",
        *([f"For {recipe.processes} processes, each with the net's batch."] if recipe.processes > 1 else []),
        f"{tuning.values['epochs']:g} epochs of {images} images at batch size {batch(tuning)}. {judged_on(tuning)}",
        *_compared(tuning),
    ]
    lines = [f"# {line}" for text in head for line in textwrap.wrap(text, 110)]
    told: set[str] = set()
    for line in to_text(solver(tuning)).splitlines():
        name = line.partition(":")[0]
        decision = tuning.reasons.get(FIELDS.get(name, ""))
        if decision is not None and name not in told:
            told.add(name)
            lines += _comment(decision)
        lines.append(line)
    return "\n".join(lines) + "\n"


def _compared(tuning: Tuning) -> list[str]:
    """Whether this is better than the file as it came."""
    told = [decision for decision in tuning.decisions if decision.stage in (CHOICE, FINAL)]
    if not told:
        return ["Not compared with the file as it came: that is what the stage `final` does."]
    return [f"{'The file stays as it came: ' if decision.file_stays else ''}{decision.reason}." for decision in told]


def _comment(decision: Decision) -> list[str]:
    words = f"{decision.stage}, {decision.certainty}: {decision.reason}"
    return [f"# {line}" for line in textwrap.wrap(words, 110)]


def to_json(tuning: Tuning) -> dict[str, Any]:
    """Everything that was decided, tried and spent, as plain data."""
    recipe = tuning.recipe
    return {
        "values": tuning.values,
        "problem": vars(recipe.facts),
        "judged_on": judged_on(tuning),
        "file_stays": tuning.file_stays,
        "cost": {"epochs": round(tuning.epochs(), 2), "tuning_epochs": round(tuning.tuning_epochs, 2),
                 "seconds": round(tuning.seconds(), 1)},
        "decisions": [
            {"stage": d.stage, "values": dict(d.values), "reason": d.reason, "sure": d.sure, "notes": list(d.notes),
             "compared": [list(row) for row in d.table], "trials": [plan.name for plan in d.evidence]}
            for d in tuning.decisions
        ],
        "trials": [
            {"name": plan.name, "command": recipe.trial(plan).command, "epochs": round(epochs_of(recipe, plan, run), 2),
             "seconds": round(seconds(run), 2), "test_loss": _last(run), "gave_up": "GaveUp" in run.counts}
            for plan, run in tuning.results.items()
        ],
    }  # fmt: skip


def _last(run: Run) -> float | None:
    losses = run.test.main_loss
    return float(losses[-1]) if len(losses) and math.isfinite(losses[-1]) else None

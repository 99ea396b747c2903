"""The whole method: stage after stage, each trial once, within a budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType

import numpy as np

from pysolver.disciplined.engine import Engine, Listener, locked
from pysolver.disciplined.judges import Behind, Diverged, Judge
from pysolver.disciplined.plan import CHOICE, CYCLE, FINAL, FIXED, RAMP, SCOUT, SPEED, WHOLE, Facts, Plan
from pysolver.disciplined.recipe import Recipe
from pysolver.disciplined.stages import (
    Decision,
    Situation,
    Stage,
    balance,
    batch_size,
    batch_sizes,
    branches,
    cycle,
    final,
    learning_rate,
    length,
    momentum,
)
from pysolver.disciplined.stages import weight_decay as decay
from pysolver.disciplined.trial import Trial, seconds
from pysolver.errors import CaffeError
from pysolver.logs.run import Run

STAGES: dict[str, Stage] = {  # in the order in which they build on each other
    batch_size.NAME: batch_size.decide,
    learning_rate.NAME: learning_rate.decide,
    momentum.NAME: momentum.decide,
    decay.NAME: decay.decide,
    cycle.NAME: cycle.decide,
    length.NAME: length.decide,
    balance.NAME: balance.decide,
    FINAL: final.decide,
}


@dataclass(frozen=True)
class Budget:
    """The most that a tuning may cost; None: no limit. seconds: of training, summed over all trials."""

    epochs: float | None = None
    seconds: float | None = None

    @staticmethod
    def parse(text: str) -> Budget:
        """`2h`, `30m`, `90s` or `200epochs`; CaffeError for anything else."""
        for unit, make in _UNITS.items():
            number = text.removesuffix(unit)
            if text.endswith(unit):
                try:
                    value = float(number)
                except ValueError:
                    break
                if value > 0:
                    return make(value)
        raise CaffeError(f"--budget {text}: such as 2h, 30m, 90s or 200epochs")


_UNITS: dict[str, Callable[[float], Budget]] = {
    "epochs": lambda n: Budget(epochs=n),
    "h": lambda n: Budget(seconds=3600 * n),
    "m": lambda n: Budget(seconds=60 * n),
    "s": lambda n: Budget(seconds=n),
}


@dataclass
class Tuning:
    """One tuning as it goes: what was decided, what every trial told, what it cost."""

    recipe: Recipe
    decisions: list[Decision] = field(default_factory=list)
    results: dict[Plan, Run] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, float]:
        """What the decisions so far amount to; the person's own where nothing was decided."""
        values = self._values(self.reasons)
        if not self.cycles:
            base = float(f"{self.recipe.solver.base_lr:.6g}")
            values |= {"base_lr": base, "momentum_low": values["momentum"]}
        return values

    @property
    def tried(self) -> dict[str, float]:
        """What the next stage tries, as a cycle: what was found, even if the file turned out to be better."""
        return self._values(self._found)

    def _values(self, found: Mapping[str, Decision]) -> dict[str, float]:
        f = self.recipe.facts
        values = {"batch_size": f.batch, "max_lr": f.rate, "momentum": f.momentum, "weight_decay": f.weight_decay,
                  "epochs": f.epochs}  # fmt: skip
        values |= {name: decision.values[name] for name, decision in found.items()}
        default = {"base_lr": float(f"{values['max_lr'] / cycle.RATIO:.3g}"),
                   "momentum_low": min(values["momentum"], momentum.LOWEST)}  # fmt: skip
        return default | values

    @property
    def reasons(self) -> dict[str, Decision]:
        """By each value of the answer that was decided: the decision that it is from."""
        return {name: d for name, d in self._found.items() if name == "epochs" or not self.file_stays}

    @property
    def _found(self) -> dict[str, Decision]:
        return {name: d for d in self.decisions if d.stage not in (CHOICE, FINAL) for name in d.values}

    @property
    def file_stays(self) -> bool:
        """Whether the person's file is the answer."""
        return any(decision.file_stays for decision in self.decisions)

    @property
    def cycles(self) -> bool:
        """Whether the answer is a cycle; else it has the schedule of the person's file."""
        compared = any(decision.stage in (CHOICE, FINAL) and decision.values for decision in self.decisions)
        return not self.file_stays and (compared or not self.reasons.keys().isdisjoint({"max_lr", "momentum"}))

    def epochs(self, plans: Sequence[Plan] | None = None) -> float:
        """Epochs that some trials took, of all by default: what was given up counts as far as it went."""
        plans = list(self.results) if plans is None else plans
        return sum(epochs_of(self.recipe, plan, self.results[plan]) for plan in plans)

    def seconds(self) -> float:
        """Seconds of training that all trials took."""
        return sum(seconds(run) for run in self.results.values())

    @property
    def tuning_epochs(self) -> float:
        """What it cost to decide: all but the final runs and those beside them, of which the first may have decided on
        the weight decay, too."""
        last = {plan for decision in self.decisions if decision.stage == FINAL for plan in decision.evidence}
        return self.epochs([plan for plan in self.results if plan not in last])


def chosen(
    names: Sequence[str] = tuple(STAGES), *, compare_batch_sizes: bool = False, from_snapshot: bool = False
) -> dict[str, Stage]:
    """The stages of these names, in the order in which they build on each other.

    CaffeError for an unknown one, or for an option without its stage.
    compare_batch_sizes: they train against each other (Fig. 6). from_snapshot: the weight decays branch from one run
    (Fig. 12).
    """
    unknown = [name for name in names if name not in STAGES]
    if unknown:
        raise CaffeError(f"there is no stage '{unknown[0]}'; the stages are: {', '.join(STAGES)}")
    stages = {name: stage for name, stage in STAGES.items() if name in names}
    for option, name, wanted, other in (
        ("compare_batch_sizes", batch_size.NAME, compare_batch_sizes, batch_sizes.decide),
        ("from_snapshot", decay.NAME, from_snapshot, branches.decide),
    ):
        if wanted and name not in stages:
            raise CaffeError(f"--{option} is for the stage '{name}', which --stages leaves out")
        if wanted:
            stages[name] = other
    return stages


def epochs_of(recipe: Recipe, plan: Plan, run: Run) -> float:
    """How many epochs a run went through."""
    last = max((int(t.iteration[-1]) for t in (run.train, run.test) if len(t)), default=0)
    return max(0, last - recipe.begin(plan)) * recipe.batch(plan) / recipe.sizes(plan)[0]


def tune_recipe(
    recipe: Recipe,
    *,
    stages: Mapping[str, Stage] = MappingProxyType(STAGES),
    jobs: int = 1,
    budget: Budget | None = None,
    executor: Executor | None = None,
    listener: Listener = lambda progress: None,
    announce: Callable[[str, Sequence[Plan], Tuning], None] = lambda stage, plans, tuning: None,
) -> Iterator[Tuning]:
    """Tune; yields the state after every decision. What was done in recipe.out before is not done again.

    stages: which, in their order. announce: told which stage is about to try which plans.
    CaffeError if a trial fails, or if another tuning is at work in the folder.
    """
    budget = budget or Budget()
    tuning = Tuning(recipe)
    with locked(recipe.out), Engine(jobs, listener, executor) as engine:
        for name, stage in _wanted(stages, recipe.facts):
            decision: Decision | list[Plan] = []
            more = True
            while not isinstance(decision, Decision):
                situation = Situation(recipe.facts, tuning.tried, dict(tuning.results), more)
                decision = stage(situation)
                if isinstance(decision, Decision):
                    break
                decision = bearable(tuning, decision, budget, name)
                more = bool(decision)
                if more:
                    announce(name, decision, tuning)
                    trials = {recipe.trial(plan): plan for plan in decision}
                    judges = {trial: judge(plan, tuning) for trial, plan in trials.items()}
                    larger = {trial for trial, plan in trials.items() if plan.batch > recipe.facts.batch}
                    beyond = {trial for trial in larger if trials[trial].shape == SPEED}
                    runs = engine.run(list(trials), {t: j for t, j in judges.items() if j}, beyond)
                    for trial, run in runs.items():
                        _refuse_below_zero(trial, run)
                    tuning.results |= {trials[trial]: run for trial, run in runs.items()}
            tuning.decisions.append(decision)
            yield replace(tuning, decisions=list(tuning.decisions), results=dict(tuning.results))


def _refuse_below_zero(trial: Trial, run: Run) -> None:
    """CaffeError for losses below 0: the stages compare losses by their ratio, and would take these for equal."""
    losses = run.test.main_loss if len(run.test) else np.zeros(0)
    below = losses[np.isfinite(losses) & (losses < 0)]
    if len(below):
        raise CaffeError(
            f"{trial.log}: the test loss '{run.test.loss_name}' is {below[0]:g}: losses are compared by their ratio, "
            "which wants them above 0 (SigmoidCrossEntropyLoss: targets outside 0 to 1 do this; look at their `scale`)"
        )


def _wanted(stages: Mapping[str, Stage], facts: Facts) -> Iterator[tuple[str, Stage]]:
    """No search for a length that is given; before the final training what decides without the test set."""
    for name, stage in stages.items():
        if name == FINAL and facts.set_aside:
            yield CHOICE, final.choose
        if name != length.NAME or facts.open_ended:
            yield name, stage


def bearable(tuning: Tuning, plans: list[Plan], budget: Budget, stage: str) -> list[Plan]:
    """The plans if the budget bears them, else none; of whole trainings, which are pairs, as many as it bears.

    As long as nobody knows how long an epoch takes, a budget of time begins with one trial, or with one pair.
    """
    bears = partial(affordable, tuning, budget=budget, stage=stage)
    unknown = budget.seconds is not None and not tuning.results
    if stage in (CHOICE, FINAL):
        plans = plans[:2] if unknown else plans
        return next((plans[:count] for count in range(len(plans), 0, -2) if bears(plans[:count])), [])
    if unknown:
        plans = plans[:1]
    return plans if bears(plans) else []


def affordable(tuning: Tuning, plans: Sequence[Plan], budget: Budget, stage: str) -> bool:
    """Whether the budget bears these plans, and after them the final runs, which half of it is kept for at most."""
    cost = sum(plan.epochs for plan in plans)
    longest = max(plan.epochs for plan in plans) if stage == length.NAME else 0
    rest = last_epochs(tuning, stage, longest)
    spent, time = tuning.epochs(), tuning.seconds()
    if budget.epochs is not None and spent + cost + min(rest, budget.epochs / 2) > budget.epochs:
        return False
    if budget.seconds is None:
        return True
    pace = time / spent if spent else 0.0
    return time + cost * pace + min(rest * pace, budget.seconds / 2) <= budget.seconds


def last_epochs(tuning: Tuning, stage: str, longest: float = 0.0) -> float:
    """Epochs of the whole trainings after a stage, and of those beside them; longest: what their length may become."""
    if stage == FINAL:
        return 0.0
    facts = tuning.recipe.facts
    pairs = facts.seeds + (facts.runs if facts.set_aside and facts.seeds and stage != CHOICE else 0)
    begun = stage == balance.NAME and pairs > 0  # of those it trains one is the first of them
    return max(tuning.values["epochs"], longest) * (2 * pairs - begun)


def judge(plan: Plan, tuning: Tuning) -> Judge | None:
    """Who watches over a trial. Only what was over before it began is compared with, so that a repetition decides
    alike."""
    if plan.shape in (RAMP, SCOUT, FIXED):
        return Diverged()
    if plan.shape != CYCLE or plan.stage in WHOLE:
        return None
    others = [run.test.main_loss for other, run in tuning.results.items()
              if (other.stage, other.shape, other.epochs, other.run) == (plan.stage, CYCLE, plan.epochs, plan.run)
              and "GaveUp" not in run.counts]  # fmt: skip
    if not others:
        return Diverged()
    length = min(map(len, others))
    best = np.nanmin(np.stack([losses[:length] for losses in others]), axis=0)
    return Behind(tuple(float(value) for value in best))

"""`pysolver tune` beside random search and Optuna's TPE with its pruner, at the same number of training images.

    pip install -e '.[benchmarks]'
    python benchmarks/searches.py --solver examples/digits/solver.prototxt --out OUT --epochs 30 --length 5

Each repeat tunes with other seeds; then both searches get as many images as that took, for the same four values:
batch size, highest rate of the cycle, momentum at its lowest rate, weight decay. A trial of theirs is one cycle of
--length epochs, judged by its last test loss, as the trials of `pysolver tune` are; what the pruner ends counts as far
as it went. The best values of each are then trained for --epochs epochs with --seeds seeds, the same for all. The same
command goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import optuna
from seeds import mean, parser_of

from pysolver.data.database_writer import new_database, write_all
from pysolver.data.databases import LMDB, open_database
from pysolver.disciplined.data_sets import data_layers
from pysolver.disciplined.engine import Engine
from pysolver.disciplined.plan import CYCLE, FINAL, Plan
from pysolver.disciplined.recipe import Recipe, is_last, recipe
from pysolver.disciplined.stages import cycle, final_accuracy, final_loss, momentum
from pysolver.disciplined.trial import changed
from pysolver.disciplined.tuning import STAGES, Tuning, epochs_of, tune_recipe
from pysolver.logs.run import Run
from pysolver.proto.caffe_pb2 import TEST, TRAIN, NetParameter, SolverParameter

Values = dict[str, float]
WORST = 1e6  # the loss of a run that broke: Optuna takes no infinity


class Reseeded(Recipe):
    """A recipe whose trials have other seeds in each repeat, its final ones the same: all but run 0, by which the
    tuning decides, too."""

    def solver_of(self, plan: Plan) -> SolverParameter:
        solver = super().solver_of(plan)
        repeat = int(self.out.name.removeprefix("repeat"))
        return solver if is_last(plan) and plan.run else changed(solver, random_seed=1000 * repeat + solver.random_seed)


@dataclass(frozen=True)
class Found:
    """What a method came to: its values, and what that cost."""

    values: Values
    epochs: float
    trials: int


def tuned(made: Recipe, jobs: int) -> Found:
    """By `pysolver tune`."""
    stages = {name: stage for name, stage in STAGES.items() if name != FINAL}
    last: Tuning | None = None
    for last in tune_recipe(made, stages=stages, jobs=jobs):
        print(f"   {last.decisions[-1].stage}: {last.decisions[-1].reason}", flush=True)
    assert last is not None
    return Found(last.values, last.epochs(), len(last.results))


def searched(made: Recipe, name: str, study: optuna.Study, budget: float, length: float) -> Found:
    """By a study of Optuna's, one trial after the other."""
    spent, trials = 0.0, 0
    while spent + length <= budget:
        trial = study.ask()
        plan = replace(asked(made, trial), stage=name, epochs=length, run=2 * trials)  # even: the filler as it is
        run = made.trial(plan).run(Pruner(trial))
        losses = reported(run)
        told = study.trials[trial.number].intermediate_values
        for step in sorted(set(range(len(losses))) - set(told)):
            trial.report(losses[step], step)
        pruned = "GaveUp" in run.counts
        study.tell(trial, None if pruned else losses[-1],
                   optuna.trial.TrialState.PRUNED if pruned else optuna.trial.TrialState.COMPLETE)  # fmt: skip
        spent, trials = spent + epochs_of(made, plan, run), trials + 1
    best = study.best_trial
    values = {**best.params, "momentum": 1 - best.params["1-momentum"]}
    return Found(values, spent, trials)


def asked(made: Recipe, trial: optuna.Trial) -> Plan:
    """What a search may choose: wide ranges, even on a logarithmic scale."""
    batches = [made.facts.batch * factor // 2 for factor in (1, 2, 4, 8)]
    batches = [b for b in batches if b <= max(made.facts.batch, made.facts.images // 50)]  # as the stage does
    batch = trial.suggest_categorical("batch_size", batches)
    rate = trial.suggest_float("max_lr", 1e-3, 3, log=True)
    high = 1 - trial.suggest_float("1-momentum", 0.01, 0.2, log=True)
    decay = trial.suggest_float("weight_decay", 1e-6, 0.1, log=True)
    return one_cycle({"batch_size": batch, "max_lr": rate, "momentum": high, "weight_decay": decay})


def one_cycle(values: Values) -> Plan:
    """The training of four values."""
    rate, high = values["max_lr"], values["momentum"]
    return Plan(FINAL, CYCLE, 0, rate / cycle.RATIO, rate, (high, min(high, momentum.LOWEST)),
                values["weight_decay"], int(values["batch_size"]))  # fmt: skip


class Pruner:
    """Asks Optuna after each test whether a trial goes on."""

    def __init__(self, trial: optuna.Trial) -> None:
        self._trial = trial

    def __call__(self, run: Run) -> str | None:
        losses = reported(run)
        self._trial.report(losses[-1], len(losses) - 1)
        return "pruned by Optuna" if self._trial.should_prune() else None


def reported(run: Run) -> list[float]:
    """Test losses, the worst where they are no numbers."""
    return [float(np.nan_to_num(loss, nan=WORST, posinf=WORST)) for loss in run.test.main_loss] or [WORST]


def methods(length: float, jobs: int) -> dict[str, Callable[[Recipe, float, int], Found]]:
    """Each: recipe, epochs it may spend, repeat -> what it found."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    median = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1)

    def random(made: Recipe, budget: float, repeat: int) -> Found:
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(repeat), pruner=optuna.pruners.NopPruner())
        return searched(made, "random", study, budget, length)

    def tpe(made: Recipe, budget: float, repeat: int) -> Found:
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=repeat), pruner=median)
        return searched(made, "tpe", study, budget, length)

    return {"tune": lambda made, budget, repeat: tuned(made, jobs), "random": random, "TPE": tpe}


def subset(net: NetParameter, images: int, tests: int, folder: Path) -> NetParameter:
    """The net on the first records of its sets."""
    made = changed(net)
    for phase, count in ((TRAIN, images), (TEST, tests)):
        layer = next(data_layers(made, phase))
        path = folder / f"first_{count}_lmdb"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            source = open_database(layer.data_param.source, LMDB)
            with new_database(path, LMDB) as database:
                write_all(
                    database, ((bytes(key), bytes(value)) for _, (key, value) in zip(range(count), source.items()))
                )
            del source
        layer.data_param.source = str(path)
    return made


def finals(made: Recipe, values: Values, epochs: float, seeds: int) -> list[Plan]:
    """The whole training of what was found, with seeds that nothing was decided on."""
    return [replace(one_cycle(values), epochs=epochs, run=seed) for seed in range(1, seeds + 1)]


def rows(args: argparse.Namespace) -> Iterator[tuple[str, int, Found, list[Run]]]:
    for repeat in range(1, args.repeats + 1):
        base = recipe(args.solver, args.out / f"repeat{repeat}", epochs=args.epochs, runs=2, seeds=args.seeds)
        made = Reseeded(**vars(base))
        if args.images:
            tests = args.images // 3
            net = subset(made.net, args.images, tests, args.out / "data")
            made = replace(made, net=net, facts=replace(made.facts, images=args.images, tests=tests))
        budget = 0.0
        for name, method in methods(args.length, args.jobs).items():
            found = method(made, budget, repeat)
            budget = budget or found.epochs
            with Engine(args.jobs) as engine:
                plans = finals(made, found.values, args.epochs, args.seeds)
                yield name, repeat, found, list(engine.run([made.trial(plan) for plan in plans]).values())


def main() -> None:
    parser = parser_of(__doc__, "length of the final training")
    parser.add_argument("--length", type=float, required=True, help="epochs of a trial of the searches")
    parser.add_argument("--images", type=int, help="only the first of the training set, and a third as many tests")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    scores: dict[str, list[tuple[float, float]]] = {}
    for name, repeat, found, runs in rows(args):
        losses, accuracies = [final_loss(run) for run in runs], [100 * (final_accuracy(run) or 0) for run in runs]
        scores.setdefault(name, []).append((float(np.mean(losses)), float(np.mean(accuracies))))
        told = ", ".join(
            f"{key} {found.values[key]:.3g}" for key in ("batch_size", "max_lr", "momentum", "weight_decay")
        )
        print(f"{name} {repeat}: {found.epochs:.0f} epochs, {found.trials} trials; {told}; "
              f"test loss {mean(losses, 4)}, accuracy {mean(accuracies, 2)} %", flush=True)  # fmt: skip
    for name, pairs in scores.items():
        losses, accuracies = (list(column) for column in zip(*pairs))
        if len(pairs) > 1:
            print(f"{name}: test loss {mean(losses, 4)}, accuracy {mean(accuracies, 2)} % over {len(pairs)} repeats")


if __name__ == "__main__":
    main()

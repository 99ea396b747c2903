"""How far below the break of a range test one cycle should stay: what the rule for max_lr rests on.

    python benchmarks/max_lr.py --solver examples/digits/solver.prototxt --out OUT --epochs 30

Range tests with several seeds show where training breaks; cycles to parts of the smallest break, with several seeds
each, show what a rate costs or gives, and how many nets die of it: their loss ends above nine tenths of where it
began. The same command goes on where it was interrupted.
"""

from __future__ import annotations

from collections.abc import Sequence

from seeds import mean, parser_of

from pysolver.disciplined.engine import Engine
from pysolver.disciplined.plan import CYCLE, RAMP, Plan
from pysolver.disciplined.recipe import Recipe, recipe
from pysolver.disciplined.stages import final_accuracy, final_loss
from pysolver.disciplined.stages.cycle import RATIO
from pysolver.disciplined.stages.learning_rate import reading
from pysolver.logs.run import Run

MOMENTUM = (0.95, 0.85)
PARTS = (1.5, 1.25, 1.0, 0.8, 0.67, 0.5, 0.33)  # of the smallest break
DEAD = 0.9  # of the first loss, above which a net has learned nothing


def plans(made: Recipe, shape: str, epochs: float, low: float, high: float, seeds: int) -> list[Plan]:
    """The same with several seeds; only those that vary neither filler nor batch size, which an odd `run` would."""
    facts = made.facts
    low, high = float(f"{low:.3g}"), float(f"{high:.3g}")
    return [Plan("rule", shape, epochs, low, high, MOMENTUM, facts.weight_decay, facts.batch, 2 * seed)
            for seed in range(seeds)]  # fmt: skip


def smallest_break(runs: Sequence[Run]) -> tuple[float, list[float]]:
    """The smallest rate at which a ramp breaks, and all of them."""
    found = reading(runs)
    breaks = sorted(r.broke for r in found.readings if r.broke is not None) if found else []
    if len(breaks) < len(runs):
        raise SystemExit(
            f"{len(runs) - len(breaks)} of {len(runs)} ramps did not break: a higher --top, or more --ramp"
        )
    return breaks[0], breaks


def main() -> None:
    parser = parser_of(__doc__, "length of a cycle")
    parser.add_argument("--ramp", type=float, help="length of a ramp in epochs (that of 300 iterations)")
    parser.add_argument("--top", type=float, default=1.0, help="highest rate of a ramp (1)")
    args = parser.parse_args()
    made = recipe(args.solver, args.out, epochs=args.epochs)
    with Engine(args.jobs) as engine:

        def run(asked: list[Plan]) -> list[Run]:
            return list(engine.run([made.trial(plan) for plan in asked]).values())

        length = args.ramp or made.facts.short(300, made.facts.batch)
        first, breaks = smallest_break(run(plans(made, RAMP, length, args.top / 1000, args.top, args.seeds)))
        print(f"{args.solver}: ramps to {args.top:g} break at", ", ".join(f"{rate:.3g}" for rate in breaks))
        print("| max_lr | of the smallest break | test loss | accuracy, % | died |")
        print("| --- | --- | --- | --- | --- |")
        for part in PARTS:
            runs = run(plans(made, CYCLE, args.epochs, part * first / RATIO, part * first, args.seeds))
            alive = [r for r in runs if final_loss(r) < DEAD * r.train.main_loss[0]]
            losses = mean([final_loss(r) for r in alive], 4) if alive else "-"
            accuracies = [100 * a for r in alive if (a := final_accuracy(r)) is not None]
            told = mean(accuracies, 2) if accuracies else "-"
            print(f"| {part * first:.3g} | {part:g} | {losses} | {told} | {len(runs) - len(alive)} |", flush=True)


if __name__ == "__main__":
    main()

"""Each stage in worlds whose answers are known."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import pytest
from surfaces import World, play

from pysolver.disciplined.plan import CHOICE, CYCLE, Facts, Plan
from pysolver.disciplined.stages import (
    HIGH,
    LOW,
    Comparison,
    Decision,
    Situation,
    balance,
    batch_size,
    batch_sizes,
    branches,
    cycle,
    final,
    learning_rate,
    length,
    momentum,
    weight_decay,
)
from pysolver.logs import events as e
from pysolver.logs.assemble import Assembler
from pysolver.logs.run import Run

BREAKS = [0.004, 0.02, 0.07, 0.3, 1.0, 4.0]


@pytest.mark.parametrize("breaks, noise", list(itertools.product(BREAKS, [0.02, 0.1])))
def test_range_test_finds_the_break_in_any_order_of_magnitude(breaks, noise):
    decision = play(World(breaks=breaks, noise=noise), learning_rate.decide, batch_size=128)
    assert 1 / 1.5 < decision.values["max_lr"] / breaks < 1.5, (decision.reason, decision.notes)


def ramp_log(rates, losses) -> Run:
    """A range test with a test every ten iterations."""
    tables = Assembler()
    for number, (rate, loss) in enumerate(zip(rates, losses)):
        tables.display(10 * number, float(number), 1.0, 1.0)
        tables.rate(10 * number, float(number), float(rate), 0.9, 0.0)
        tables.test(10 * number, float(number), 0)
        tables.output("Test", ("0", "loss"), True, loss)
    tables.head(e.Done("tool"))
    return tables.run("ramp")


CIFAR_SCOUT = (2.30256, 2.3026, 2.3025, 2.30237, 2.30219, 2.30153, 2.30023, 2.29768, 2.28679, 2.23401, 2.11592, 2.12541,
               2.30605, 2.37176, 2.36893, 2.30406, 2.30524, 2.32868, 2.38016, 2.34954, 78.0789, 9.9324)  # fmt: skip
CIFAR_DEAD = (2.30255, 2.29712, 2.3845, 2.38577, 2.35771, 2.32393, 2.33124, 2.3885, 2.35114, 2.35392, 2.36099, 2.42213,
              4.27989, 2.54354, 2.81464, 2.42779, 78.2535, 6.73319, 3.4746)  # fmt: skip


CIFAR_RAMPS = (
    (2.3026, 2.3024, 2.3008, 2.2984, 2.2903, 2.2542, 2.2145, 2.1697, 2.1118, 2.0239, 1.9819, 1.9637, 2.0526, 2.0427,
     2.0786, 1.9323, 1.9167, 2.1191, 2.1538, 2.125, 1.9182, 1.9891, 2.0365, 2.1346, 1.9094, 2.091, 2.1285, 1.9944,
     2.061, 2.1105, 2.0036, 2.191, 2.1282, 2.2122, 2.1515, 1.9812, 2.3696, 2.1439, 2.1055),
    (2.3026, 2.3025, 2.302, 2.3009, 2.2959, 2.265, 2.2174, 2.1388, 2.1265, 2.023, 2.0211, 1.9589, 1.9765, 2.1587,
     1.9305, 1.9287, 2.1604, 2.1678, 2.4618, 2.2791, 2.2808, 2.296, 2.2788, 2.2501, 2.2005, 2.1796, 2.2057, 2.1798,
     2.1379, 2.1799, 2.0597, 2.0869, 2.0787, 2.1385, 2.0548, 2.1029, 2.1187, 2.0472, 2.1592),
)  # fmt: skip


def test_a_net_that_begins_on_a_plateau():
    """What Caffe's cifar10_full showed, whose weights begin next to zero: from 0.01 on it is dead, at the loss of
    chance, which is where it began. Before, ramps went to 5.4, then to 54, and lengthened."""
    scout = learning_rate.decide(situation := Situation(World().facts, {"batch_size": 128}))
    rates = np.geomspace(1e-5, 10, len(CIFAR_SCOUT))
    start = {scout[0]: ramp_log(rates, CIFAR_SCOUT)}
    ramps = learning_rate.decide(replace(situation, results=start))
    assert all(plan.high == pytest.approx(0.02, rel=0.5) for plan in ramps)
    dead = {plan: ramp_log(np.linspace(0.005, 5.4, len(CIFAR_DEAD)), CIFAR_DEAD) for plan in ramps}
    lower = learning_rate.decide(replace(situation, results={**start, **dead}))
    assert all(plan.high == pytest.approx(ramps[0].high / 10, rel=0.1) for plan in lower)
    assert {plan.epochs for plan in lower} == {plan.epochs for plan in ramps}
    # one of two that breaks is enough to know what both bear: a longer ramp to the same height, none ten times as high
    rates = np.linspace(0.0, 0.028, len(CIFAR_RAMPS[0]))
    one = dict(zip(ramps, (ramp_log(rates, losses) for losses in CIFAR_RAMPS)))
    (longer,) = learning_rate.decide(replace(situation, results={**start, **one}))
    assert (longer.high, longer.epochs) == (ramps[0].high, 2 * ramps[0].epochs)


def test_a_rate_that_never_breaks_is_said_to_be_a_lower_bound():
    decision = play(World(breaks=1e9), learning_rate.decide, batch_size=128)
    assert decision.sure == LOW and "at least" in decision.reason


def test_a_net_that_never_trains_keeps_its_rate_and_is_not_sure():
    decision = play(World(breaks=1e-12), learning_rate.decide, batch_size=128)
    assert not decision.values and decision.sure == LOW and "the file's 0.01 stays" in decision.reason


@pytest.mark.parametrize("decay", [1e-2, 1e-3, 1e-4, 2e-5])
def test_weight_decay_is_found_on_the_grid_and_past_its_edge(decay):
    values = {"batch_size": 128, "max_lr": 0.2, "momentum": 0.95, "momentum_low": 0.85}
    decision = play(World(decay=decay, noise=0.02, seeds=0.01), weight_decay.decide, **values)
    assert 1 / 3.2 < decision.values["weight_decay"] / decay < 3.2, decision.table


def test_weight_decay_between_two_of_the_grid_is_bisected():
    values = {"batch_size": 128, "max_lr": 0.2, "momentum": 0.95, "momentum_low": 0.85}
    decision = play(World(decay=3.2e-3, curve=3, noise=0.01, seeds=0.005), weight_decay.decide, **values)
    assert 1 / 1.5 < decision.values["weight_decay"] / 3.2e-3 < 1.5, decision.table


@pytest.mark.parametrize("value", [0.9, 0.95, 0.97, 0.99])
def test_momentum(value):
    world = World(momentum=value, bend=3, noise=0.02, seeds=0.01, breaks=1.0)
    decision = play(world, momentum.decide, batch_size=128, max_lr=0.3)
    assert decision.values["momentum"] == value, decision.table


@dataclass(frozen=True)
class Bare(World):
    """Whose file has no momentum."""

    takes: bool = True

    @property
    def facts(self) -> Facts:
        return replace(super().facts, momentum=0.0, takes_momentum=self.takes)


def test_a_file_without_momentum_gets_one_if_its_solver_type_takes_one():
    world = Bare(momentum=0.95, bend=3, noise=0.02, seeds=0.01, breaks=1.0)
    assert play(world, momentum.decide, batch_size=128, max_lr=0.3).values["momentum"] == 0.95
    decision = play(replace(world, takes=False), momentum.decide, batch_size=128, max_lr=0.3)
    assert not decision.values and decision.reason == "this solver type takes no momentum"


@pytest.mark.parametrize("knee, chosen", [(64, 128), (128, 128), (256, 256), (100_000, 400)])
def test_a_larger_batch_only_if_it_pays(knee, chosen):
    """And never one that leaves fewer than fifty updates an epoch: 400 of 20,000 images."""
    world = World(knee=knee, images=20_000, batch=128 if chosen != 400 else 100)
    assert play(world, batch_size.decide).values["batch_size"] == chosen


@dataclass(frozen=True)
class Small(World):
    """Where a batch of more than `fits` images does not fit into memory."""

    fits: int = 10_000

    def train(self, plan: Plan) -> Run:
        if plan.batch <= self.fits:
            return super().train(plan)
        tables = Assembler()
        tables.head(e.GaveUp("out of memory"))
        return tables.run(plan.name)


@pytest.mark.parametrize("knee, fits, chosen", [(10**6, 10**6, 3200), (10**6, 1000, 800), (900, 10**6, 1600),
                                                (10**6, 300, 200), (10**6, 100, 100)])  # fmt: skip
def test_ever_larger_batches_while_they_pay_and_memory_bears_them(knee, fits, chosen):
    """An epoch of 200,000 images bears 4000 an update, so 100 can be doubled five times."""
    decision = play(Small(knee=knee, fits=fits, images=200_000, batch=100), batch_size.decide)
    assert decision.values["batch_size"] == chosen
    tried = {plan.batch for plan in decision.evidence}
    assert max(tried) <= 2 * chosen or tried <= {50, 100, 200, 400}
    beyond = [plan for plan in decision.evidence if plan.batch > fits]
    assert len(beyond) == len({plan.batch for plan in beyond}), "once is enough"
    assert bool(beyond) == bool(decision.notes) and all("does not fit into memory" in n for n in decision.notes)


def test_a_machine_that_is_busy_now_and_then_does_not_choose_the_batch():
    """In the first turn something else slows the person's own size down threefold; in truth all are alike."""

    class Busy(World):
        def speed(self, plan):
            return 1000.0 if (plan.batch, plan.run) == (100, 0) else 3000.0

    assert play(Busy(images=20_000, batch=100), batch_size.decide).values["batch_size"] == 100


@pytest.mark.parametrize("breaks, wanted", [(1.0, 0.4), (0.25, 0.2), (0.12, 0.1)])
def test_a_cycle_goes_no_higher_than_it_bears(breaks, wanted):
    """The earlier stages said 0.4; where that breaks, the short cycles tell."""
    values = {"batch_size": 128, "max_lr": 0.4, "momentum": 0.9, "momentum_low": 0.9, "weight_decay": 1e-3}
    decision = play(World(breaks=breaks, noise=0.02, momentum=0.9), cycle.decide, **values)
    assert decision.values["max_lr"] <= wanted * 1.001 and decision.values["base_lr"] * 10 == pytest.approx(
        decision.values["max_lr"], rel=0.01
    )


def test_noise_that_hides_the_difference_is_not_decided_upon():
    """Flat worlds with much noise: in nine of ten cases `not sure`, and then the person's own decay is nearest."""
    values = {"batch_size": 128, "max_lr": 0.2, "momentum": 0.95, "momentum_low": 0.85}
    worlds = [World(curve=0, noise=0.2, seeds=0.2, breaks=0.3 + i / 1000) for i in range(20)]
    decisions = [play(world, weight_decay.decide, **values) for world in worlds]
    unsure = [d for d in decisions if d.sure == LOW]
    assert len(unsure) >= 18
    assert all(d.values["weight_decay"] in (1e-3, 1e-4) for d in unsure)


def test_high_means_right():
    """Of all decisions called sure, at least nine of ten are within the step of the grid of the truth."""
    values = {"batch_size": 128, "max_lr": 0.2, "momentum": 0.95, "momentum_low": 0.85}
    right = []
    for seed, (decay, noise) in enumerate(itertools.product([1e-2, 1e-3, 1e-4], [0.005, 0.01, 0.02, 0.05, 0.1, 0.2])):
        for spread in (0.3, 1.0):
            world = World(decay=decay, noise=noise, seeds=noise / 2, curve=spread, breaks=0.3 + seed / 1000)
            decision = play(world, weight_decay.decide, **values)
            if decision.sure == HIGH:
                right.append(1 / 3.2 < decision.values["weight_decay"] / decay < 3.2)
    assert len(right) >= 10 and np.mean(right) >= 0.9


@pytest.mark.parametrize("stage", [batch_size.decide, learning_rate.decide, momentum.decide, weight_decay.decide,
                                   cycle.decide, final.decide, length.decide, batch_sizes.decide,
                                   branches.decide, balance.decide])  # fmt: skip
def test_a_spent_budget_decides_from_what_there_is(stage):
    """At whatever moment it runs out."""
    values = {"batch_size": 128, "max_lr": 0.2, "base_lr": 0.02, "momentum": 0.95, "momentum_low": 0.85,
              "weight_decay": 1e-3, "epochs": 10}  # fmt: skip
    world = World()
    results: dict = {}
    for _ in range(30):
        assert isinstance(stage(Situation(world.facts, values, results, more=False)), Decision)
        step = stage(Situation(world.facts, values, results))
        if isinstance(step, Decision):
            return
        results[step[0]] = world.train(step[0])
        assert isinstance(stage(Situation(world.facts, values, results, more=False)), Decision)
        results |= {plan: world.train(plan) for plan in step}


@pytest.mark.parametrize("stage", [weight_decay.decide, branches.decide, balance.decide])
def test_a_budget_that_ends_a_refinement_forgets_nothing_that_was_tried(stage):
    """Before, what lay beyond the first values was left out as soon as one more was not borne."""
    world = World(decay=0.02, noise=0.001, seeds=0.001)
    values = {**VALUES, "weight_decay": 1e-4}
    short = Plan("cycle", CYCLE, 2.5, 0.02, 0.2, (0.95, 0.85), 1e-4, 128)  # from which the balance has its noise
    before = [replace(short, high=high, run=run) for high in (0.2, 0.1) for run in (0, 1)]
    known = {plan: world.train(plan) for plan in before}
    steps = 0
    while not isinstance(asked := stage(Situation(world.facts, values, dict(known))), Decision):
        known |= {plan: world.train(plan) for plan in asked}
        spent = stage(Situation(world.facts, values, dict(known), more=False))
        assert isinstance(spent, Decision)
        if spent.evidence:
            assert set(spent.evidence) == known.keys() - set(before)
            steps += 1
    assert steps >= 3 and asked.evidence == spent.evidence


def test_a_stage_asks_for_the_same_again_after_a_kill():
    """With part of its results it asks for exactly the rest."""
    world, values = World(), {"batch_size": 128, "max_lr": 0.2}
    whole = momentum.decide(Situation(world.facts, values))
    half = {plan: world.train(plan) for plan in whole[::2]}
    assert momentum.decide(Situation(world.facts, values, half)) == [p for p in whole if p not in half]


def test_comparison_by_hand():
    """Two values, two runs: means, and the standard error from what value and run leave unexplained."""
    c = Comparison({1.0: [np.exp(0.0), np.exp(0.2)], 2.0: [np.exp(0.4), np.exp(0.8)]})
    assert c.best() == 1.0 and c.mean(1.0) == pytest.approx(np.exp(0.1))
    # differences 0.4 and 0.6: mean 0.5, standard error sd/sqrt(2) = 0.1414/1.414 = 0.1
    assert c.standard_error() == pytest.approx(0.1)
    assert c.distance(2.0, 1.0) == pytest.approx(5)
    assert c.choose(robust=lambda v: v)[:2] == (1.0, HIGH)
    broken = Comparison({1.0: [np.inf, 1.0], 2.0: [2.0, 2.1]})
    assert broken.best() == 2.0 and broken.distance(1.0, 2.0) == np.inf
    assert broken.choose(robust=lambda v: v) == (2.0, LOW, "only 2 trained to the end")
    assert replace(broken, error=0.1).choose(robust=lambda v: v)[:2] == (2.0, HIGH)


def test_names_of_trials_differ_where_plans_do():
    plan = Plan("cycle", "cycle", 1, 0.01, 0.1, (0.95, 0.85), 1e-3, 64)
    others = [replace(plan, **change) for change in (
        {"epochs": 2}, {"low": 0.02}, {"high": 0.2}, {"momentum": (0.9, 0.85)}, {"weight_decay": 0.0}, {"batch": 32},
        {"run": 1}, {"stage": "final"}, {"shape": "ramp"})]  # fmt: skip
    assert len({p.name for p in [plan, *others]}) == 10


VALUES = {"batch_size": 128, "max_lr": 0.2, "base_lr": 0.02, "momentum": 0.95, "momentum_low": 0.85,
          "weight_decay": 1e-3, "epochs": 10}  # fmt: skip


@pytest.mark.parametrize("breaks, stays", [(1.0, False), (0.05, True)])
def test_what_is_not_better_than_the_file_is_not_the_answer(breaks, stays):
    """A cycle to 0.2 at momentum 0.85 is one to 0.133 at 0.9: where 0.05 breaks, it ends worse than the file's 0.01."""
    decision = play(World(breaks=breaks), final.decide, **VALUES)
    assert decision.file_stays == stays and decision.sure != LOW
    assert (decision.values["test_loss"] > decision.values["test_loss_before"]) == stays
    assert ("nothing was gained, so that stays" in decision.reason) == stays


@pytest.mark.parametrize("breaks, stays", [(1.0, False), (0.05, True)])
def test_records_set_aside_choose_between_the_cycle_and_the_file(breaks, stays):
    """With no word from the test set, on which both may do as they like."""

    class Aside(World):
        @property
        def facts(self) -> Facts:
            return replace(super().facts, set_aside=500)

    decision = play(world := Aside(breaks=breaks), final.choose, **VALUES)
    assert decision.file_stays == stays and decision.reason.startswith("on 500 records set aside, 10 epochs: ")
    assert {plan.stage for plan in decision.evidence} == {CHOICE} and len(decision.evidence) == 2 * world.facts.runs
    told = play(world, final.decide, **VALUES)
    assert not told.file_stays and "that stays" not in told.reason
    assert (told.values["test_loss"] > told.values["test_loss_before"]) == stays


def test_a_budget_too_small_for_a_cycle_leaves_the_file():
    """A cycle that was tried before is an answer without the final training, what no trial showed is none."""
    world = World()
    nothing = final.decide(Situation(world.facts, VALUES, more=False))
    assert nothing.file_stays and not nothing.values and "the budget bore neither" in nothing.reason
    short = Plan("cycle", "cycle", 2, 0.02, 0.2, (0.95, 0.85), 1e-3, 128)
    some = final.decide(Situation(world.facts, VALUES, {short: world.train(short)}, more=False))
    assert not some.file_stays and "not compared" in some.reason

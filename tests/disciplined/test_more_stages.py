"""Length of the cycle, batch sizes at constant time, decays from a snapshot, clues acted upon: in known worlds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from surfaces import World, play, short_cycles

from pysolver.disciplined.clues import INSTABILITY, OVERFITTING, UNDERFITTING, Clue
from pysolver.disciplined.plan import BESIDE, CHOICE, CYCLE, FINAL, FIXED, RAMP, SPEED, Plan
from pysolver.disciplined.stages import (
    FAIR,
    LOW,
    Decision,
    Situation,
    balance,
    batch_sizes,
    branches,
    cycle,
    final,
    length,
    signs,
)
from pysolver.disciplined.stages import weight_decay as decay
from pysolver.logs import events as e
from pysolver.logs.assemble import Assembler
from pysolver.logs.run import Run

VALUES = {"batch_size": 128, "max_lr": 0.2, "base_lr": 0.02, "momentum": 0.9, "momentum_low": 0.9, "weight_decay": 1e-3}


@pytest.mark.parametrize("rate", [0.3, 0.08, 0.02, 0.005])
def test_the_length_is_doubled_as_long_as_that_gains(rate):
    """The noiseless law of the world tells which lengths gain: test loss = floor + (2.3 - floor) exp(-distance / 2)."""
    world = World(noise=0.01, seeds=0.01, momentum=0.9)
    decision = play(world, length.decide, **{**VALUES, "max_lr": rate, "base_lr": rate / 10})
    found = decision.values["epochs"]
    tried = sorted({plan.epochs for plan in decision.evidence})
    assert tried == [2.5 * 2**i for i in range(len(tried))]  # from a quarter of ten epochs on
    quiet = replace(world, noise=0.0, seeds=0.0)
    plan = decision.evidence[0]
    loss = {epochs: quiet.train(replace(plan, epochs=epochs)).test.main_loss[-1] for epochs in [*tried, 2 * tried[-1]]}
    gains = {epochs: np.log(loss[epochs] / loss[2 * epochs]) for epochs in tried}
    assert all(gains[epochs] > 0.03 for epochs in tried if epochs < found)
    if found < tried[-1]:
        assert found == tried[-2] and gains[found] < 0.1
    else:
        assert decision.sure == LOW and "still gained" in decision.reason


def test_a_length_from_one_run_each_is_not_sure():
    world = World(noise=0.01, seeds=0.0, momentum=0.9)
    results: dict[Plan, Run] = {}
    while not isinstance(step := length.decide(Situation(replace(world.facts, runs=1), VALUES, results)), Decision):
        results |= {plan: world.train(plan) for plan in step}
    assert step.sure == LOW and "as far as one run each tells" in step.reason


def test_an_error_of_zero_is_no_wonder():
    """Half an image of a test set is the least that is wrong; without accuracy it is the loss that counts."""
    tables = Assembler()
    tables.test(10, 1.0, 0)
    tables.output("Test", ("0", "accuracy"), False, 1.0)
    tables.output("Test", ("1", "loss"), True, 0.25)
    tables.head(e.Done("tool"))
    assert length.error(tables.run("all right"), 200) == 0.5 / 200
    assert length.error(World().train(Plan("length", CYCLE, 1, 0.01, 0.1, (0.9, 0.9), 1e-3, 128)), 200) > 0.03


@pytest.mark.parametrize("knee, wanted", [(64, 64), (256, 128)])
def test_batch_sizes_get_the_same_time_and_rates_of_their_own(knee, wanted):
    """Up to the knee all sizes make as many updates a second: nothing to choose, the file's 128 stays. Beyond it a
    larger one makes fewer, and rates this low need them."""
    world = World(knee=knee, noise=0.005, seeds=0.005, momentum=0.9, images=20_000, breaks=0.02)
    decision = play(world, batch_sizes.decide, **VALUES)
    cycles = [plan for plan in decision.evidence if plan.shape == CYCLE]
    speed = {plan.batch: 3000 * min(plan.batch, knee) / knee for plan in cycles}  # the law of the world
    times = {plan.batch: plan.epochs * world.images / speed[plan.batch] for plan in cycles}
    assert sorted(times) == [64, 128, 256] and max(times.values()) == pytest.approx(min(times.values()), rel=0.02)
    # this world breaks at 0.02 whatever the batch: each range test, and so each cycle, must have found that by itself
    assert all(1 / 1.5 < 2 * plan.high / 0.02 < 1.5 for plan in cycles)
    assert decision.values["batch_size"] == wanted
    assert len(decision.table) == len(decision.notes) == 3


@pytest.mark.parametrize("right", [1e-2, 1e-3, 1e-4, 2e-5])
def test_decays_branch_from_the_plateau(right):
    world = World(decay=right, noise=0.02, seeds=0.01, momentum=0.9)
    decision = play(world, branches.decide, **VALUES)
    assert 1 / 3.2 < decision.values["weight_decay"] / right < 3.2, decision.table
    trunks = {plan.after for plan in decision.evidence} - {None}
    ends = {plan.after for plan in decision.evidence if plan.weight_decay != 1e-3}
    assert len(ends) == 2 and all(end in trunks and end.weight_decay == 1e-3 and end.shape == FIXED for end in ends)
    # level: the part of the loss that still falls is below the noise
    quiet = replace(world, noise=0.0, seeds=0.0)
    for end in ends:
        losses = quiet.train(end).test.main_loss
        assert losses[0] / losses[-1] < 1.1
    assert len({plan.name for plan in decision.evidence}) == len(decision.evidence)


def test_a_trunk_that_is_never_level_is_told():
    decision = play(World(noise=0.001, seeds=0.001, momentum=0.9), branches.decide, **{**VALUES, "max_lr": 0.002})
    assert any("not at a plateau" in note for note in decision.notes)


@pytest.mark.parametrize("piece", [1, 2])
def test_a_trunk_that_breaks_bears_no_branch(piece):
    """Before, the branches went on from a snapshot that a run that was given up never wrote: the tuning failed."""

    def decide(s: Situation) -> Decision | list[Plan]:
        broken = {p: given_up(p) for p in s.results if (2 if p.after else 1) == piece and p.run == 1}
        return branches.decide(replace(s, results={**s.results, **broken}))

    decision = play(World(), decide, **VALUES)
    assert not decision.values and decision.sure == LOW
    assert decision.reason.startswith("1 of 2 runs at 0.1, half of max_lr, broke before")
    assert {plan.weight_decay for plan in decision.evidence} == {1e-3}


@pytest.mark.parametrize("bears, taken", [(0.06, 0.05), (0.01, 0.025)])
def test_where_no_cycle_trained_to_its_end_lower_ones_are_tried(bears, taken):
    """Before, it stopped at half of the bound when that broke as well, and took it."""

    def decide(s: Situation) -> Decision | list[Plan]:
        return cycle.decide(replace(s, results={p: given_up(p) if p.high > bears else s.results[p] for p in s.results}))

    decision = play(World(noise=0.01, seeds=0.01), decide, **VALUES)
    assert decision.values["max_lr"] == taken
    assert ("no value trained" in decision.reason) == (bears < taken)


@pytest.mark.parametrize("right, trainings", [(1e-4, 2), (1e-3, 4), (3e-3, 4), (1e-2, 4)])
def test_the_decay_that_is_best_on_short_runs_is_raised_by_whole_trainings(right, trainings):
    """As long as that helps; a training beside the first one is all it costs where the short runs were right."""
    world = World(decay=right, early=1e-4 / right, noise=0.01, seeds=0.01)
    values = {**VALUES, "momentum": 0.95, "weight_decay": 1e-4, "epochs": 10.0}
    decision = play(world, balance.decide, short_cycles(), **values)
    assert 1 / 1.8 < decision.values["weight_decay"] / right < 1.8 and decision.sure != LOW, decision.table
    assert len(decision.evidence) == trainings
    assert decision.sure == FAIR or right > 1e-4  # that less is not better was not tried
    # those of the answer are its first final run, which is not trained twice
    first = next(plan for plan in decision.evidence if plan.weight_decay == decision.values["weight_decay"])
    known = {plan: world.train(plan) for plan in decision.evidence}
    asked = final.decide(Situation(world.facts, {**values, **decision.values}, known))
    assert isinstance(asked, list) and len(asked) == 7 and {p.stage for p in asked} == {FINAL, BESIDE}
    assert first not in asked and {replace(p, run=0) for p in asked if p.stage == FINAL} == {first}


def test_a_gain_within_the_noise_of_the_short_cycles_raises_nothing():
    """In a flat world. What the file has counts then: 5e-4 is nearer to 1e-3 than to 1e-4."""
    hidden = 0
    for seed in range(12):
        world = World(curve=0.0, noise=0.05, seeds=0.05, seed=seed)
        decision = play(world, balance.decide, short_cycles(), **{**VALUES, "weight_decay": 1e-4, "epochs": 10.0})
        if decision.sure == LOW:
            hidden += 1
            assert decision.values == {"weight_decay": 1e-3}
    assert hidden >= 6  # 1.5 standard errors, of four short cycles, are passed by chance in a third of all cases


def given_up(plan: Plan) -> Run:
    """The log of a trial that diverged before its first test."""
    tables = Assembler()
    tables.head(e.GaveUp("diverged"))
    return tables.run(plan.name)


def broken(world: World, decays: tuple[float, ...]) -> Callable[[Situation], Decision | list[Plan]]:
    """The balance in a world where whole trainings with these decays are given up."""

    def decide(s: Situation) -> Decision | list[Plan]:
        ends = {p: given_up(p) for p in s.results if p.stage == FINAL and p.weight_decay in decays}
        return balance.decide(replace(s, results={**s.results, **ends}))

    return decide


@pytest.mark.parametrize("decays, wanted, words", [((1e-3,), 1e-4, "only 0.0001 trained to the end"),
                                                   ((1e-4, 1e-3), None, "of the short runs stays")])  # fmt: skip
def test_a_decay_that_breaks_whole_trainings_is_not_taken(decays, wanted, words):
    """Before, where both broke the one nearer to the file's 5e-4 was taken, which was ten times as much."""
    world = World(noise=0.01, seeds=0.01)
    values = {**VALUES, "weight_decay": 1e-4, "epochs": 10.0}
    decision = play(world, broken(world, decays), short_cycles(), **values)
    assert decision.values.get("weight_decay") == wanted and words in decision.reason and len(decision.evidence) == 2


def test_records_set_aside_decide_on_the_decay_too():
    facts = replace(World().facts, set_aside=500)
    asked = balance.decide(Situation(facts, {**VALUES, "epochs": 10.0}))
    assert isinstance(asked, list) and {plan.stage for plan in asked} == {CHOICE}
    assert [plan.weight_decay for plan in asked] == [1e-3, 1e-2]
    none = balance.decide(Situation(facts, {**VALUES, "epochs": 10.0, "weight_decay": 0.0}))
    assert isinstance(none, list) and [plan.weight_decay for plan in none] == [0.0, 1e-5]
    end = balance.decide(Situation(facts, {**VALUES, "epochs": 10.0, "weight_decay": 0.05}))
    assert isinstance(end, Decision) and not end.values


def ramps_with(kind: str, rates: tuple[float, float]):
    """Stands in for what reading the ramps finds."""
    clue = Clue(kind, 10, 290, rates, "as seen", "advice")
    return lambda runs: {kind: clue} if runs else {}


@pytest.mark.parametrize("kind, rates, top", [(UNDERFITTING, (0.05, 0.2), 0.3), (UNDERFITTING, (0.01, 0.1), 0.2),
                                              (INSTABILITY, (0.12, 0.2), 0.12), (INSTABILITY, (0.001, 0.2), 0.2),
                                              (OVERFITTING, (0.1, 0.2), 0.2)])  # fmt: skip
def test_the_cycle_acts_on_the_clues_of_the_ramps(monkeypatch, kind, rates, top):
    """Too little fitted up to the end: a higher rate is tried. Unstable from 0.12 on: none above."""
    world = World()
    ramp = Plan("weight_decay", RAMP, 2, 0.0002, 0.2, (0.9, 0.9), 1e-3, 128)
    monkeypatch.setattr(cycle, "signs", ramps_with(kind, rates))
    first = cycle.decide(Situation(world.facts, VALUES, {ramp: world.train(ramp)}))
    assert max(plan.high for plan in first) == pytest.approx(top)
    (untold,) = {max(p.high for p in cycle.decide(Situation(world.facts, VALUES)))}
    assert untold == pytest.approx(0.2)  # no ramps, no clues


@pytest.mark.parametrize("kind, wanted", [(OVERFITTING, 3e-2), (UNDERFITTING, 3.3e-5)])
def test_a_decay_at_the_edge_acts_on_the_clues(monkeypatch, kind, wanted):
    """In a flat noisy world the clue alone asks beyond the edge, and only on its side."""
    monkeypatch.setattr(decay, "signs", ramps_with(kind, (0.1, 0.2)))
    asked, silent = 0, 0
    for i in range(12):
        decision = play(World(curve=0, noise=0.2, seeds=0.2, breaks=0.3 + i / 1000), decay.decide, **VALUES)
        tried = {plan.weight_decay for plan in decision.evidence}
        if wanted in tried:
            asked += 1
            assert any(kind in note and f"{wanted:g} is tried too" in note for note in decision.notes)
        silent += tried == set(decay.SHALLOW)
    assert asked >= 2 and silent >= 2


def test_signs_are_what_all_runs_show():
    """A ramp that breaks is unstable; one that does not is not; of both together nothing is said."""
    ramp = Plan("weight_decay", RAMP, 4, 0.0006, 0.6, (0.9, 0.9), 1e-3, 128)
    broken, other = (World(breaks=0.3, noise=0.01).train(replace(ramp, run=run)) for run in (0, 1))
    calm = World(breaks=1e9, noise=0.01).train(ramp)
    assert INSTABILITY in signs.signs([broken, other]) and INSTABILITY not in signs.signs([broken, calm])
    short = World().train(Plan("cycle", CYCLE, 1, 0.01, 0.1, (0.9, 0.9), 1e-3, 128))
    speed = World().train(Plan("batch", SPEED, 0.1, 0.01, 0.01, (0.9, 0.9), 1e-3, 128))
    assert signs.signs([short]) == signs.signs([speed]) == signs.signs([]) == {}


def test_with_nothing_tried_the_files_own_rate_is_not_halved():
    """What a range test found may be too much for a cycle, but the person's own rate is known to train."""
    facts = World().facts
    for known, top in ((facts.rate, None), (0.2, 0.1)):
        decision = cycle.decide(Situation(facts, {**VALUES, "max_lr": known}, more=False))
        assert (decision.values.get("max_lr"), decision.sure) == (top, LOW)

"""Learning rate and momentum as pure functions of a SolverParameter and the iteration; no torch, no state.

    at(solver, i, current_step)   rate, momentum and weight decay of update number i, as one Row
    learning_rate(solver, i)      what Caffe's GetLearningRate gives (src/caffe/solvers/sgd_solver.cpp)
    momentum(solver, i)           `momentum`, or the cyclical momentum of L. N. Smith, arXiv:1803.09820
    table(solver)                 all of it as rows, without training

Iterations may be ints or integer arrays; results are float32. The policies are in pysolver.policies.

Only `multistep` remembers something: how many of its stepvalues it has passed. The caller keeps that number
(`current_step` in a solver state) and asks next_step for the new one.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from pysolver import solver_types
from pysolver.errors import CaffeError
from pysolver.policies import Parameters, difference, policy_of, powf, triangle

Iteration = int | NDArray[np.int64]
Rate = np.float32 | NDArray[np.float32]

_CHUNK = 1 << 15  # rows of a table that are computed at once


class Row(NamedTuple):
    """The hyper-parameters of one update; the fields are arrays where the iteration is one."""

    iter: Any
    lr: Any
    momentum: Any
    weight_decay: Any


def at(solver: Parameters, iteration: Iteration, current_step: Iteration = 0) -> Row:
    """The update that follows `iteration` updates. current_step: what next_step gave for this iteration."""
    rate, m = learning_rate(solver, iteration, current_step), momentum(solver, iteration, current_step)
    return Row(iteration, rate, m, weight_decay(solver, iteration))


def learning_rate(solver: Parameters, iteration: Iteration, current_step: Iteration = 0) -> Rate:
    """The rate alone. CaffeError for an unknown policy."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        i = np.asarray(iteration, np.int64)[()]
        rate = np.float32(policy_of(solver).rate(solver, i, current_step))
        rate = _as_forks_start_and_end(solver, i, rate)
        return np.asarray(rate, np.float32)[()]


def _as_forks_start_and_end(solver: Parameters, i: Any, rate: Any) -> Any:
    """Intel's warm-up and NVIDIA's ramp in place of the policy's first rates, and NVIDIA's least rate."""
    base, x = np.float32(solver.base_lr), np.float32(i)
    if solver.rampup_interval > 0:
        start, part = np.float32(solver.rampup_lr), x / np.float32(solver.rampup_interval)
        rate = np.where(i < solver.rampup_interval, start + (base - start) * part * part, rate)
    if solver.min_lr > 0:
        rate = np.maximum(rate, np.float32(solver.min_lr))
    if solver.warmup_iter > 0:
        end, start = np.float32(solver.warmup_iter), np.float32(solver.warmup_start_lr)
        rate = np.where(i < solver.warmup_iter, (x * base + (end - x) * start) / end, rate)
    return rate


def next_step(solver: Parameters, iteration: int, current_step: int) -> int:
    """`current_step` once the rate of this iteration has been asked for."""
    return policy_of(solver).steps.next(solver, iteration, current_step)


def momentum(solver: Parameters, iteration: Iteration, current_step: Iteration = 0) -> Rate:
    """The momentum of that update. NVIDIA's momentum_policy: "poly" from `momentum` to max_momentum; "opt" by the rate.

    With cyclical_momentum (c, s): a triangle from `momentum` to c and back every 2 s iterations, half as deep with
    each cycle, whatever the rate's policy and its start_lr_policy are.
    """
    i = np.asarray(iteration, np.int64)[()]
    if solver.momentum_policy == "poly":
        return _risen(solver, i, solver.momentum, solver.max_momentum, solver.momentum_power)
    if solver.momentum_policy == "opt":
        root = 1 - 0.5 * np.float64(np.sqrt(learning_rate(solver, iteration, current_step)))
        most = np.float32(solver.max_momentum) if solver.HasField("max_momentum") else np.float32(np.inf)
        return np.minimum(most, np.float32(root * root))
    if len(solver.cyclical_momentum) != 2:
        return np.full_like(i, solver.momentum, dtype=np.float32)[()]
    bound, step_size = solver.cyclical_momentum
    exact = step_size.is_integer() and step_size < 2**53  # in int64, else in double
    height, cycle = triangle(i, int(step_size) if exact else step_size)
    return np.float32(solver.momentum + difference(bound, solver.momentum) * height / 2.0**cycle)


def weight_decay(solver: Parameters, iteration: Iteration) -> Rate:
    """The weight decay of that update. NVIDIA's weight_decay_policy "poly": from `weight_decay` to max_weight_decay."""
    i = np.asarray(iteration, np.int64)[()]
    if solver.weight_decay_policy == "poly":
        return _risen(solver, i, solver.weight_decay, solver.max_weight_decay, solver.weight_decay_power)
    return np.full_like(i, solver.weight_decay, dtype=np.float32)[()]


def _risen(solver: Parameters, i: Any, start: float, end: float, power: float) -> Any:
    """start + (end - start) (i / max_iter)^power, in floats."""
    part = powf(np.float32(i) / np.float32(solver.max_iter), power)
    return np.float32(start) + (np.float32(end) - np.float32(start)) * part


def table(solver: Parameters, every: int | None = None) -> Iterator[Row]:
    """The schedule of a whole run, every so many iterations, as a training from iteration 0 goes through it.

    every: 1 unless given; without max_iter, as many as extent() says.
    """
    if every is not None and every < 1:
        raise CaffeError(f"a schedule is printed every so many iterations: at least 1, not {every}")
    check_schedule(solver)
    end, chosen = extent(solver)
    every, steps = every or chosen, policy_of(solver).steps
    for first in range(0, end, every * _CHUNK):
        iterations = np.arange(first, min(end, first + every * _CHUNK), every)
        columns = at(solver, iterations, steps.taken(solver, iterations))
        yield from map(Row, iterations.tolist(), *columns[1:])


def extent(solver: Parameters) -> tuple[int, int]:
    """Where a table of this solver ends, and every how many iterations it has a row unless that is said.

    Without max_iter it ends where the policy has shown what it does, in at most 20,000 rows a round number apart.
    CaffeError for a policy that only max_iter ends.
    """
    if solver.max_iter > 0 or solver.HasField("max_iter"):
        return max(0, solver.max_iter), 1
    span = policy_of(solver).span(solver)
    if span is None:
        raise CaffeError("max_iter is not set: the schedule has no end; set max_iter to the number of iterations")
    rounds = (digit * 10**power for power in itertools.count() for digit in (1, 2, 5))
    return span, next(every for every in rounds if span <= 20_000 * every)


def write_csv(rows: Iterable[Row], file: TextIO) -> None:
    """Rows as CSV with a header; numbers in the shortest form that reads back to the same float32."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(Row._fields)
    writer.writerows(rows)


def check_schedule(solver: Parameters) -> None:
    """Raise a CaffeError that names the field and what would be right, before anything is trained or written.

    Caffe looks only when the first update is computed, and never at momentum, cyclical_momentum and max_lr.
    """
    for need in policy_of(solver).needs:
        refusal = need(solver)
        if refusal:
            raise CaffeError(refusal)
    if solver.min_lr < 0 or solver.rampup_interval < 0 or solver.warmup_iter < 0:
        raise CaffeError("min_lr, rampup_interval and warmup_iter must not be negative")
    _check_policies_of_nvidia(solver)
    if not 0 <= solver.momentum <= 1:
        raise CaffeError(f"momentum is {solver.momentum:g}: it must lie between 0 and 1")
    _check_cyclical_momentum(solver)


def _check_policies_of_nvidia(solver: Parameters) -> None:
    for field, known in (("momentum_policy", ("fixed", "poly", "opt")), ("weight_decay_policy", ("fixed", "poly"))):
        policy = getattr(solver, field)
        if policy not in known:
            raise CaffeError(f"Unknown {field.replace('_', ' ')}: {policy} ({field} is one of {', '.join(known)})")
        if policy == "poly" and solver.max_iter < 1:
            raise CaffeError(f'max_iter is {solver.max_iter}: {field} "poly" divides by it; it must be above 0')
    if solver.momentum_policy != "fixed" and solver.cyclical_momentum:
        raise CaffeError(f'momentum_policy "{solver.momentum_policy}" and cyclical_momentum are both given: take one')


def _check_cyclical_momentum(solver: Parameters) -> None:
    values = list(solver.cyclical_momentum)
    if not values:
        return
    if len(values) != 2:
        raise CaffeError(
            f"cyclical_momentum is given {len(values)} times: give it twice, first the other bound of the momentum, "
            "then half a cycle in iterations (cyclical_momentum: 0.85  cyclical_momentum: 2000)"
        )
    if solver.type in solver_types.TYPES and not solver_types.TYPES[solver.type].takes_momentum:
        raise CaffeError(
            f'cyclical_momentum cannot be used with type "{solver.type}", which has no momentum: '
            f"remove it, or use {solver_types.with_momentum()}"
        )
    bound, step_size = values
    if not 0 <= bound <= 1:
        raise CaffeError(f"cyclical_momentum: the first value, a momentum, is {bound:g}: it must lie between 0 and 1")
    if not 0 < step_size < np.inf:
        raise CaffeError(
            f"cyclical_momentum: the second value, half a cycle in iterations, is {step_size:g}: it must be positive"
        )

"""Learning rate and momentum as pure functions of a SolverParameter and the iteration; no torch, no state.

    at(solver, i, current_step)   rate, momentum and weight decay of update number i, as one Row
    learning_rate(solver, i)      what Caffe's GetLearningRate gives (src/caffe/solvers/sgd_solver.cpp)
    momentum(solver, i)           `momentum`, or the cyclical momentum of L. N. Smith, arXiv:1803.09820
    table(solver)                 all of it as rows, without training

Iterations may be ints or integer arrays; results are float32. Each policy keeps the precision in which Caffe takes
its power (float or double), so that the rates agree to the last bit. A policy is a row of POLICIES.

Only `multistep` remembers something: how many of its stepvalues it has passed. The caller keeps that number
(`current_step` in a solver state) and asks next_step for the new one.
"""

from __future__ import annotations

import csv
import ctypes
import difflib
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from pysolver import solver_types
from pysolver.errors import CaffeError

Iteration = int | NDArray[np.int64]
Rate = np.float32 | NDArray[np.float32]

_ONE = np.float32(1)
_CHUNK = 1 << 15  # rows of a table that are computed at once


# ---- the policies: rate of (solver, iterations as int64, current_step) --------------------------------------------


def _fixed(solver: Any, i: Any, current_step: Any) -> Any:
    return np.full_like(i, solver.base_lr, dtype=np.float32)


def _step(solver: Any, i: Any, current_step: Any) -> Any:
    return solver.base_lr * np.float64(solver.gamma) ** current_step


def _exp(solver: Any, i: Any, current_step: Any) -> Any:
    return solver.base_lr * np.float64(solver.gamma) ** i


def _inv(solver: Any, i: Any, current_step: Any) -> Any:
    return np.float32(solver.base_lr) * _powf(_ONE + np.float32(solver.gamma) * np.float32(i), -solver.power)


def _poly(solver: Any, i: Any, current_step: Any) -> Any:
    left = _ONE - np.float32(i) / np.float32(solver.max_iter)
    least = np.float32(solver.min_lr)
    return (np.float32(solver.base_lr) - least) * _powf(left, solver.power) + least


def _sigmoid(solver: Any, i: Any, current_step: Any) -> Any:
    exponent = -np.float32(solver.gamma) * (np.float32(i) - np.float32(solver.stepsize))
    return np.float32(solver.base_lr) * (_ONE / (_ONE + _expf(exponent)))


def _triangular(solver: Any, i: Any, current_step: Any) -> Any:
    return _cyclical(solver, i, lambda height, cycle, itr: height)


def _triangular2(solver: Any, i: Any, current_step: Any) -> Any:
    return _cyclical(solver, i, lambda height, cycle, itr: height / 2.0**cycle)


def _exp_range(solver: Any, i: Any, current_step: Any) -> Any:
    return _cyclical(solver, i, lambda height, cycle, itr: height * np.float64(solver.gamma) ** itr)


def _one_cycle(solver: Any, i: Any, current_step: Any) -> Any:
    x = np.float64(np.float32(i) / np.float32(solver.stepsize))
    rising = solver.base_lr + _difference(solver.max_lr, solver.base_lr) * x
    falling = solver.max_lr * (2.0 - x)  # towards 0, not towards base_lr
    tail = np.full_like(x, solver.base_lr / 1000.0)
    return np.where(i < solver.stepsize, rising, np.where(i < 2 * solver.stepsize, falling, tail))


def _cyclical(solver: Any, i: Any, shape: Callable) -> Any:
    itr = np.maximum(i - solver.start_lr_policy, 0)  # base_lr until then
    height, cycle = _triangle(itr, solver.stepsize)
    return solver.base_lr + _difference(solver.max_lr, solver.base_lr) * shape(height, cycle, itr)


def _triangle(itr: Any, step_size: float) -> tuple[Any, Any]:
    """Height, 0 at the start of a cycle and 1 in its middle, and number of the cycle. The quotient is a float32."""
    cycle = itr // (2 * step_size)
    x = np.float64(np.float32(itr - (2 * cycle + 1) * step_size) / np.float32(step_size))
    return np.maximum(0.0, 1.0 - np.abs(x)), np.float64(cycle)


def _difference(to: float, start: float) -> np.float64:
    """The span of a cycle, a difference of two floats."""
    return np.float64(np.float32(to) - np.float32(start))


def _of_c(name: str, arguments: int, otherwise: Callable) -> Callable:
    """A float function of the C library, which Caffe calls: its last bit is the library's own affair.

    numpy's own differ with the vector unit that it finds. otherwise: the same in double, rounded, where there is none.
    """
    try:
        function = getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError, TypeError):
        return lambda *values: np.float32(otherwise(*(np.float64(np.float32(value)) for value in values)))
    function.argtypes, function.restype = [ctypes.c_float] * arguments, ctypes.c_float
    return np.vectorize(function, otypes=[np.float32])


_powf = _of_c("powf", 2, np.power)
_expf = _of_c("expf", 1, np.exp)


def _multifixed(solver: Any, i: Any, current_step: Any) -> Any:
    """MobileNet-YOLO's: stagelr[s] up to and with iteration stageiter[s]; the last one for ever."""
    stage = np.searchsorted(np.array(solver.stageiter, np.int64), i, side="left")
    return np.array(solver.stagelr, np.float32)[np.minimum(stage, len(solver.stagelr) - 1)]


def _as_forks_start_and_end(solver: Any, i: Any, rate: Any) -> Any:
    """Intel's warm-up and NVIDIA's ramp in place of the policy's first rates, and NVIDIA's least rate."""
    base, x = np.float32(solver.base_lr), np.float32(i)
    if solver.min_lr > 0:
        rate = np.maximum(rate, np.float32(solver.min_lr))
    if solver.rampup_interval > 0:
        start, part = np.float32(solver.rampup_lr), x / np.float32(solver.rampup_interval)
        rate = np.where(i < solver.rampup_interval, start + (base - start) * part * part, rate)
    if solver.warmup_iter > 0:
        end, start = np.float32(solver.warmup_iter), np.float32(solver.warmup_start_lr)
        rate = np.where(i < solver.warmup_iter, (x * base + (end - x) * start) / end, rate)
    return rate


# ---- current_step of the policies that go down in steps ------------------------------------------------------------


class Steps(NamedTuple):
    """next: (solver, iteration, current_step) -> its next value. taken: what that adds up to from iteration 0 on."""

    next: Callable[[Any, int, int], int]
    taken: Callable[[Any, NDArray[np.int64]], NDArray[np.int64]]


def _next_stepvalue(solver: Any, iteration: int, current_step: int) -> int:
    """At most one an iteration, in the order of the file: equal or unordered ones are taken one after the other."""
    waiting = current_step < len(solver.stepvalue) and iteration >= solver.stepvalue[current_step]
    return current_step + waiting


def _stepvalues_taken(solver: Any, iterations: NDArray[np.int64]) -> NDArray[np.int64]:
    passed: list[int] = []
    for value in solver.stepvalue:
        passed.append(max(value, passed[-1] + 1 if passed else 0))
    return np.searchsorted(np.array(passed, np.int64), iterations, side="right")


_EVERY_STEPSIZE = Steps(lambda solver, i, step: i // solver.stepsize, lambda solver, i: i // solver.stepsize)
_AT_STEPVALUES = Steps(_next_stepvalue, _stepvalues_taken)
_NO_STEPS = Steps(lambda solver, i, step: step, lambda solver, i: np.zeros_like(i))


# ---- what a policy needs: the words of a refusal, or None ----------------------------------------------------------


def _stepsize(solver: Any) -> str | None:
    if solver.stepsize > 0:
        return None
    given = f"is {solver.stepsize}" if solver.HasField("stepsize") else "is not set"
    return f'Check failed: stepsize() > 0: lr_policy "{solver.lr_policy}" needs stepsize, in iterations; it {given}'


def _gamma(solver: Any) -> str | None:
    if solver.gamma >= 0:
        return None
    return (
        f'Check failed: gamma() >= 0: lr_policy "{solver.lr_policy}" needs a gamma of 0 or more, not {solver.gamma:g}'
    )


def _max_lr(solver: Any) -> str | None:
    if solver.HasField("max_lr"):
        return None
    return f'max_lr is not set: lr_policy "{solver.lr_policy}" needs it, the other bound beside base_lr'


def _stages(solver: Any) -> str | None:
    if len(solver.stagelr) == len(solver.stageiter) > 0:
        return None
    return (
        f'lr_policy "multifixed" needs as many stagelr as stageiter, at least one, not {len(solver.stagelr)} and '
        f"{len(solver.stageiter)}"
    )


def _max_iter(solver: Any) -> str | None:
    if solver.max_iter > 0:
        return None
    return f'max_iter is {solver.max_iter}: lr_policy "{solver.lr_policy}" divides by it; it must be above 0'


# ---- the rows ------------------------------------------------------------------------------------------------------


class Policy(NamedTuple):
    """A learning rate policy.

    rate: the law: (solver, iterations as int64, current_step) -> rate; it is rounded to float32.
    needs: each looks at the SolverParameter and gives the words of a refusal, or None.
    span: iterations in which it shows what it does, for a table without max_iter; None if max_iter has to say.
    steps: how current_step moves.
    """

    rate: Callable[[Any, Any, Any], Any]
    needs: tuple[Callable[[Any], str | None], ...] = ()
    span: Callable[[Any], int | None] = lambda solver: None
    steps: Steps = _NO_STEPS


def _hundred_steps(solver: Any) -> int:
    return 100 * solver.stepsize


def _ten_cycles(solver: Any) -> int:
    return solver.start_lr_policy + 20 * solver.stepsize


POLICIES: dict[str, Policy] = {
    "1cycle": Policy(_one_cycle, (_stepsize, _max_lr), lambda solver: 3 * solver.stepsize),
    "exp": Policy(_exp, (_gamma,)),
    "exp_range": Policy(_exp_range, (_stepsize, _gamma, _max_lr), _ten_cycles),
    "fixed": Policy(_fixed),
    "inv": Policy(_inv, (_gamma,)),
    "multifixed": Policy(_multifixed, (_stages,), lambda solver: 2 * max(solver.stageiter)),
    "multistep": Policy(
        _step, (_gamma,), lambda solver: 2 * max(solver.stepvalue) if solver.stepvalue else None, _AT_STEPVALUES
    ),
    "poly": Policy(_poly, (_max_iter,)),
    "sigmoid": Policy(_sigmoid, (_stepsize, _gamma), _hundred_steps),
    "step": Policy(_step, (_stepsize, _gamma), _hundred_steps, _EVERY_STEPSIZE),
    "triangular": Policy(_triangular, (_stepsize, _max_lr), _ten_cycles),
    "triangular2": Policy(_triangular2, (_stepsize, _max_lr), _ten_cycles),
}
CYCLICAL = tuple(name for name, policy in POLICIES.items() if _max_lr in policy.needs)


def _policy(solver: Any) -> Policy:
    if solver.lr_policy not in POLICIES:
        near = difflib.get_close_matches(solver.lr_policy.lower(), POLICIES, 1)
        hint = f"did you mean '{near[0]}'? " if near else "" if solver.lr_policy else "it is not set; "
        known = ", ".join(sorted(POLICIES))
        raise CaffeError(f"Unknown learning rate policy: {solver.lr_policy} ({hint}lr_policy is one of {known})")
    return POLICIES[solver.lr_policy]


# ---- what the solver asks -----------------------------------------------------------------------------------------


class Row(NamedTuple):
    """The hyper-parameters of one update; the fields are arrays where the iteration is one."""

    iter: Any
    lr: Any
    momentum: Any
    weight_decay: Any


def at(solver: Any, iteration: Iteration, current_step: Iteration = 0) -> Row:
    """The update that follows `iteration` updates. current_step: what next_step gave for this iteration."""
    rate, m = learning_rate(solver, iteration, current_step), momentum(solver, iteration)
    return Row(iteration, rate, m, np.full_like(m, solver.weight_decay)[()])


def learning_rate(solver: Any, iteration: Iteration, current_step: Iteration = 0) -> Rate:
    """The rate alone. CaffeError for an unknown policy."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        i = np.asarray(iteration, np.int64)[()]
        rate = np.float32(_policy(solver).rate(solver, i, current_step))
        rate = _as_forks_start_and_end(solver, i, rate)
        return np.asarray(rate, np.float32)[()]


def next_step(solver: Any, iteration: int, current_step: int) -> int:
    """`current_step` once the rate of this iteration has been asked for."""
    return _policy(solver).steps.next(solver, iteration, current_step)


def momentum(solver: Any, iteration: Iteration) -> Rate:
    """The momentum of that update.

    With cyclical_momentum (c, s): a triangle from `momentum` to c and back every 2 s iterations, half as deep with
    each cycle, whatever the rate's policy and its start_lr_policy are.
    """
    i = np.asarray(iteration, np.int64)[()]
    if len(solver.cyclical_momentum) != 2:
        return np.full_like(i, solver.momentum, dtype=np.float32)[()]
    bound, step_size = solver.cyclical_momentum
    exact = step_size.is_integer() and step_size < 2**53  # in int64, else in double
    height, cycle = _triangle(i, int(step_size) if exact else step_size)
    return np.float32(solver.momentum + _difference(bound, solver.momentum) * height / 2.0**cycle)


def table(solver: Any, every: int | None = None) -> Iterator[Row]:
    """The schedule of a whole run, every so many iterations, as a training from iteration 0 goes through it.

    every: 1 unless given; without max_iter, as many as extent() says.
    """
    if every is not None and every < 1:
        raise CaffeError(f"a schedule is printed every so many iterations: at least 1, not {every}")
    check_schedule(solver)
    end, chosen = extent(solver)
    every, steps = every or chosen, _policy(solver).steps
    for first in range(0, end, every * _CHUNK):
        iterations = np.arange(first, min(end, first + every * _CHUNK), every)
        columns = at(solver, iterations, steps.taken(solver, iterations))
        yield from map(Row, iterations.tolist(), *columns[1:])


def extent(solver: Any) -> tuple[int, int]:
    """Where a table of this solver ends, and every how many iterations it has a row unless that is said.

    Without max_iter it ends where the policy has shown what it does, in at most 20,000 rows a round number apart.
    CaffeError for a policy that only max_iter ends.
    """
    if solver.max_iter > 0 or solver.HasField("max_iter"):
        return max(0, solver.max_iter), 1
    span = _policy(solver).span(solver)
    if span is None:
        raise CaffeError("max_iter is not set: the schedule has no end; set max_iter to the number of iterations")
    rounds = (digit * 10**power for power in itertools.count() for digit in (1, 2, 5))
    return span, next(every for every in rounds if span <= 20_000 * every)


def write_csv(rows: Iterable[Row], file: TextIO) -> None:
    """Rows as CSV with a header; numbers in the shortest form that reads back to the same float32."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(Row._fields)
    writer.writerows(rows)


# ---- what is refused ----------------------------------------------------------------------------------------------


def check_schedule(solver: Any) -> None:
    """Raise a CaffeError that names the field and what would be right, before anything is trained or written.

    Caffe looks only when the first update is computed, and never at momentum, cyclical_momentum and max_lr.
    """
    for need in _policy(solver).needs:
        refusal = need(solver)
        if refusal:
            raise CaffeError(refusal)
    if solver.min_lr < 0 or solver.rampup_interval < 0 or solver.warmup_iter < 0:
        raise CaffeError("min_lr, rampup_interval and warmup_iter must not be negative")
    if not 0 <= solver.momentum <= 1:
        raise CaffeError(f"momentum is {solver.momentum:g}: it must lie between 0 and 1")
    _check_cyclical_momentum(solver)


def _check_cyclical_momentum(solver: Any) -> None:
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

"""Learning rate and momentum as pure functions of a SolverParameter and the iteration; no torch, no state.

    learning_rate(solver, i)   what Caffe's GetLearningRate gives for update number i (src/caffe/solvers/sgd_solver.cpp)
    momentum(solver, i)        `momentum`, or the cyclical momentum of L. N. Smith, arXiv:1803.09820
    table(solver)              all of it as rows, without training

Iterations may be ints or integer arrays; results are float32. Each policy keeps the precision in which Caffe takes
its power (float or double), so that the rates agree to the last bit.

Only `multistep` remembers something: how many of its stepvalues it has passed. The caller keeps that number
(`current_step` in a solver state) and asks next_step for the new one.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from pysolver.errors import CaffeError

Iteration = int | NDArray[np.int64]
Rate = np.float32 | NDArray[np.float32]

_ONE = np.float32(1)


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
    return np.float32(solver.base_lr) * _powf(left, solver.power)


def _sigmoid(solver: Any, i: Any, current_step: Any) -> Any:
    exponent = -np.float32(solver.gamma) * (np.float32(i) - np.float32(solver.stepsize))
    return np.float32(solver.base_lr) * (_ONE / (_ONE + np.float32(np.exp(np.float64(exponent)))))


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


def _powf(base: Any, exponent: float) -> Any:
    """C's powf: taken in double and rounded, which does not depend on the vector unit that numpy finds."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return np.float32(np.float64(base) ** np.float64(np.float32(exponent)))


POLICIES: dict[str, Callable] = {
    "1cycle": _one_cycle,
    "exp": _exp,
    "exp_range": _exp_range,
    "fixed": _fixed,
    "inv": _inv,
    "multistep": _step,
    "poly": _poly,
    "sigmoid": _sigmoid,
    "step": _step,
    "triangular": _triangular,
    "triangular2": _triangular2,
}
CYCLICAL = ("1cycle", "exp_range", "triangular", "triangular2")


# ---- what the solver asks -----------------------------------------------------------------------------------------


def learning_rate(solver: Any, iteration: Iteration, current_step: Iteration = 0) -> Rate:
    """The rate of the update that follows `iteration` updates.

    current_step: what next_step gave for this iteration (`step` and `multistep` only).
    """
    try:
        policy = POLICIES[solver.lr_policy]
    except KeyError:
        raise CaffeError(_unknown_policy(solver.lr_policy)) from None
    with np.errstate(over="ignore"):
        return np.float32(policy(solver, np.asarray(iteration, np.int64)[()], current_step))


def next_step(solver: Any, iteration: int, current_step: int) -> int:
    """`current_step` once the rate of this iteration has been asked for.

    multistep passes at most one stepvalue an iteration, in the order of the file, so equal or unordered stepvalues
    are taken one after the other.
    """
    if solver.lr_policy == "step":
        return iteration // solver.stepsize
    if solver.lr_policy == "multistep" and current_step < len(solver.stepvalue):
        return current_step + (iteration >= solver.stepvalue[current_step])
    return current_step


def momentum(solver: Any, iteration: Iteration) -> Rate:
    """The momentum of that update.

    With cyclical_momentum (c, s): a triangle from `momentum` to c and back every 2 s iterations, half as deep with
    each cycle, whatever the rate's policy and its start_lr_policy are.
    """
    i = np.asarray(iteration, np.int64)[()]
    if len(solver.cyclical_momentum) != 2:
        return np.full_like(i, solver.momentum, dtype=np.float32)[()]
    bound, step_size = solver.cyclical_momentum
    height, cycle = _triangle(i, int(step_size) if step_size.is_integer() else step_size)
    return np.float32(solver.momentum + _difference(bound, solver.momentum) * height / 2.0**cycle)


class Row(NamedTuple):
    """One line of a schedule."""

    iter: int
    lr: np.float32
    momentum: np.float32
    weight_decay: np.float32


def table(solver: Any, every: int = 1) -> Iterator[Row]:
    """The schedule of a whole run, every so many iterations, as a training from iteration 0 goes through it."""
    if every < 1:
        raise CaffeError(f"a schedule is printed every so many iterations: at least 1, not {every}")
    check_schedule(solver)
    iterations = np.arange(0, _end(solver), every)
    rates = learning_rate(solver, iterations, _steps_taken(solver, iterations))
    decay = np.float32(solver.weight_decay)
    for i, rate, m in zip(iterations.tolist(), rates, momentum(solver, iterations)):
        yield Row(i, rate, m, decay)


def write_csv(rows: Iterable[Row], file: TextIO) -> None:
    """Rows as CSV with a header; numbers in the shortest form that reads back to the same float32."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(Row._fields)
    writer.writerows(rows)


def _steps_taken(solver: Any, iterations: NDArray[np.int64]) -> Any:
    """What next_step adds up to from iteration 0 on."""
    if solver.lr_policy == "step":
        return iterations // solver.stepsize
    passed: list[int] = []
    for value in solver.stepvalue if solver.lr_policy == "multistep" else ():
        passed.append(max(value, passed[-1] + 1 if passed else 0))
    return np.searchsorted(np.array(passed, np.int64), iterations, side="right")


def _end(solver: Any) -> int:
    """max_iter; without one, an iteration by which the policy has shown what it does."""
    if solver.max_iter > 0 or solver.HasField("max_iter"):
        return max(0, solver.max_iter)
    if solver.lr_policy == "1cycle":
        return 3 * solver.stepsize
    if solver.lr_policy in CYCLICAL:
        return solver.start_lr_policy + 20 * solver.stepsize
    if solver.lr_policy in ("step", "sigmoid"):
        return 100 * solver.stepsize
    if solver.lr_policy == "multistep" and solver.stepvalue:
        return 2 * max(solver.stepvalue)
    raise CaffeError("max_iter is not set: the schedule has no end; set max_iter to the number of iterations")


# ---- what is refused ----------------------------------------------------------------------------------------------


def check_schedule(solver: Any) -> None:
    """Raise a CaffeError that names the field and what would be right, before anything is trained or written.

    Caffe looks only when the first update is computed, and never at momentum, cyclical_momentum and max_lr.
    """
    policy = solver.lr_policy
    if policy not in POLICIES:
        raise CaffeError(_unknown_policy(policy))
    if policy in ("step", "sigmoid", *CYCLICAL) and solver.stepsize <= 0:
        given = f"is {solver.stepsize}" if solver.HasField("stepsize") else "is not set"
        raise CaffeError(
            f'Check failed: stepsize() > 0: lr_policy "{policy}" needs stepsize, in iterations; it {given}'
        )
    if policy in ("step", "exp", "inv", "multistep", "sigmoid", "exp_range") and not solver.gamma >= 0:
        raise CaffeError(
            f'Check failed: gamma() >= 0: lr_policy "{policy}" needs a gamma of 0 or more, not {solver.gamma:g}'
        )
    if policy in CYCLICAL and not solver.HasField("max_lr"):
        raise CaffeError(f'max_lr is not set: lr_policy "{policy}" needs it, the other bound beside base_lr')
    if policy == "poly" and solver.max_iter <= 0:
        raise CaffeError(f'max_iter is {solver.max_iter}: lr_policy "poly" divides by it; it must be above 0')
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
    if solver.type in ("AdaGrad", "RMSProp"):
        raise CaffeError(
            f'cyclical_momentum cannot be used with type "{solver.type}", which has no momentum: '
            "remove it, or use SGD, Nesterov, Adam or AdaDelta"
        )
    bound, step_size = values
    if not 0 <= bound <= 1:
        raise CaffeError(f"cyclical_momentum: the first value, a momentum, is {bound:g}: it must lie between 0 and 1")
    if not 0 < step_size < np.inf:
        raise CaffeError(
            f"cyclical_momentum: the second value, half a cycle in iterations, is {step_size:g}: it must be positive"
        )


def _unknown_policy(policy: str) -> str:
    return f"Unknown learning rate policy: {policy} (lr_policy is one of {', '.join(sorted(POLICIES))})"

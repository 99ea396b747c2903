"""Learning rate policies: each is a row of POLICIES, its law, what it needs, how long it takes to show; no torch.

Each policy keeps the precision in which Caffe takes its power (float or double), so that the rates agree to the last
bit. What asks them is pysolver.schedule.
"""

from __future__ import annotations

import ctypes
import difflib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from pysolver.errors import CaffeError

_ONE = np.float32(1)


class Parameters(Protocol):
    """What schedules and solver types read of a SolverParameter, whose schema is a floor above."""

    type: str
    lr_policy: str
    base_lr: float
    gamma: float
    power: float
    stepsize: int
    max_iter: int
    momentum: float
    weight_decay: float
    rms_decay: float
    max_lr: float
    start_lr_policy: int
    min_lr: float
    rampup_interval: int
    rampup_lr: float
    warmup_iter: int
    warmup_start_lr: float
    momentum_policy: str
    max_momentum: float
    momentum_power: float
    weight_decay_policy: str
    max_weight_decay: float
    weight_decay_power: float

    @property
    def stepvalue(self) -> Sequence[int]: ...
    @property
    def plateau_winsize(self) -> Sequence[int]: ...
    @property
    def stageiter(self) -> Sequence[int]: ...
    @property
    def stagelr(self) -> Sequence[float]: ...
    @property
    def cyclical_momentum(self) -> Sequence[float]: ...
    def HasField(self, field_name: str, /) -> bool: ...


# ---- the policies: rate of (solver, iterations as int64, current_step) --------------------------------------------


def _fixed(solver: Parameters, i: Any, current_step: Any) -> Any:
    return np.full_like(i, solver.base_lr, dtype=np.float32)


def _step(solver: Parameters, i: Any, current_step: Any) -> Any:
    return solver.base_lr * np.float64(solver.gamma) ** current_step


def _exp(solver: Parameters, i: Any, current_step: Any) -> Any:
    return solver.base_lr * np.float64(solver.gamma) ** i


def _inv(solver: Parameters, i: Any, current_step: Any) -> Any:
    return np.float32(solver.base_lr) * powf(_ONE + np.float32(solver.gamma) * np.float32(i), -solver.power)


def _poly(solver: Parameters, i: Any, current_step: Any) -> Any:
    left = _ONE - np.float32(i) / np.float32(solver.max_iter)
    least = np.float32(solver.min_lr)
    return (np.float32(solver.base_lr) - least) * powf(left, solver.power) + least


def _sigmoid(solver: Parameters, i: Any, current_step: Any) -> Any:
    exponent = -np.float32(solver.gamma) * (np.float32(i) - np.float32(solver.stepsize))
    return np.float32(solver.base_lr) * (_ONE / (_ONE + _expf(exponent)))


def _triangular(solver: Parameters, i: Any, current_step: Any) -> Any:
    return _cyclical(solver, i, lambda height, cycle, itr: height)


def _triangular2(solver: Parameters, i: Any, current_step: Any) -> Any:
    return _cyclical(solver, i, lambda height, cycle, itr: height / 2.0**cycle)


def _exp_range(solver: Parameters, i: Any, current_step: Any) -> Any:
    return _cyclical(solver, i, lambda height, cycle, itr: height * np.float64(solver.gamma) ** itr)


def _one_cycle(solver: Parameters, i: Any, current_step: Any) -> Any:
    x = np.float64(np.float32(i) / np.float32(solver.stepsize))
    rising = solver.base_lr + difference(solver.max_lr, solver.base_lr) * x
    falling = solver.max_lr * (2.0 - x)  # towards 0, not towards base_lr
    tail = np.full_like(x, solver.base_lr / 1000.0)
    return np.where(i < solver.stepsize, rising, np.where(i < 2 * solver.stepsize, falling, tail))


def _cyclical(solver: Parameters, i: Any, shape: Callable) -> Any:
    itr = np.maximum(i - solver.start_lr_policy, 0)  # base_lr until then
    height, cycle = triangle(itr, solver.stepsize)
    return solver.base_lr + difference(solver.max_lr, solver.base_lr) * shape(height, cycle, itr)


def triangle(itr: Any, step_size: float) -> tuple[Any, Any]:
    """Height, 0 at the start of a cycle and 1 in its middle, and number of the cycle. The quotient is a float32."""
    cycle = itr // (2 * step_size)
    x = np.float64(np.float32(itr - (2 * cycle + 1) * step_size) / np.float32(step_size))
    return np.maximum(0.0, 1.0 - np.abs(x)), np.float64(cycle)


def difference(to: float, start: float) -> np.float64:
    """The span of a cycle, a difference of two floats: in double up to 13 of 80 of the paper's printed points miss."""
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


powf = _of_c("powf", 2, np.power)
_expf = _of_c("expf", 1, np.exp)


def _multifixed(solver: Parameters, i: Any, current_step: Any) -> Any:
    """MobileNet-YOLO's: stagelr[s] up to and with iteration stageiter[s]; the last one for ever."""
    stage = np.searchsorted(np.array(solver.stageiter, np.int64), i, side="left")
    return np.array(solver.stagelr, np.float32)[np.minimum(stage, len(solver.stagelr) - 1)]


def _stepdecr(solver: Parameters, i: Any, current_step: Any) -> Any:
    """Cysu's: down by gamma of base_lr at every step."""
    return np.float32(solver.base_lr) * (_ONE - np.float32(solver.gamma) * np.float32(current_step))


def _smoothstep(solver: Parameters, i: Any, current_step: Any) -> Any:
    """Cysu's: "step" without the steps."""
    exponent = np.float32(i) / np.float32(solver.stepsize)
    return np.float32(solver.base_lr) * powf(np.full_like(exponent, solver.gamma), exponent)


# ---- current_step of the policies that go down in steps ------------------------------------------------------------


class Steps(NamedTuple):
    """next: (solver, iteration, current_step) -> its next value. taken: what that adds up to from iteration 0 on."""

    next: Callable[[Parameters, int, int], int]
    taken: Callable[[Parameters, NDArray[np.int64]], NDArray[np.int64]]


def _next_stepvalue(solver: Parameters, iteration: int, current_step: int) -> int:
    """At most one an iteration, in the order of the file: equal or unordered ones are taken one after the other."""
    waiting = current_step < len(solver.stepvalue) and iteration >= solver.stepvalue[current_step]
    return current_step + waiting


def _stepvalues_taken(solver: Parameters, iterations: NDArray[np.int64]) -> NDArray[np.int64]:
    passed: list[int] = []
    for value in solver.stepvalue:
        passed.append(max(value, passed[-1] + 1 if passed else 0))
    return np.searchsorted(np.array(passed, np.int64), iterations, side="right")


def _windows_passed(solver: Parameters, iterations: NDArray[np.int64]) -> NDArray[np.int64]:
    """The steps of a plateau that begins at iteration 0 and does not end: the earliest that there can be."""
    return np.searchsorted(np.cumsum(np.array(solver.plateau_winsize, np.int64)), iterations, side="right")


_EVERY_STEPSIZE = Steps(lambda solver, i, step: i // solver.stepsize, lambda solver, i: i // solver.stepsize)
_AT_STEPVALUES = Steps(_next_stepvalue, _stepvalues_taken)
_AT_PLATEAUS = Steps(lambda solver, i, step: int(_windows_passed(solver, np.array(i))), _windows_passed)
_NO_STEPS = Steps(lambda solver, i, step: step, lambda solver, i: np.zeros_like(i))


# ---- what a policy needs: the words of a refusal, or None ----------------------------------------------------------


def _stepsize(solver: Parameters) -> str | None:
    if solver.stepsize > 0:
        return None
    given = f"is {solver.stepsize}" if solver.HasField("stepsize") else "is not set"
    return f'Check failed: stepsize() > 0: lr_policy "{solver.lr_policy}" needs stepsize, in iterations; it {given}'


def _gamma(solver: Parameters) -> str | None:
    if solver.gamma >= 0:
        return None
    return (
        f'Check failed: gamma() >= 0: lr_policy "{solver.lr_policy}" needs a gamma of 0 or more, not {solver.gamma:g}'
    )


def _max_lr(solver: Parameters) -> str | None:
    if solver.HasField("max_lr"):
        return None
    return f'max_lr is not set: lr_policy "{solver.lr_policy}" needs it, the other bound beside base_lr'


def _stages(solver: Parameters) -> str | None:
    if len(solver.stagelr) == len(solver.stageiter) > 0:
        return None
    return (
        f'lr_policy "multifixed" needs as many stagelr as stageiter, at least one, not {len(solver.stagelr)} and '
        f"{len(solver.stageiter)}"
    )


def _max_iter(solver: Parameters) -> str | None:
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

    rate: Callable[[Parameters, Any, Any], Any]
    needs: tuple[Callable[[Parameters], str | None], ...] = ()
    span: Callable[[Parameters], int | None] = lambda solver: None
    steps: Steps = _NO_STEPS


def _hundred_steps(solver: Parameters) -> int:
    return 100 * solver.stepsize


def _ten_cycles(solver: Parameters) -> int:
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
    "plateau": Policy(_step, (_gamma,), lambda solver: 2 * sum(solver.plateau_winsize) or None, _AT_PLATEAUS),
    "poly": Policy(_poly, (_max_iter,)),
    "sigmoid": Policy(_sigmoid, (_stepsize, _gamma), _hundred_steps),
    "smoothstep": Policy(_smoothstep, (_stepsize, _gamma), _hundred_steps),
    "step": Policy(_step, (_stepsize, _gamma), _hundred_steps, _EVERY_STEPSIZE),
    "stepdecr": Policy(_stepdecr, (_stepsize, _gamma), _hundred_steps, _EVERY_STEPSIZE),
    "triangular": Policy(_triangular, (_stepsize, _max_lr), _ten_cycles),
    "triangular2": Policy(_triangular2, (_stepsize, _max_lr), _ten_cycles),
}
CYCLICAL = tuple(name for name, policy in POLICIES.items() if _max_lr in policy.needs)


def policy_of(solver: Parameters) -> Policy:
    """The row of its lr_policy; CaffeError if there is none."""
    if solver.lr_policy == "stepearly":
        raise CaffeError(
            'lr_policy "stepearly": BVLC\'s example lenet_stepearly_solver.prototxt asks for it, but it was never '
            'computed in any Caffe: take "plateau" with plateau_winsize, or "multistep"'
        )
    if solver.lr_policy not in POLICIES:
        near = difflib.get_close_matches(solver.lr_policy.lower(), POLICIES, 1)
        hint = f"; did you mean '{near[0]}'?" if near else "" if solver.lr_policy else "; it is not set"
        known = ", ".join(sorted(POLICIES))
        raise CaffeError(f"Unknown learning rate policy: {solver.lr_policy} (lr_policy is one of {known}){hint}")
    return POLICIES[solver.lr_policy]

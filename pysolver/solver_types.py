"""The solver types: each is a row of TYPES, its rule and what else is known of it.

A rule turns gradients, in place, into the steps that are subtracted from the parameters (src/caffe/solvers/*.cpp):
`rule(grads, history, hyper)`. `history` holds one blob for each parameter, or two in a row of lists (AdaDelta, Adam:
all first, then all second). The chain around it is pysolver/solver/updates.py.

SGD and Nesterov keep the *rate inside* the history, unlike torch's SGD: the two part as soon as the rate moves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pysolver.errors import CaffeError
from pysolver.policies import Parameters

if TYPE_CHECKING:
    from torch import Tensor

Tensors = list["Tensor"]


class _Each:
    """`each.mul_(tensors, 2)` is torch._foreach_mul_. Torch is imported by the first rule that runs, not by a look."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        import torch

        function = getattr(torch, f"_foreach_{name}")
        setattr(self, name, function)
        return function


each = _Each()


class Hyper(NamedTuple):
    """The numbers of one update, float32 as in Caffe.

    rates: learning rate times lr_mult, decays: weight decay times decay_mult, one for each parameter. iteration:
    updates before this one. momentum: also beta1 of Adam and the decay of AdaDelta. momentum2: beta2 of Adam.
    """

    rates: Sequence[np.float32]
    decays: Sequence[np.float32]
    momentum: np.float32
    iteration: int = 0
    momentum2: np.float32 = np.float32(0.999)
    delta: np.float32 = np.float32(1e-8)
    rms_decay: np.float32 = np.float32(0.99)
    clip_gradients: float = -1
    iter_size: int = 1
    regularization_type: str = "L2"


def _sgd(grads: Tensors, history: Tensors, hyper: Hyper) -> None:
    """h = r g + m h; step = h"""
    _advance(grads, history, hyper)
    each.copy_(grads, history)


def _nesterov(grads: Tensors, history: Tensors, hyper: Hyper) -> None:
    """h' = r g + m h; step = (1 + m) h' - m h"""
    before = each.mul(history, float(hyper.momentum))
    _advance(grads, history, hyper)
    each.copy_(grads, history)
    each.mul_(grads, float(np.float32(1) + hyper.momentum))
    each.sub_(grads, before)


def _advance(grads: Tensors, history: Tensors, hyper: Hyper) -> None:
    each.mul_(history, float(hyper.momentum))
    add(history, grads, floats(hyper.rates))


def _adagrad(grads: Tensors, history: Tensors, hyper: Hyper) -> None:
    """h += g^2; step = r g / (sqrt(h) + delta)"""
    each.add_(history, each.mul(grads, grads))
    _divide_by_root(grads, history, hyper)
    each.mul_(grads, floats(hyper.rates))


def _rmsprop(grads: Tensors, history: Tensors, hyper: Hyper) -> None:
    """h = rho h + (1 - rho) g^2; step = r g / (sqrt(h) + delta)"""
    _average(history, each.mul(grads, grads), hyper.rms_decay)
    _divide_by_root(grads, history, hyper)
    each.mul_(grads, floats(hyper.rates))


def _adadelta(grads: Tensors, history: Tensors, hyper: Hyper) -> None:
    """h1 = m h1 + (1 - m) g^2; u = g sqrt((h2 + delta) / (h1 + delta)); h2 = m h2 + (1 - m) u^2; step = r u"""
    of_gradients, of_steps = _halves(history)
    _average(of_gradients, each.mul(grads, grads), hyper.momentum)
    ratio = each.add(of_steps, float(hyper.delta))
    each.div_(ratio, each.add(of_gradients, float(hyper.delta)))
    each.sqrt_(ratio)
    each.mul_(grads, ratio)
    _average(of_steps, each.mul(grads, grads), hyper.momentum)
    each.mul_(grads, floats(hyper.rates))


def _adam(grads: Tensors, history: Tensors, hyper: Hyper) -> None:
    """h1 = b1 h1 + (1 - b1) g; h2 = b2 h2 + (1 - b2) g^2; step = r c h1 / (sqrt(h2) + delta)

    c = sqrt(1 - b2^t) / (1 - b1^t) with t = iteration + 1 and the current b1: delta stays outside the correction
    ("epsilon hat" of Kingma and Ba, arXiv:1412.6980, section 2).
    """
    first, second = _halves(history)
    _average(second, each.mul(grads, grads), hyper.momentum2)
    _average(first, grads, hyper.momentum)
    each.copy_(grads, first)
    _divide_by_root(grads, second, hyper)
    t = hyper.iteration + 1
    with np.errstate(divide="ignore", invalid="ignore"):  # b1 = 1: 0 / 0, as in Caffe
        c = np.sqrt(1 - np.float64(hyper.momentum2) ** t) / (1 - np.float64(hyper.momentum) ** t)
    each.mul_(grads, [float(rate * np.float32(c)) for rate in hyper.rates])


def add(totals: Tensors, values: Sequence[Tensor], factors: Sequence[float]) -> None:
    """totals += factor * value, in one pass over the memory for all of the same factor, as a BLAS's axpy."""
    same: dict[float, list[int]] = {}
    for place, factor in enumerate(factors):  # a NaN is like no other, and found all the same
        same.setdefault(factor, []).append(place)
    for factor, places in same.items():
        each.add_([totals[place] for place in places], [values[place] for place in places], alpha=factor)


def _average(history: Tensors, values: Sequence[Tensor], decay: np.float32) -> None:
    """history = decay * history + (1 - decay) * values"""
    each.mul_(history, float(decay))
    each.add_(history, list(values), alpha=float(np.float32(1) - decay))


def _divide_by_root(values: Tensors, history: Tensors, hyper: Hyper) -> None:
    root = each.sqrt(history)
    each.add_(root, float(hyper.delta))
    each.div_(values, root)


def _halves(history: Tensors) -> tuple[Tensors, Tensors]:
    return history[: len(history) // 2], history[len(history) // 2 :]


def floats(values: Sequence[np.float32]) -> list[float]:
    return [float(value) for value in values]


def _rms_decay(solver: Parameters) -> str | None:
    if 0 <= solver.rms_decay < 1:
        return None
    return f"rms_decay should lie between 0 and 1. (it is {solver.rms_decay:g})"


class SolverType(NamedTuple):
    """A solver type.

    rule: turns gradients into steps. histories: blobs kept for each parameter. takes_momentum: whether `momentum` may
    be set. needs: each looks at the SolverParameter and gives the words of a refusal, or None.
    """

    rule: Callable[[Tensors, Tensors, Hyper], None]
    histories: int = 1
    takes_momentum: bool = True
    needs: tuple[Callable[[Parameters], str | None], ...] = ()


TYPES: dict[str, SolverType] = {
    "AdaDelta": SolverType(_adadelta, histories=2),
    "AdaGrad": SolverType(_adagrad, takes_momentum=False),
    "Adam": SolverType(_adam, histories=2),
    "Nesterov": SolverType(_nesterov),
    "RMSProp": SolverType(_rmsprop, takes_momentum=False, needs=(_rms_decay,)),
    "SGD": SolverType(_sgd),
}


def with_momentum() -> str:
    """The types that take a momentum, for a message: `A, B or C`."""
    *names, last = (name for name, kind in TYPES.items() if kind.takes_momentum)
    return f"{', '.join(names)} or {last}"


def check_type(name: str, solver: Parameters) -> None:
    """CaffeError for an unknown solver type, or for fields of a SolverParameter that the type does not take."""
    if name not in TYPES:
        near = next((known for known in TYPES if known.lower() == name.lower()), None)
        hint = f"; did you mean '{near}'?" if near else ""
        raise CaffeError(f"Unknown solver type: {name} (known types: {', '.join(sorted(TYPES))}){hint}")
    if not TYPES[name].takes_momentum and solver.momentum != 0:
        raise CaffeError(
            f"Momentum cannot be used with {name}. (momentum is {solver.momentum:g}: remove it, or use another type)"
        )
    for need in TYPES[name].needs:
        if refusal := need(solver):
            raise CaffeError(refusal)

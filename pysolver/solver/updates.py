"""One update of a net, as a chain of functions over lists of tensors (src/caffe/solvers/*.cpp).

    average -> unscale -> clip -> normalise -> regularise -> RULES[type] -> apply

Gradients travel through the chain in place: the rule leaves in them the step that `apply` subtracts, so that
afterwards a parameter's diff holds the applied step, as in Caffe. Every list is aligned with the net's learnable
parameters; `history` holds one blob for each, or two in a row of lists (AdaDelta, Adam: all first, then all second).

SGD and Nesterov keep the *rate inside* the history, unlike torch's SGD: the two part as soon as the rate moves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pysolver.errors import CaffeError
from pysolver.schedule import Row

Tensors = list[Tensor]
Link = Callable[[Tensors], object]


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

    @classmethod
    def of(cls, solver: Any, row: Row, lr_mults: Sequence[float], decay_mults: Sequence[float]) -> Hyper:
        """Those of a SolverParameter in one row of its schedule, for parameters with these multipliers."""
        return cls(
            [row.lr * np.float32(mult) for mult in lr_mults],
            [row.weight_decay * np.float32(mult) for mult in decay_mults],
            row.momentum,
            row.iter,
            np.float32(solver.momentum2),
            np.float32(solver.delta),
            np.float32(solver.rms_decay),
            solver.clip_gradients,
            solver.iter_size,
            solver.regularization_type,
        )


def step(
    kind: str,
    params: Tensors,
    grads: Tensors,
    history: Tensors,
    hyper: Hyper,
    *,
    average: Link = lambda grads: None,
    unscale: Callable[[Tensors], bool] = lambda grads: True,
) -> Clip | None:
    """The whole chain for a solver type; what the clipping did, if it did.

    average: turns the gradients of this rank into their mean over all ranks. unscale: takes out the factor that mixed
    precision puts into the loss. It comes second, since the sum over the ranks already runs during backward, and so
    that a gradient that overflowed on one rank is seen by all. It says whether the gradients are finite; if they are
    not, there is no update.
    """
    if not params:
        return None
    average(grads)
    if not unscale(grads):
        return None
    clipped = clip(grads, hyper.clip_gradients)
    normalise(grads, hyper.iter_size)
    if kind == "SGD" and is_at_once(hyper):
        sgd_at_once(params, grads, history, hyper)
    else:
        regularise(grads, params, hyper.decays, hyper.regularization_type)
        RULES[kind](grads, history, hyper)
        apply(params, grads)
    return clipped


class Clip(NamedTuple):
    """What clip did: the gradient's norm, the limit, and the factor between them."""

    norm: float
    limit: float
    scale: float


# ---- before the rule ----------------------------------------------------------------------------------------------


def clip(grads: Tensors, limit: float) -> Clip | None:
    """Scale the whole gradient down to an L2 norm of `limit`; None if it is not longer. A negative limit: off.

    It looks at the raw gradient: summed over iter_size, without weight decay. A NaN norm does not clip.
    """
    if limit < 0 or not grads:
        return None
    norm = float(torch.stack(torch._foreach_norm(grads)).square().sum().sqrt())
    if not norm > limit:
        return None
    scale = float(np.float32(limit) / np.float32(norm))
    torch._foreach_mul_(grads, scale)
    return Clip(norm, limit, scale)


def normalise(grads: Tensors, iter_size: int) -> None:
    """Turn the sum over iter_size passes into their mean."""
    if iter_size > 1:
        torch._foreach_mul_(grads, float(np.float32(1) / np.float32(iter_size)))


def regularise(grads: Tensors, params: Tensors, decays: Sequence[np.float32], kind: str) -> None:
    """Add the gradient of the penalty: decay * w (L2) or decay * sign(w) (L1). decays: weight_decay * decay_mult."""
    chosen = [(g, p, float(d)) for g, p, d in zip(grads, params, decays) if d]
    if not chosen:
        return
    check_regularization(kind)
    gradients, weights, factors = (list(column) for column in zip(*chosen))
    _add(gradients, torch._foreach_sign(weights) if kind == "L1" else weights, factors)


def check_regularization(kind: str) -> None:
    """CaffeError for a regularization_type that is neither L2 nor L1."""
    if kind not in ("L2", "L1"):
        raise CaffeError(f"Unknown regularization type: {kind} (regularization_type is L2 or L1)")


# ---- the rules: gradients become steps ------------------------------------------------------------------------------


def sgd(grads: Tensors, history: Tensors, hyper: Hyper) -> None:
    """h = r g + m h; step = h"""
    _advance(grads, history, hyper)
    torch._foreach_copy_(grads, history)


def nesterov(grads: Tensors, history: Tensors, hyper: Hyper) -> None:
    """h' = r g + m h; step = (1 + m) h' - m h"""
    before = torch._foreach_mul(history, float(hyper.momentum))
    _advance(grads, history, hyper)
    torch._foreach_copy_(grads, history)
    torch._foreach_mul_(grads, float(np.float32(1) + hyper.momentum))
    torch._foreach_sub_(grads, before)


def _advance(grads: Tensors, history: Tensors, hyper: Hyper) -> None:
    torch._foreach_mul_(history, float(hyper.momentum))
    _add(history, grads, _floats(hyper.rates))


def adagrad(grads: Tensors, history: Tensors, hyper: Hyper) -> None:
    """h += g^2; step = r g / (sqrt(h) + delta)"""
    torch._foreach_add_(history, torch._foreach_mul(grads, grads))
    _divide_by_root(grads, history, hyper)
    torch._foreach_mul_(grads, _floats(hyper.rates))


def rmsprop(grads: Tensors, history: Tensors, hyper: Hyper) -> None:
    """h = rho h + (1 - rho) g^2; step = r g / (sqrt(h) + delta)"""
    _average(history, torch._foreach_mul(grads, grads), hyper.rms_decay)
    _divide_by_root(grads, history, hyper)
    torch._foreach_mul_(grads, _floats(hyper.rates))


def adadelta(grads: Tensors, history: Tensors, hyper: Hyper) -> None:
    """h1 = m h1 + (1 - m) g^2; u = g sqrt((h2 + delta) / (h1 + delta)); h2 = m h2 + (1 - m) u^2; step = r u"""
    of_gradients, of_steps = _halves(history)
    _average(of_gradients, torch._foreach_mul(grads, grads), hyper.momentum)
    ratio = torch._foreach_add(of_steps, float(hyper.delta))
    torch._foreach_div_(ratio, torch._foreach_add(of_gradients, float(hyper.delta)))
    torch._foreach_sqrt_(ratio)
    torch._foreach_mul_(grads, ratio)
    _average(of_steps, torch._foreach_mul(grads, grads), hyper.momentum)
    torch._foreach_mul_(grads, _floats(hyper.rates))


def adam(grads: Tensors, history: Tensors, hyper: Hyper) -> None:
    """h1 = b1 h1 + (1 - b1) g; h2 = b2 h2 + (1 - b2) g^2; step = r c h1 / (sqrt(h2) + delta)

    c = sqrt(1 - b2^t) / (1 - b1^t) with t = iteration + 1 and the current b1: delta stays outside the correction
    ("epsilon hat" of Kingma and Ba, arXiv:1412.6980, section 2).
    """
    first, second = _halves(history)
    _average(second, torch._foreach_mul(grads, grads), hyper.momentum2)
    _average(first, grads, hyper.momentum)
    torch._foreach_copy_(grads, first)
    _divide_by_root(grads, second, hyper)
    t = hyper.iteration + 1
    with np.errstate(divide="ignore", invalid="ignore"):  # b1 = 1: 0 / 0, as in Caffe
        c = np.sqrt(1 - np.float64(hyper.momentum2) ** t) / (1 - np.float64(hyper.momentum) ** t)
    torch._foreach_mul_(grads, [float(rate * np.float32(c)) for rate in hyper.rates])


def _add(totals: Tensors, values: Sequence[Tensor], factors: Sequence[float]) -> None:
    """totals += factor * value, in one pass over the memory for all of the same factor, as a BLAS's axpy."""
    same: dict[float, list[int]] = {}
    for place, factor in enumerate(factors):  # a NaN is like no other, and found all the same
        same.setdefault(factor, []).append(place)
    for factor, places in same.items():
        torch._foreach_add_([totals[place] for place in places], [values[place] for place in places], alpha=factor)


def _average(history: Tensors, values: Sequence[Tensor], decay: np.float32) -> None:
    """history = decay * history + (1 - decay) * values"""
    torch._foreach_mul_(history, float(decay))
    torch._foreach_add_(history, list(values), alpha=float(np.float32(1) - decay))


def _divide_by_root(values: Tensors, history: Tensors, hyper: Hyper) -> None:
    root = torch._foreach_sqrt(history)
    torch._foreach_add_(root, float(hyper.delta))
    torch._foreach_div_(values, root)


def _halves(history: Tensors) -> tuple[Tensors, Tensors]:
    return history[: len(history) // 2], history[len(history) // 2 :]


def _floats(values: Sequence[np.float32]) -> list[float]:
    return [float(value) for value in values]


RULES: dict[str, Callable[[Tensors, Tensors, Hyper], None]] = {  # what else is known of the types: solver_types.py
    "AdaDelta": adadelta,
    "AdaGrad": adagrad,
    "Adam": adam,
    "Nesterov": nesterov,
    "RMSProp": rmsprop,
    "SGD": sgd,
}


def is_at_once(hyper: Hyper) -> bool:
    """Whether sgd_at_once can be taken: L2, a momentum, and rates that come out of 1 - dampening as they were."""
    rates = set(_floats(hyper.rates))
    return hyper.regularization_type == "L2" and hyper.momentum != 0 and all(1 - (1 - rate) == rate for rate in rates)


def sgd_at_once(params: Tensors, grads: Tensors, history: Tensors, hyper: Hyper) -> None:
    """L2 regularise, sgd and apply in one pass over the memory, where is_at_once says so.

    torch's SGD computes h = m h + (1 - dampening) (g + decay w), w -= lr h: Caffe's with lr = 1 and the rate as
    1 - dampening, which a double holds exactly down to rates of 2^-29.
    """
    groups: dict[tuple[float, float], list[int]] = {}
    for index, pair in enumerate(zip(_floats(hyper.rates), _floats(hyper.decays))):
        groups.setdefault(pair, []).append(index)
    for (rate, decay), chosen in groups.items():
        columns = ([column[index] for index in chosen] for column in (params, grads, history))
        torch._fused_sgd_(
            *columns, weight_decay=decay, momentum=float(hyper.momentum), lr=1.0, dampening=1 - rate,
            nesterov=False, maximize=False, is_first_step=False,
        )  # fmt: skip
    torch._foreach_copy_(grads, history)


# ---- after the rule -----------------------------------------------------------------------------------------------


def apply(params: Tensors, steps: Tensors) -> None:
    """w -= step"""
    torch._foreach_sub_(params, steps)

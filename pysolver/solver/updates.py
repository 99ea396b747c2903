"""One update of a net, as a chain of functions over lists of tensors (src/caffe/solvers/*.cpp).

    average -> unscale -> clip -> normalise -> adapt -> regularise -> rule of the type -> apply

Gradients travel through the chain in place: the rule leaves in them the step that `apply` subtracts, so that
afterwards a parameter's diff holds the applied step, as in Caffe. Every list is aligned with the net's learnable
parameters. The rules are in pysolver/solver_types.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from pysolver.errors import CaffeError
from pysolver.proto.caffe_pb2 import SolverParameter
from pysolver.schedule import Row
from pysolver.solver_types import TYPES, Hyper, Tensors, add, floats

Link = Callable[[Tensors], object]


def hyper_of(solver: SolverParameter, row: Row, lr_mults: Sequence[float], decay_mults: Sequence[float]) -> Hyper:
    """Those of a SolverParameter in one row of its schedule, for parameters with these multipliers."""
    return Hyper(
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
    unscale: Callable[[Tensors], Tensor | None] = lambda grads: None,
    adapt: Callable[[Tensors, Tensors, Hyper], Hyper] = lambda params, grads, hyper: hyper,
) -> Tensor | None:
    """The whole chain for a solver type; the gradient's norm, 0-d, 0 without an update, if it is to be clipped.

    average: turns the gradients of this rank into their mean over all ranks. unscale: takes out the factor that mixed
    precision puts into the loss. It comes second, since the sum over the ranks already runs during backward, and so
    that a gradient that overflowed on one rank is seen by all. What it gives, 0-d, is 1 if the gradients are not
    finite, and then there is no update, else 0. adapt: gives each parameter another rate by its gradient, of (params,
    grads, hyper).

    Nothing here waits for a GPU, but what `adapt` reads, and whether to update by a rule that is not sgd_at_once.
    """
    if not params:
        return None
    average(grads)
    overflow = unscale(grads)
    norm = clip(grads, hyper.clip_gradients)
    normalise(grads, hyper.iter_size)
    hyper = adapt(params, grads, hyper)
    if kind == "SGD" and is_at_once(hyper):
        sgd_at_once(params, grads, history, hyper, overflow)
    elif overflow is None or not overflow:
        regularise(grads, params, hyper.decays, hyper.regularization_type)
        TYPES[kind].rule(grads, history, hyper)
        apply(params, grads)
    return norm if norm is None or overflow is None else norm.where(overflow == 0, 0)


# ---- before the rule ----------------------------------------------------------------------------------------------


def clip(grads: Tensors, limit: float) -> Tensor | None:
    """Scale the whole gradient down to an L2 norm of `limit` if it is longer; its norm, 0-d. A negative limit: off.

    It looks at the raw gradient: summed over iter_size, without weight decay. A NaN norm does not clip.
    """
    if limit < 0 or not grads:
        return None
    norm = torch.stack(torch._foreach_norm(grads)).square().sum().sqrt()
    is_long = norm > limit
    if norm.device.type != "cpu" or is_long:  # elsewhere than on the CPU nobody knows yet
        torch._foreach_mul_(grads, torch.where(is_long, torch.full_like(norm, limit) / norm, 1))
    return norm


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
    add(gradients, torch._foreach_sign(weights) if kind == "L1" else weights, factors)


def check_regularization(kind: str) -> None:
    """CaffeError for a regularization_type that is neither L2 nor L1."""
    if kind not in ("L2", "L1"):
        raise CaffeError(f"Unknown regularization type: {kind} (regularization_type is L2 or L1)")


def is_at_once(hyper: Hyper) -> bool:
    """Whether sgd_at_once can be taken: L2, a momentum, and rates that come out of 1 - dampening as they were."""
    rates = set(floats(hyper.rates))
    return hyper.regularization_type == "L2" and hyper.momentum != 0 and all(1 - (1 - rate) == rate for rate in rates)


def sgd_at_once(
    params: Tensors, grads: Tensors, history: Tensors, hyper: Hyper, overflow: Tensor | None = None
) -> None:
    """L2 regularise, sgd and apply in one pass over the memory, where is_at_once says so; nothing if overflow is 1.

    torch's SGD computes h = m h + (1 - dampening) (g + decay w), w -= lr h: Caffe's with lr = 1 and the rate as
    1 - dampening, which a double holds exactly down to rates of 2^-29.
    """
    groups: dict[tuple[float, float], list[int]] = {}
    for index, pair in enumerate(zip(floats(hyper.rates), floats(hyper.decays))):
        groups.setdefault(pair, []).append(index)
    for (rate, decay), chosen in groups.items():
        columns = ([column[index] for index in chosen] for column in (params, grads, history))
        torch._fused_sgd_(
            *columns, weight_decay=decay, momentum=float(hyper.momentum), lr=1.0, dampening=1 - rate,
            nesterov=False, maximize=False, is_first_step=False, found_inf=overflow,
        )  # fmt: skip
    torch._foreach_copy_(grads, history)


# ---- after the rule -----------------------------------------------------------------------------------------------


def apply(params: Tensors, steps: Tensors) -> None:
    """w -= step"""
    torch._foreach_sub_(params, steps)

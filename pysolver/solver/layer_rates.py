"""Rates that each parameter blob gets from its own norm and that of its gradient (LARS, arXiv:1708.03888).

NVIDIA's `larc`: (1 - momentum) larc_eta |w| / |g|, times the rate ("scale") or with the rate as its bound ("clip").
Intel's `local_lr_auto`: local_gw_ratio |w| / (|g| + weight_decay |w|) times the rate.
Both are 1 where a norm is 0, and take the place of lr_mult, of which only 0 keeps its meaning. g is the gradient as it
is after clipping and iter_size, before the weight decay (on NVIDIA's GPUs, which add it in the update itself). Only
type SGD has them (SGDSolver::GetLocalRate of both).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch

from pysolver.errors import CaffeError
from pysolver.proto.caffe_pb2 import SolverParameter
from pysolver.solver_types import Hyper, Tensors

Adapt = Callable[[Tensors, Tensors, Hyper], Hyper]
_ONE = np.float32(1)


def adaptation(solver: SolverParameter, type_name: str, lr_mults: Sequence[float]) -> Callable[[np.float32], Adapt]:
    """Of the rate of an update: what changes its rates by (params, grads); nothing if the solver asks for none.

    CaffeError for what is not computed: another type than SGD, larc_turbo, an unknown larc_policy, both at once.
    """
    if not solver.larc and not solver.local_lr_auto:
        return lambda rate: lambda params, grads, hyper: hyper
    name = "larc" if solver.larc else "local_lr_auto"
    if type_name != "SGD":
        raise CaffeError(f'{name}: only type "SGD" has it; type "{type_name}" of its fork passes over it: take it out')
    if solver.larc and solver.local_lr_auto:
        raise CaffeError("larc and local_lr_auto are the same of two forks: give one")
    if solver.larc and solver.larc_policy not in ("scale", "clip"):
        raise CaffeError(f'Unknown larc policy: {solver.larc_policy} (larc_policy is "scale" or "clip")')
    of_norms = _larc if solver.larc else _local_lr_auto

    def rates(rate: np.float32, params: Tensors, grads: Tensors, hyper: Hyper) -> Hyper:
        norms = torch.stack([*torch._foreach_norm(params), *torch._foreach_norm(grads)]).cpu().numpy()
        weights, gradients = np.split(norms.astype(np.float32), 2)
        known = (weights > 0) & (gradients > 0)
        own = np.where(known, of_norms(solver, weights, np.where(known, gradients, _ONE), hyper.momentum), _ONE)
        own = np.where(np.array(lr_mults) > 0, own, np.array(lr_mults)).astype(np.float32)
        own = np.minimum(rate, own) if solver.larc and solver.larc_policy == "clip" else rate * own
        return hyper._replace(rates=list(own.astype(np.float32)))

    return lambda rate: partial(rates, rate)


def _larc(solver: SolverParameter, w: np.ndarray, g: np.ndarray, momentum: np.float32) -> np.ndarray:
    return (_ONE - momentum) * np.float32(solver.larc_eta) * w / g


def _local_lr_auto(solver: SolverParameter, w: np.ndarray, g: np.ndarray, momentum: np.float32) -> np.ndarray:
    return np.float32(solver.local_gw_ratio) * w / (g + np.float32(solver.weight_decay) * w)

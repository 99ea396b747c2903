"""Mixed precision: what is computed in half precision, and the factor that keeps small fp16 gradients from vanishing.

Parameters, their gradients, history and updates stay in float32 throughout.
"""

from __future__ import annotations

import contextlib
import math
from typing import Any

import torch
from torch import Tensor

from pysolver.errors import CaffeError

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_HALF = (torch.bfloat16, torch.float16)
_START = 16  # the loss is multiplied by 2^16 at first
_CLEAN_STEPS = 2000  # so many updates without an overflow double the factor


def check(precision: str) -> None:
    """CaffeError for a precision that does not exist."""
    if precision not in DTYPES:
        raise CaffeError(f"--precision={precision}: give {', '.join(DTYPES)}")


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """Within it, matrix products and convolutions take and give half precision."""
    dtype = DTYPES[precision]
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def single(x: Tensor) -> Tensor:
    """x in float32 if it is in half precision, else as it is."""
    return x.float() if x.dtype in _HALF else x


class LossScale:
    """The factor 2^exponent on the loss (Micikevicius et al., arXiv:1710.03740, section 3.2), as torch's GradScaler.

    An overflow halves it and no update is made; 2000 updates in a row double it. It is part of a snapshot, as the
    layers are that have a state. It lives on the device, so that nobody waits for it.
    """

    name, type_name = "loss_scale", "LossScale"

    def __init__(self, device: torch.device | None = None) -> None:
        self.factor = torch.full((), 2.0**_START, device=device)
        self._clean_steps = torch.zeros((), dtype=torch.int32, device=device)
        self._applied = self._one = torch.ones((), device=device)  # what is in the gradients: 1 after passes by layer

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss to differentiate."""
        self._applied = self.factor
        return loss * self.factor

    def unscale(self, gradients: list[Tensor]) -> Tensor:
        """Take the factor out of the gradients; 0-d, 1 if one is not finite, so that no update may be made, else 0."""
        overflow = torch.zeros_like(self.factor)
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, overflow, self._applied.reciprocal())
        self._applied = self._one
        torch._amp_update_scale_(self.factor, self._clean_steps, overflow, 2.0, 0.5, _CLEAN_STEPS)
        self.factor.clamp_(min=1)
        return overflow

    def state(self) -> dict[str, int]:
        return {"exponent": math.frexp(float(self.factor))[1] - 1, "clean_steps": int(self._clean_steps)}

    def load_state(self, state: dict[str, int]) -> None:
        self.factor.fill_(2.0 ** state["exponent"])
        self._clean_steps.fill_(state["clean_steps"])

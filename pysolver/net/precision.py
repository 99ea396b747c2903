"""Mixed precision: what is computed in half precision, and the factor that keeps small fp16 gradients from vanishing.

Parameters, their gradients, history and updates stay in float32 throughout.
"""

from __future__ import annotations

import contextlib
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
    layers are that have a state.
    """

    name, type_name = "loss_scale", "LossScale"

    def __init__(self) -> None:
        self.exponent, self.clean_steps = _START, 0
        self.is_overflow = False  # the last unscale() found one
        self._applied = 1.0  # what is in the gradients: passes that go layer by layer have no factor

    @property
    def factor(self) -> float:
        return 2.0**self.exponent

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss to differentiate."""
        self._applied = self.factor
        return loss * self._applied

    def unscale(self, gradients: list[Tensor]) -> bool:
        """Take the factor out of the gradients; False if one of them is not finite, so that no update may be made."""
        found = gradients[0].new_zeros(1)
        inverse = gradients[0].new_full((1,), 1 / self._applied)
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, found, inverse)
        self.is_overflow, self._applied = bool(found), 1.0
        self.clean_steps = 0 if self.is_overflow else self.clean_steps + 1
        if self.is_overflow:
            self.exponent = max(0, self.exponent - 1)
        elif self.clean_steps == _CLEAN_STEPS:
            self.exponent, self.clean_steps = self.exponent + 1, 0
        return not self.is_overflow

    def state(self) -> dict[str, int]:
        return {"exponent": self.exponent, "clean_steps": self.clean_steps}

    def load_state(self, state: dict[str, int]) -> None:
        self.exponent, self.clean_steps = state["exponent"], state["clean_steps"]

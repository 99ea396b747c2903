"""The solver types: what is known of each without its arithmetic, which is in pysolver/solver/updates.py; no torch."""

from __future__ import annotations

from typing import Any, NamedTuple

from pysolver.errors import CaffeError


class SolverType(NamedTuple):
    """histories: blobs kept for each parameter. takes_momentum: whether `momentum` may be set."""

    histories: int = 1
    takes_momentum: bool = True


TYPES: dict[str, SolverType] = {
    "AdaDelta": SolverType(histories=2),
    "AdaGrad": SolverType(takes_momentum=False),
    "Adam": SolverType(histories=2),
    "Nesterov": SolverType(),
    "RMSProp": SolverType(takes_momentum=False),
    "SGD": SolverType(),
}


def with_momentum() -> str:
    """The types that take a momentum, for a message: `A, B or C`."""
    *names, last = (name for name, kind in TYPES.items() if kind.takes_momentum)
    return f"{', '.join(names)} or {last}"


def check_type(name: str, solver: Any) -> None:
    """CaffeError for an unknown solver type, or for fields of a SolverParameter that the type does not take."""
    if name not in TYPES:
        near = next((known for known in TYPES if known.lower() == name.lower()), None)
        hint = f"did you mean '{near}'? " if near else ""
        raise CaffeError(f"Unknown solver type: {name} ({hint}known types: {', '.join(sorted(TYPES))})")
    if not TYPES[name].takes_momentum and solver.momentum != 0:
        raise CaffeError(
            f"Momentum cannot be used with {name}. (momentum is {solver.momentum:g}: remove it, or use another type)"
        )
    if name == "RMSProp" and not 0 <= solver.rms_decay < 1:
        raise CaffeError(f"rms_decay should lie between 0 and 1. (it is {solver.rms_decay:g})")

"""Exact resume: all that decides a run's future beside weights, history, iteration and step.

Caffe forgets it, so that a resumed run reads its data from the start again. Here the state's note holds it, for each
rank: the position of every source, of the train net and of the test nets (and of any other layer that has a state()),
torch's random generators, the window of the smoothed loss.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pysolver.errors import CaffeError
from pysolver.logs import notices
from pysolver.logs.events import Event
from pysolver.net.net import Net
from pysolver.solver import note as notes
from pysolver.solver.note import Note, Point, Position, Window
from pysolver.solver.plateau import Plateau
from pysolver.solver.state_file import State


@dataclass(frozen=True)
class Start:
    """What rank 0 found in a state and tells the others. points: one for each rank, none where the data start over.

    how: what the log says of it.
    """

    iteration: int
    step: int
    run: str
    points: tuple[Point, ...]
    how: Event
    plateau: Plateau = Plateau()

    def to_json(self) -> bytes:
        """As it goes to the other ranks."""
        note = notes.to_json(Note(self.run, points=self.points)).decode()
        how = type(self.how).__name__, astuple(self.how)
        return json.dumps([self.iteration, self.step, *how, note, [float(x) for x in self.plateau]]).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Start:
        """What to_json made of it."""
        iteration, step, how, values, note, (minimum, last) = json.loads(data)
        plateau = Plateau(np.float32(minimum), int(last))
        found = notes.from_json(note.encode())
        return cls(iteration, step, found.run, found.points, getattr(notices, how)(*values), plateau)


def choose(state: State, ranks: int, is_newest: bool) -> Start:
    """How so many ranks go on from a state. is_newest: its run has left no later one, or it shall not matter."""
    note = state.note or Note()
    points: tuple[Point, ...] = ()
    if not note.points:
        how = notices.DataStartOver()
    elif not is_newest:
        how = notices.Returning()
    elif len(note.points) != ranks:
        how = notices.OtherProcesses(len(note.points), ranks)
    else:
        how = notices.Continuing()
        points = note.points
    return Start(state.iteration, state.current_step, note.run, points, how, state.plateau)


def capture(train: Net, tests: Sequence[Net], smoothing: Window) -> Point:
    """A copy of it, as plain data and tensors."""
    device = train.context.device
    return Point(
        _positions(train),
        tuple(_positions(net) for net in tests),
        torch.get_rng_state(),
        torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        smoothing,
    )


def check(point: Point, train: Net, tests: Sequence[Net]) -> None:
    """CaffeError if a layer of these nets could not take its place from the point. Nothing is changed."""
    for net, positions in _pairs(point, train, tests):
        for layer, position in _matches(net, positions):
            if not _is_like(position.state, layer.state()):
                raise CaffeError(f"damaged: the position of layer '{layer.name}' is none that it can take")


def restore(point: Point, train: Net, tests: Sequence[Net]) -> None:
    """Put the nets and the generators where capture() found others like them."""
    for number, (net, positions) in enumerate(_pairs(point, train, tests)):
        matches = _matches(net, positions)
        if _movable(net) and not matches:
            which = f"test net #{number - 1}" if number else "train net"
            net.context.emit(notices.OtherSources(which))
        for layer, position in matches:
            layer.load_state(position.state)
    if _is_like(point.rng, torch.get_rng_state()):
        torch.set_rng_state(point.rng)
    device = train.context.device
    if device.type == "cuda" and _is_like(point.cuda_rng, torch.cuda.get_rng_state(device)):
        torch.cuda.set_rng_state(point.cuda_rng, device)


def _pairs(point: Point, train: Net, tests: Sequence[Net]) -> list[tuple[Net, Sequence[Position]]]:
    """Each net with its positions; a test net that the point does not know has none."""
    known = [*point.test[: len(tests)], *[()] * len(tests)]
    return [(train, point.train), *zip(tests, known)]


def _matches(net: Net, positions: Sequence[Position]) -> list[tuple[Any, Position]]:
    """Each layer that moves with its position; nothing if the net has other such layers than the positions."""
    layers = _movable(net)
    if [(layer.name, layer.type_name) for layer in layers] != [(each.layer, each.type) for each in positions]:
        return []
    return list(zip(layers, positions))


def _positions(net: Net) -> tuple[Position, ...]:
    return tuple(Position(each.name, each.type_name, each.state()) for each in _movable(net))


def _movable(net: Net) -> list[Any]:
    return [each for each in (*net.layers, net.loss_scale) if hasattr(each, "state")]


def _is_like(given: Any, own: Any) -> bool:
    """Whether it has the same fields of the same kinds. A list of tensors may be longer, an integer is 0 or more."""
    if isinstance(own, dict):
        return isinstance(given, dict) and given.keys() == own.keys() and all(_is_like(given[k], own[k]) for k in own)
    if isinstance(own, Tensor):
        return isinstance(given, Tensor) and (given.dtype, given.shape) == (own.dtype, own.shape)
    if isinstance(own, list):
        return isinstance(given, list) and all(isinstance(each, Tensor) for each in given)
    return type(given) is type(own) and (not isinstance(own, int) or 0 <= given < 1 << 62)

"""The note of a solver state: all that exact resume needs and Caffe's format has no room for, as JSON.

It is read through the dataclasses here. What an older version did not write takes its default; what is there but not
of its kind is an error, whatever the file's checksum says.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pysolver.errors import CaffeError

_LARGEST = 1 << 62


@dataclass(frozen=True)
class Fingerprint:
    """What a state remembers of its model."""

    bytes: int
    crc32: int


@dataclass(frozen=True)
class Position:
    """Where a layer stands: a source in its data, a recurrent layer in its sequence. state: what its state() gave."""

    layer: str
    type: str
    state: dict[str, Any]


@dataclass(frozen=True)
class Window:
    """The smoothed loss: the iteration of its first place, its losses, their mean as Caffe keeps it."""

    start: int = 0
    losses: tuple[float, ...] = ()
    value: float = 0.0


@dataclass(frozen=True)
class Point:
    """Where one rank of a run goes on. test: one list for each test net; rng, cuda_rng: torch's generators."""

    train: tuple[Position, ...] = ()
    test: tuple[tuple[Position, ...], ...] = ()
    rng: Tensor | None = None
    cuda_rng: Tensor | None = None
    smoothing: Window = field(default_factory=Window)


@dataclass(frozen=True)
class Note:
    """run: a name that all snapshots of a run share. type: the solver's. points: one for each rank of the run."""

    run: str = ""
    type: str = ""
    model: Fingerprint | None = None
    points: tuple[Point, ...] = ()


# ---- writing ------------------------------------------------------------------------------------------------------


def to_json(note: Note) -> bytes:
    """The note as it stands in a file; tensors in it are base64."""
    return _dump(_plain(note))


def point_to_json(point: Point) -> bytes:
    """One rank's part, as it goes to rank 0."""
    return _dump(_plain_point(point))


def _dump(value: Any) -> bytes:
    return json.dumps(value, default=_pack, separators=(",", ":")).encode()


def _plain(note: Note) -> dict[str, Any]:
    return {
        "run": note.run,
        "type": note.type,
        "model": asdict(note.model) if note.model else None,
        "points": [_plain_point(point) for point in note.points],
    }


def _plain_point(point: Point) -> dict[str, Any]:
    def places(positions: tuple[Position, ...]) -> list[list[Any]]:
        return [[each.layer, each.type, each.state] for each in positions]

    window = point.smoothing
    return {
        "train": places(point.train),
        "test": [places(positions) for positions in point.test],
        "rng": point.rng,
        "cuda_rng": point.cuda_rng,
        "smoothing": {"start": window.start, "window": window.losses, "value": window.value},
    }


def _pack(value: Any) -> Any:
    if isinstance(value, Tensor):
        array = value.detach().cpu().numpy()
        return {"dtype": array.dtype.str, "shape": array.shape, "base64": base64.b64encode(array.tobytes()).decode()}
    raise TypeError(f"{type(value).__name__} in the note of a solver state")


# ---- reading ------------------------------------------------------------------------------------------------------


def from_json(data: bytes | None) -> Note | None:
    """The note of a file, None if it has none. CaffeError names what is not as it should be."""
    if not data:
        return None
    found = _load(data)
    if found is None:
        return None
    note = _Fields(found, "note")
    points = note.sequence("points", _point)
    if not points and note.has("point"):  # as it was before there were ranks
        points = (_point(note.values["point"], "point"),)
    model = note.get("model", _fingerprint, None)
    return Note(note.get("run", _text, ""), note.get("type", _text, ""), model, points)


def point_from_json(data: bytes) -> Point:
    """What point_to_json made of a point."""
    return _point(_load(data), "point")


def _load(data: bytes) -> Any:
    try:
        return json.loads(data, object_hook=_unpack)
    except (ValueError, RecursionError) as error:
        raise CaffeError(f"damaged: its note cannot be read: {str(error)[:100]}") from None


class _Fields:
    """The fields of a JSON object, each read by a function (value, its name) that raises a CaffeError."""

    def __init__(self, values: Any, name: str) -> None:
        if not isinstance(values, dict):
            raise _not(values, name, "an object")
        self.values, self.name = values, name

    def has(self, key: str) -> bool:
        return self.values.get(key) is not None

    def get(self, key: str, read: Callable[[Any, str], Any], default: Any) -> Any:
        return read(self.values[key], f"{self.name}.{key}") if self.has(key) else default

    def sequence(self, key: str, read: Callable[[Any, str], Any]) -> tuple:
        return self.get(key, lambda value, name: _sequence(value, name, read), ())


def _point(value: Any, name: str) -> Point:
    point = _Fields(value, name)
    return Point(
        point.sequence("train", _position),
        point.sequence("test", lambda each, its_name: _sequence(each, its_name, _position)),
        point.get("rng", _generator, None),
        point.get("cuda_rng", _generator, None),
        point.get("smoothing", _window, Window()),
    )


def _position(value: Any, name: str) -> Position:
    if not isinstance(value, list) or len(value) != 3 or not isinstance(value[2], dict):
        raise _not(value, name, "a layer's name, type and state")
    return Position(_text(value[0], name), _text(value[1], name), value[2])


def _window(value: Any, name: str) -> Window:
    window = _Fields(value, name)
    start, losses = window.get("start", _whole, 0), window.sequence("window", _number)
    return Window(start, losses, window.get("value", _number, 0.0))


def _fingerprint(value: Any, name: str) -> Fingerprint:
    model = _Fields(value, name)
    return Fingerprint(model.get("bytes", _whole, 0), model.get("crc32", _whole, 0))


def _sequence(value: Any, name: str, read: Callable[[Any, str], Any]) -> tuple:
    if not isinstance(value, list):
        raise _not(value, name, "a list")
    return tuple(read(each, f"{name}[{index}]") for index, each in enumerate(value))


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise _not(value, name, "a text")
    return value


def _whole(value: Any, name: str) -> int:
    if type(value) is not int or not 0 <= value < _LARGEST:
        raise _not(value, name, "a whole number of at least 0")
    return value


def _number(value: Any, name: str) -> float:
    if type(value) not in (int, float):
        raise _not(value, name, "a number")
    try:
        return float(value)
    except OverflowError:
        raise _not(value, name, "a number that a double holds") from None


def _generator(value: Any, name: str) -> Tensor:
    if not isinstance(value, Tensor) or value.dtype != torch.uint8 or value.dim() != 1:
        raise _not(value, name, "the bytes of a random generator")
    return value


def _unpack(value: dict[str, Any]) -> Any:
    if value.keys() != {"dtype", "shape", "base64"}:
        return value
    try:
        data = bytearray(base64.b64decode(value["base64"]))
        return torch.from_numpy(np.frombuffer(data, value["dtype"]).reshape(value["shape"]))
    except (TypeError, ValueError) as error:
        raise ValueError(f"a tensor in it is damaged: {error}") from None


def _not(value: Any, name: str, what: str) -> CaffeError:
    return CaffeError(f"damaged: {name} is {str(value)[:40]!r}, not {what}")

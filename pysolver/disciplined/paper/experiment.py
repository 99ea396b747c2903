"""An experiment: one TOML file a figure or table of the paper, with what it trains, what it draws and what it claims.

    title = "Figure 14a: momentum on MNIST"
    shows = "momentum 0.9 is inferior to one that falls from 0.95 to 0.8"
    net = "examples/mnist/lenet_train_test.prototxt"    # its data layers get the data and the batch below
    data = "mnist"
    batch = 512
    epochs = 6
    rate = "0.001 to 0.04"                 # a ramp over the whole run: a range test
    momentum = 0.9                         # any of these keys may stand in a curve instead
    weight_decay = 5e-4
    x = "rate"                             # or `iteration`, `epoch`, `momentum`
    draw = ["test loss"]                   # one picture each; `test accuracy`, `train loss`, `gap`
    claims = ["loss: 0.95 to 0.8 < 0.9"]   # see claims.py

    [curves."0.95 to 0.8"]
    momentum = "0.95 to 0.8"
    [curves."0.9"]

`rate = "0.01-0.10/5"` is the paper's own notation: one cycle (policy 1cycle) with a step of 5 epochs; of a momentum it
is the other bound and the step. A number is constant. `solver` has any other field of a solver; `drops` are the places
of a multistep policy as parts of the run. `paper = [99.25, 0.03]` is what the paper got, accuracy and deviation in %.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from pysolver.errors import CaffeError, about
from pysolver.files import read_bytes

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

AXES = ("iteration", "epoch", "rate", "momentum")
SERIES = ("test loss", "test accuracy", "train loss", "gap")
LARGEST_FILE = 1 << 20
MOST = 1_000_000  # epochs, images of a batch, runs


@dataclass(frozen=True)
class Curve:
    """One row of a table or one line of a figure: what is trained, in the paper's words.

    after: the curve whose final weights this one starts from. width: factor of every layer's outputs but the last's.
    paper: accuracy and deviation in %. group: rows of a table that belong together (`--rows`).
    """

    name: str
    net: str
    data: str
    batch: int
    epochs: float
    rate: float | str
    momentum: float | str
    weight_decay: float
    drops: tuple[float, ...] = ()
    solver: Mapping[str, Any] = field(default_factory=dict)
    after: str = ""
    width: float = 1
    group: str = ""
    paper: tuple[float, float] | None = None


@dataclass(frozen=True)
class Experiment:
    """A figure or table. cost: what a run of all of it takes, said by a person; tests: test phases in a run."""

    name: str
    title: str
    shows: str
    curves: tuple[Curve, ...]
    claims: tuple[str, ...] = ()
    draw: tuple[str, ...] = ()
    x: str = "iteration"
    log_x: bool = False
    tests: int = 20
    runs: int = 4
    cost: str = ""
    note: str = ""

    def curve(self, name: str) -> Curve:
        """CaffeError if there is none of that name."""
        for curve in self.curves:
            if curve.name == name:
                return curve
        raise CaffeError(f"{self.name}: no curve '{name}'; there are: {', '.join(c.name for c in self.curves)}")


def read(path: str | Path) -> Experiment:
    """CaffeError names the file and what is wrong with it."""
    path = Path(path)
    with about(str(path)):
        try:
            told = tomllib.loads(read_bytes(path, LARGEST_FILE).decode())
        except ValueError as error:  # of TOML, of the text, or of a number with thousands of digits
            raise CaffeError(str(error)) from None
        except RecursionError:
            raise CaffeError("nested too deeply") from None
        return _experiment(path.stem, told)


def read_all(folder: str | Path) -> dict[str, Experiment]:
    """All experiments of a folder by name, in the paper's order: tables, then figures by number."""
    files = Path(folder).glob("*.toml")
    found = {path.stem: path for path in files}
    if not found:
        raise CaffeError(f"{folder}: no experiments (*.toml) there; the paper's are in a checkout's folder experiments")
    return {name: read(found[name]) for name in sorted(found, key=_order)}


def _order(name: str) -> tuple[bool, int, str]:
    number = "".join(c for c in name if c.isdigit())
    return not name.startswith("table"), int(number or 0), name


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e38


def _are_numbers(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_number, value))


def _are_drops(value: object) -> bool:
    return isinstance(value, list) and _are_numbers(value) and value == sorted(value) and all(0 < v < 1 for v in value)


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 < value <= MOST


_TEXT = "a text", lambda value: isinstance(value, str)
_TEXTS = "a list of texts", _are_texts
_COUNT = f"a whole number from 1 to {MOST}", _is_count
_LENGTH = f"a number above 0, at most {MOST}", lambda value: _is_number(value) and 0 < value <= MOST
_RANGE = 'a number, or a text such as "0.01 to 0.1"', lambda value: isinstance(value, str) or _is_number(value)
_TABLE = "a table", lambda value: isinstance(value, dict)
_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("title", "shows", "x", "cost", "note", "net", "data", "after", "group"), _TEXT),
    **dict.fromkeys(("claims", "draw"), _TEXTS),
    **dict.fromkeys(("tests", "runs", "batch"), _COUNT),
    **dict.fromkeys(("epochs", "width"), _LENGTH),
    **dict.fromkeys(("rate", "momentum"), _RANGE),
    "log_x": ("true or false", lambda value: isinstance(value, bool)),
    "weight_decay": ("a number", _is_number),
    "drops": ("numbers between 0 and 1 in rising order, parts of the run", _are_drops),
    "solver": _TABLE,
    "paper": ("accuracy and deviation, such as [99.25, 0.03]", lambda value: _are_numbers(value) and len(value) == 2),
}


def _check(told: Mapping[str, Any], where: str) -> None:
    for key, value in told.items():
        what, holds = _KINDS.get(key, ("", lambda value: True))  # unknown keys are told elsewhere
        if not holds(value):
            raise CaffeError(f"{where}{key} must be {what}, not {value!r:.60}")


def _experiment(name: str, told: dict[str, Any]) -> Experiment:
    curves = told.pop("curves", {})
    if not isinstance(curves, dict) or not all(isinstance(curve, dict) for curve in curves.values()):
        raise CaffeError("curves must be tables: [curves.NAME]")
    _check(told, "")
    own = {f.name for f in fields(Experiment)} - {"name", "curves"}
    shared = {key: told.pop(key) for key in list(told) if key not in own}
    if not curves:
        raise CaffeError("has no [curves.NAME]")
    if missing := [key for key in ("title", "shows") if key not in told]:
        raise CaffeError(f"has no {missing[0]}")
    made = Experiment(name=name, curves=tuple(_curve(n, shared, c) for n, c in curves.items()), **_tuples(told))
    for what, allowed in (((made.x,), AXES), (made.draw, SERIES)):
        for word in what:
            if word not in allowed:
                raise CaffeError(f"'{word}' cannot be drawn; there is: {', '.join(allowed)}")
    for curve in made.curves:
        if curve.after and made.curve(curve.after).after:
            raise CaffeError(f"curve '{curve.name}': after: '{curve.after}' goes on from another itself")
        if curve.drops and "gamma" not in curve.solver:
            raise CaffeError(f"curve '{curve.name}': drops need solver.gamma, by which the rate falls; Caffe's is 0")
    _check_names([curve.name for curve in made.curves])
    return made


def folder_name(curve: str) -> str:
    """What the folder of a curve's runs is called."""
    return re.sub(r"[^\w.+-]+", "_", curve)


def _check_names(names: Sequence[str]) -> None:
    taken: dict[str, str] = {}
    for name in names:
        if (other := taken.setdefault(folder_name(name), name)) != name:
            raise CaffeError(f"curves '{other}' and '{name}' would share the folder {folder_name(name)}; rename one")
        if name.startswith("_") or not re.search(r"\w", name):
            raise CaffeError(f"curve '{name}': a name needs a letter or a digit, and does not begin with _")


def _curve(name: str, shared: dict[str, Any], own: dict[str, Any]) -> Curve:
    _check(own, f"curve '{name}': ")
    told = {**shared, **own, "solver": {**shared.get("solver", {}), **own.get("solver", {})}}
    known = {f.name for f in fields(Curve)}
    if unknown := sorted(set(told) - known):
        raise CaffeError(f"unknown key '{unknown[0]}' (curve '{name}'); a curve has: {', '.join(sorted(known))}")
    try:
        return Curve(name=name, **_tuples(told))
    except TypeError as error:  # missing keys
        raise CaffeError(f"curve '{name}': {str(error).partition('__init__() ')[2]}") from None


def _tuples(told: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in told.items()}

"""How pictures look: colours, lines, panels and axis labels, for matplotlib and plotly alike. Nothing is drawn here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pysolver.logs.curves import TEST, TRAIN, Curve

# Okabe and Ito's palette, which the colour-blind can tell apart; yellow is too light for lines
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#777777"
RATES = ("lr", "momentum", "weight_decay")
_WORDS = {"lr": "learning rate", "weight_decay": "weight decay", "gap": "test loss − train loss",
          "speed": "iterations per second", "smoothed loss": "smoothed train loss"}  # fmt: skip


@dataclass(frozen=True)
class Span:
    """A shaded stretch of the x axis with its name."""

    start: float
    end: float
    name: str
    colour: str = GREY


@dataclass(frozen=True)
class Panel:
    """One pair of axes: the quantities drawn on the left and on the right scale."""

    left: tuple[str, ...]
    right: tuple[str, ...] = ()
    small: bool = False


def quantity(what: str) -> str:
    """What a series measures, so that like goes with like: `accuracy`, `loss`, `gap`, `lr`, or its own name."""
    if what in RATES or what in ("gap", "speed"):
        return what
    output = what.partition(" ")[2].lower()
    if "loss" in output or what == "smoothed loss":
        return "loss"
    return "accuracy" if any(word in output for word in ("acc", "top", "prec", "map")) else output


def panels(drawn: Sequence[Curve], twin: bool) -> list[Panel]:
    """Accuracy, loss, small rates, each quantity in a panel; with `twin` accuracy and loss share one, and so do rates.

    The lines of one run differ in colour by quantity, those of several by run.
    """
    kinds: dict[str, list[str]] = {}
    for curve in drawn:
        names = kinds.setdefault(quantity(curve.what), [])
        if curve.what not in names:
            names.append(curve.what)
    main = sorted((k for k in kinds if k not in RATES), key=lambda k: (k != "accuracy", k != "loss"))
    result = [Panel(tuple(kinds[kind])) for kind in main]
    if twin and main[:2] == ["accuracy", "loss"]:
        result[:2] = [Panel(tuple(kinds["loss"]), tuple(kinds["accuracy"]))]
    rates = tuple(k for k in RATES if k in kinds)
    if twin and rates:
        return [*result, Panel(rates[:1], rates[1:], small=bool(main))]
    return [*result, *(Panel((rate,), small=bool(main)) for rate in rates)]


def words(names: Sequence[str]) -> str:
    """An axis label for some series: `train and test loss`."""
    if len({quantity(n) for n in names}) == 1 and len(names) > 1 and quantity(names[0]) in ("loss", "accuracy"):
        phases = dict.fromkeys("train" if n == "smoothed loss" else n.partition(" ")[0] for n in names)
        return f"{' and '.join(phases)} {quantity(names[0])}"
    return " and ".join(dict.fromkeys(_WORDS.get(n, n.replace("_", " ")) for n in names))


def name(what: str) -> str:
    """A series' name in a legend."""
    return {"gap": "generalisation error"}.get(what, _WORDS.get(what, what.replace("_", " ")))


def colour(curve: Curve, order: Sequence[str], runs: int) -> str:
    """By run if there are several, else by series."""
    number = curve.run if runs > 1 else order.index(curve.what)
    count = runs if runs > 1 else len(order)
    return PALETTE[number % len(PALETTE)] if count <= len(PALETTE) else _gradual(number, count)


def _gradual(number: int, count: int) -> str:
    """Many runs: from dark blue over green to orange, even in lightness for every kind of eye."""
    stops = np.array([[0, 32, 81], [87, 93, 109], [165, 156, 116], [253, 200, 55]]) / 255
    place = number / max(count - 1, 1) * (len(stops) - 1)
    rgb = [np.interp(place, range(len(stops)), stops[:, channel]) for channel in range(3)]
    return "#" + "".join(f"{round(255 * value):02x}" for value in rgb)


def is_light(curve: Curve) -> bool:
    """Training curves recede behind test curves."""
    return curve.phase in (TRAIN, "smoothed") or (curve.faint and curve.phase == TEST)


def accuracy_limits(values: Sequence[np.ndarray]) -> tuple[float, float] | None:
    """Limits that show in what the accuracies of several runs differ, without their climb; None if all is seen."""
    tails = [v[len(v) // 2 :][np.isfinite(v[len(v) // 2 :])] for v in values]
    bests = [float(np.nanmax(v)) for v in values if np.isfinite(v).any()]
    if len(bests) < 2:
        return None
    top, low = max(bests), min(float(np.nanmin(v)) for v in values if np.isfinite(v).any())
    floor = min([min(bests) - 4 * (top - min(bests)), *(float(np.quantile(t, 0.1)) for t in tails if len(t))])
    if top - floor > 0.5 * (top - low) or floor >= top:
        return None
    return floor - 0.05 * (top - floor), top + 0.08 * (top - floor)


def limits(values: Sequence[np.ndarray]) -> tuple[float, float] | None:
    """Limits of a y axis that a few wild values (a diverged loss) would spoil; None if there are none such.

    The loss of the beginning stays in sight.
    """
    finite = np.concatenate([v[np.isfinite(v)] for v in values] or [np.zeros(0)])
    if len(finite) < 8:
        return None
    low, usual, top = finite.min(), np.quantile(finite, 0.9), finite.max()
    if top - low <= 3 * (usual - low) or usual <= low:
        return None
    starts = [float(v[np.isfinite(v)][0]) for v in values if np.isfinite(v).any()]
    bound = max(low + 1.6 * (usual - low), 1.05 * max(starts))
    if bound >= top:
        return None
    return float(low - 0.05 * (bound - low)), float(bound)

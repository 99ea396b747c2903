"""Where the boxes of a directed graph go: rows from inputs to outputs, few crossings, curves between (Sugiyama, 1981).

1. Edges that close a circle are turned round. 2. A box's row is the longest way to it. 3. Edges that skip rows get a
place in each of them. 4. Each row is sorted by the mean place of its neighbours. 5. Boxes move towards the mean of
their neighbours as far as the others let them.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

Point = tuple[float, float]
Edge = tuple[Hashable, Hashable]

_ROW_GAP, _BOX_GAP, _LINE_GAP = 40.0, 26.0, 12.0
_SWEEPS = 8


class Layout(NamedTuple):
    """Centres of the boxes; of each edge the points of a path of cubic Bezier curves: start, (two controls, end)..."""

    centres: dict[Hashable, Point]
    curves: list[list[Point]]
    width: float
    height: float


def layout(sizes: Mapping[Any, tuple[float, float]], edges: Sequence[Edge]) -> Layout:
    """The places of boxes of these (width, height), the first row on top. Edges keep their order."""
    turned = _against_the_flow(sizes, edges)
    flow = [(b, a) if edge in turned else (a, b) for edge in edges for a, b in [edge]]
    rows_of = _rows_of(sizes, flow)
    chains = [_chain(index, edge, rows_of) for index, edge in enumerate(flow)]
    rows: list[list[Hashable]] = [[] for _ in range(max(rows_of.values(), default=-1) + 1)]
    for key, row in rows_of.items():
        rows[row].append(key)
    above, below = _neighbours(chains)
    _sort_rows(rows, above, below)
    widths = {key: sizes[key][0] if key in sizes else 0.0 for row in rows for key in row}
    x = _columns(rows, widths, above, below)
    heights = [max((sizes[key][1] for key in row if key in sizes), default=0) for row in rows]
    tops = [sum(heights[:i]) + _ROW_GAP * i for i in range(len(rows))]
    y = {key: tops[i] + heights[i] / 2 for i, row in enumerate(rows) for key in row}
    left = min((x[key] - widths[key] / 2 for key in x), default=0)
    place = {key: (x[key] - left, y[key]) for key in x}
    curves = []
    for edge, chain in zip(edges, chains):
        high = [sizes[key][1] if key in sizes else heights[rows_of[key]] for key in chain]
        points = _curve([place[key] for key in chain], high)
        curves.append(points[::-1] if edge in turned else points)
    width = max((place[key][0] + widths[key] / 2 for key in x), default=0)
    height = tops[-1] + heights[-1] if rows else 0
    return Layout({key: place[key] for key in sizes}, curves, width, height)


def _against_the_flow(keys: Mapping[Hashable, object], edges: Sequence[Edge]) -> set[Edge]:
    """The edges that a depth-first walk from the inputs finds to lead back."""
    targets: dict[Hashable, list[Hashable]] = {key: [] for key in keys}
    fed = set()
    for source, target in edges:
        targets[source].append(target)
        fed.add(target)
    back: set[Edge] = set()
    done: set[Hashable] = set()
    for start in sorted(keys, key=lambda key: key in fed):  # inputs first; sorting is stable
        if start in done:
            continue
        done.add(start)
        path, waiting = {start}, [(start, iter(targets[start]))]
        while waiting:
            key, rest = waiting[-1]
            target = next(rest, None)
            if target is None:
                path.discard(key)
                waiting.pop()
            elif target in path:
                back.add((key, target))
            elif target not in done:
                done.add(target)
                path.add(target)
                waiting.append((target, iter(targets[target])))
    return back


def _rows_of(keys: Mapping[Hashable, object], flow: Sequence[Edge]) -> dict[Hashable, int]:
    """The longest way from an input to each box; an input stands just above its first reader."""
    targets: dict[Hashable, list[Hashable]] = {key: [] for key in keys}
    waits_for = dict.fromkeys(keys, 0)
    for source, target in flow:
        targets[source].append(target)
        waits_for[target] += 1
    inputs = [key for key, count in waits_for.items() if count == 0]
    rows, ready = dict.fromkeys(keys, 0), list(inputs)
    for key in ready:
        for target in targets[key]:
            rows[target] = max(rows[target], rows[key] + 1)
            waits_for[target] -= 1
            if waits_for[target] == 0:
                ready.append(target)
    for key in inputs:
        if targets[key]:
            rows[key] = min(rows[target] for target in targets[key]) - 1
    return rows


def _chain(index: int, edge: Edge, rows_of: dict[Hashable, int]) -> list[Hashable]:
    """The edge's ends and a place in every row between, which is added to rows_of."""
    source, target = edge
    between = [("edge", index, row) for row in range(rows_of[source] + 1, rows_of[target])]
    rows_of.update((place, place[2]) for place in between)
    return [source, *between, target]


def _neighbours(chains: Sequence[Sequence[Hashable]]) -> tuple[dict, dict]:
    above: dict[Hashable, list[Hashable]] = {}
    below: dict[Hashable, list[Hashable]] = {}
    for chain in chains:
        for upper, lower in zip(chain, chain[1:]):
            above.setdefault(lower, []).append(upper)
            below.setdefault(upper, []).append(lower)
    return above, below


def _sort_rows(rows: list[list[Hashable]], above: dict, below: dict) -> None:
    """Order each row by the mean place of its neighbours in the row before, down and up in turn."""
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        neighbours = above if down else below
        order = range(1, len(rows)) if down else range(len(rows) - 2, -1, -1)
        for i in order:
            beside = rows[i - 1] if down else rows[i + 1]
            at = {key: (place + 0.5) / len(beside) for place, key in enumerate(beside)}
            own = {key: (place + 0.5) / len(rows[i]) for place, key in enumerate(rows[i])}
            means = {key: _mean([at[n] for n in neighbours.get(key, ())], own[key]) for key in rows[i]}
            rows[i].sort(key=means.__getitem__)


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _columns(rows: list[list[Hashable]], widths: dict, above: dict, below: dict) -> dict[Hashable, float]:
    """x of every place: as near to its neighbours' mean as the order and the gaps allow."""
    x: dict[Hashable, float] = {}
    for row in rows:
        _settle(row, [0.0] * len(row), widths, x)
    for sweep in range(2 * _SWEEPS):
        down = sweep % 2 == 0
        neighbours = above if down else below
        for row in rows if down else reversed(rows):
            wanted = [_mean([x[n] for n in neighbours.get(key, ())], x[key]) for key in row]
            _settle(row, wanted, widths, x)
    return x


def _settle(row: list[Hashable], wanted: list[float], widths: dict, x: dict[Hashable, float]) -> None:
    """Put a row where it wants to be, without overlaps: the mean of pushing right and pushing left."""
    apart = [
        (widths[a] + widths[b]) / 2 + (_BOX_GAP if widths[a] and widths[b] else _LINE_GAP) for a, b in zip(row, row[1:])
    ]
    right, left = list(wanted), list(wanted)
    for i, gap in enumerate(apart):
        right[i + 1] = max(right[i + 1], right[i] + gap)
    for i in range(len(apart) - 1, -1, -1):
        left[i] = min(left[i], left[i + 1] - apart[i])
    x.update((key, (a + b) / 2) for key, a, b in zip(row, right, left))


def _curve(places: Sequence[Point], heights: Sequence[float]) -> list[Point]:
    """From the lower edge of the first box to the upper edge of the last, upright through the rows between."""
    points = [(x, y + side * height / 2) for (x, y), height in zip(places, heights) for side in (-1, 1)][1:-1]
    path = [points[0]]
    for (xa, ya), (xb, yb) in zip(points, points[1:]):
        middle = (ya + yb) / 2
        path += [(xa, middle), (xb, middle), (xb, yb)]
    return path

"""A picture of a net without Graphviz: every layer in the column after its bottoms, drawn by matplotlib."""

from __future__ import annotations

import io
from collections import Counter
from typing import TYPE_CHECKING

from pysolver.errors import CaffeError

if TYPE_CHECKING:
    from pysolver.pycaffe.draw import Graph

_STEP = {"LR": (2.2, 1.1), "TB": (3.4, 0.8)}  # inches from node to node: to the right, down
_LONGEST = 300.0  # inches: at 100 dots an inch well below the 65536 dots that the png writer takes


def places(graph: Graph) -> dict[str, tuple[int, int]]:
    """(column, row) of each node. The edges come in the net's order, so one pass puts each node after its inputs."""
    columns: dict[str, int] = {}
    for source, target, _ in graph.edges:
        after = columns.setdefault(source, 0) + 1
        if target not in columns:
            columns[target] = after
        elif not graph.nodes[target].is_blob:  # a blob stays before the in-place layers that write it again
            columns[target] = max(columns[target], after)
    used: Counter[int] = Counter()
    found = {}
    for key in graph.nodes:
        column = columns.get(key, 0)
        found[key] = (column, used[column])
        used[column] += 1
    return found


def render(graph: Graph, ext: str) -> bytes:
    """The picture in one of matplotlib's formats (png, svg, pdf ...)."""
    from matplotlib.figure import Figure

    sideways = graph.rankdir in ("LR", "RL")
    step_x, step_y = _STEP["LR" if sideways else "TB"]
    grid = {key: place if sideways else place[::-1] for key, place in places(graph).items()}
    columns = 1 + max((x for x, _ in grid.values()), default=0)
    rows = 1 + max((y for _, y in grid.values()), default=0)
    width, height = min(columns * step_x, _LONGEST), min(rows * step_y, _LONGEST)
    figure = Figure(figsize=(width, height), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
    axes.axis("off")
    if graph.rankdir == "RL":
        axes.invert_xaxis()
    if graph.rankdir == "BT":
        axes.invert_yaxis()
    for source, target, label in graph.edges:
        (x0, y0), (x1, y1) = grid[source], grid[target]
        arrow = {"arrowstyle": "->", "shrinkA": 20, "shrinkB": 20, "color": "0.4"}
        axes.annotate("", (x1, y1), (x0, y0), arrowprops=arrow)
        axes.text((x0 + x1) / 2, (y0 + y1) / 2, label, fontsize=6, ha="center", va="bottom", parse_math=False)
    for key, node in graph.nodes.items():
        box = {"boxstyle": "round" if node.is_blob else "square", "facecolor": node.color}
        axes.text(*grid[key], node.label, fontsize=7, ha="center", va="center", bbox=box, parse_math=False)
    file = io.BytesIO()
    try:
        figure.savefig(file, format=ext)
    except ValueError as error:
        raise CaffeError(f"the net cannot be drawn as '{ext}' without Graphviz's program dot: {error}") from None
    return file.getvalue()

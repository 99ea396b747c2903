"""Boxes and curves as SVG text, or in matplotlib's formats."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from pysolver.drawing.layout import Layout, Point, layout
from pysolver.errors import CaffeError

FONT, _LINE, _LETTER, _PAD = 11.0, 15.0, 6.2, 8.0  # pixels; a letter's width is that of a broad one
_MARGIN = 16.0
_LONGEST = 300.0  # inches: at 100 dots an inch well below the 65536 dots that the png writer takes


@dataclass
class Box:
    """A box with lines of text, the first one bold if is_bold; note: shown when the mouse rests on it."""

    lines: list[str]
    color: str
    is_round: bool = False
    is_bold: bool = False
    note: str = ""
    place: Point = (0.0, 0.0)  # of the centre

    @property
    def size(self) -> tuple[float, float]:
        longest = max((len(line) for line in self.lines), default=0)
        return longest * _LETTER + 2 * _PAD, len(self.lines) * _LINE + _PAD


@dataclass
class Picture:
    """Boxes by key and edges (from, to, label), with places."""

    boxes: dict[str, Box]
    edges: Sequence[tuple[str, str, str]]
    curves: list[list[Point]] = field(default_factory=list)
    width: float = 0.0
    height: float = 0.0

    def arrange(self, rankdir: str = "TB") -> Picture:
        """Give everything its place. rankdir: where inputs and outputs are, TB, BT, LR or RL."""
        sideways = rankdir in ("LR", "RL")
        sizes = {key: box.size[::-1] if sideways else box.size for key, box in self.boxes.items()}
        found = layout(sizes, [(source, target) for source, target, _ in self.edges])
        for key, box in self.boxes.items():
            box.place = _turn(found.centres[key], found, rankdir)
        self.curves = [[_turn(point, found, rankdir) for point in curve] for curve in found.curves]
        width, height = (found.height, found.width) if sideways else (found.width, found.height)
        self.width, self.height = width + 2 * _MARGIN, height + 2 * _MARGIN
        return self


def _turn(point: Point, found: Layout, rankdir: str) -> Point:
    x, y = point
    y = found.height - y if rankdir in ("BT", "RL") else y
    x, y = (y, x) if rankdir in ("LR", "RL") else (x, y)
    return x + _MARGIN, y + _MARGIN


def to_svg(picture: Picture) -> str:
    """The picture as an SVG document; texts stay texts."""
    w, h = f"{picture.width:.0f}", f"{picture.height:.0f}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{w}" height="{h}" viewBox="0 0 {w} {h}" '
        f'font-family="Helvetica, Arial, sans-serif" font-size="{FONT:g}">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" fill="#667"/></marker></defs>',
        f'<rect width="{w}" height="{h}" fill="white"/>',
    ]
    for (_, _, label), curve in zip(picture.edges, picture.curves, strict=True):
        path = "C".join(" ".join(f"{x:.1f},{y:.1f}" for x, y in points) for points in _pieces(curve))
        parts.append(f'<path d="M{path}" fill="none" stroke="#667" marker-end="url(#tip)"/>')
        if label:
            x, y = curve[len(curve) // 2]
            parts.append(f'<text x="{x + 4:.1f}" y="{y:.1f}" fill="#445">{escape(label)}</text>')
    parts += [_svg_box(box) for box in picture.boxes.values()]
    return "\n".join([*parts, "</svg>", ""])


def _pieces(curve: Sequence[Point]) -> list[Sequence[Point]]:
    return [curve[:1], *(curve[i : i + 3] for i in range(1, len(curve), 3))]


def _svg_box(box: Box) -> str:
    (x, y), (width, height) = box.place, box.size
    left, top = x - width / 2, y - height / 2
    corner = height / 2 if box.is_round else 4
    lines = [f'<g class="box">{f"<title>{escape(box.note)}</title>" if box.note else ""}']
    lines.append(
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{corner:g}" '
        f'fill="{box.color}" stroke="#334"/>'
    )
    for i, text in enumerate(box.lines):
        weight = ' font-weight="bold"' if box.is_bold and i == 0 else ""
        at = top + _PAD / 2 + (i + 0.75) * _LINE
        lines.append(f'<text x="{x:.1f}" y="{at:.1f}" text-anchor="middle"{weight}>{escape(text)}</text>')
    return "".join([*lines, "</g>"])


def to_format(picture: Picture, ext: str) -> bytes:
    """The picture in one of matplotlib's formats (png, pdf ...). CaffeError for one that it does not know."""
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
    from matplotlib.path import Path

    scale = min(1.0, _LONGEST * 72 / max(picture.width, picture.height, 1))
    figure = Figure(figsize=(picture.width / 72 * scale, picture.height / 72 * scale), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, picture.width), ylim=(picture.height, 0))
    axes.axis("off")
    words: dict[str, Any] = {"fontsize": FONT * scale, "parse_math": False}
    for (_, _, label), curve in zip(picture.edges, picture.curves, strict=True):
        codes = [Path.MOVETO, *[Path.CURVE4] * (len(curve) - 1)]
        axes.add_patch(FancyArrowPatch(path=Path(curve, codes), arrowstyle="->", mutation_scale=8, color="0.4"))
        axes.text(*curve[len(curve) // 2], label, color="0.25", **words)
    for box in picture.boxes.values():
        (x, y), (width, height) = box.place, box.size
        style = f"round,pad=0,rounding_size={height / 2 if box.is_round else 4}"
        corner = (x - width / 2, y - height / 2)
        axes.add_patch(FancyBboxPatch(corner, width, height, style, facecolor=box.color, edgecolor="0.2", zorder=2))
        for i, line in enumerate(box.lines):
            at = corner[1] + _PAD / 2 + (i + 0.5) * _LINE
            weight = "bold" if box.is_bold and i == 0 else "normal"
            axes.text(x, at, line, ha="center", va="center", weight=weight, zorder=3, **words)
    file = io.BytesIO()
    try:
        figure.savefig(file, format=ext)
    except ValueError as error:
        raise CaffeError(f"the net cannot be drawn as '{ext}' without Graphviz's program dot: {error}") from None
    return file.getvalue()


def render(picture: Picture, ext: str) -> bytes:
    """The picture in any format."""
    return to_svg(picture).encode() if ext == "svg" else to_format(picture, ext)

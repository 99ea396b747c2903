"""The layout of graphs: what any good one has."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pysolver.drawing.layout import layout

GRAPHS = {
    "chain": ["ab", "bc", "cd"],
    "skip": ["ab", "bc", "cd", "ad"],
    "diamond": ["ab", "ac", "bd", "cd"],
    "circle": ["ab", "bc", "cb", "cd"],
    "two": ["ab", "cd"],
}


def boxes(found, sizes):
    for key, (x, y) in found.centres.items():
        width, height = sizes[key]
        yield key, x - width / 2, y - height / 2, x + width / 2, y + height / 2


def check_no_overlap(found, sizes):
    for (_, left, top, right, bottom), (_, left2, top2, right2, bottom2) in combinations(boxes(found, sizes), 2):
        assert right <= left2 or right2 <= left or bottom <= top2 or bottom2 <= top


@pytest.mark.parametrize("edges", GRAPHS.values(), ids=GRAPHS)
def test_readers_stand_below_writers(edges):
    sizes = {key: (30.0 + 10 * i, 20.0) for i, key in enumerate(sorted(set("".join(edges))))}
    found = layout(sizes, [tuple(edge) for edge in edges])
    check_no_overlap(found, sizes)
    for source, target in edges:
        if source + target != "cb":
            assert found.centres[source][1] < found.centres[target][1]


def test_an_edge_over_rows_goes_beside_the_boxes():
    sizes = dict.fromkeys("abcd", (100.0, 40.0))
    found = layout(sizes, [tuple(edge) for edge in GRAPHS["skip"]])
    long_way = found.curves[3]
    for _, left, top, right, bottom in boxes(found, {key: (99.0, 39.0) for key in sizes}):
        assert not any(left < x < right and top < y < bottom for x, y in long_way)


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)).filter(lambda e: e[0] != e[1]), max_size=40))
def test_any_graph_is_laid_out(edges):
    """Circles, double edges and unconnected parts too: boxes apart and inside, every curve from box to box."""
    sizes = {key: (20.0 + key, 10.0 + key) for key in range(13)}
    found = layout(sizes, edges)
    check_no_overlap(found, sizes)
    for _, left, top, right, bottom in boxes(found, sizes):
        assert left >= -1e-6 and top >= -1e-6
        assert right <= found.width + 1e-6 and bottom <= found.height + 1e-6
    for (source, target), curve in zip(edges, found.curves, strict=True):
        for key, (x, y) in ((source, curve[0]), (target, curve[-1])):
            assert x == pytest.approx(found.centres[key][0])
            assert abs(y - found.centres[key][1]) == pytest.approx(sizes[key][1] / 2)

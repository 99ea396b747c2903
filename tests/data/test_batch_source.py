"""Which batches of a test each of several ranks takes."""

from __future__ import annotations

import pytest

from pysolver.data.batch_source import Part


@pytest.mark.parametrize("size, period", [(1, 3), (2, 5), (3, 7), (4, 3)])
def test_all_ranks_together_take_each_batch_once(size, period):
    """In three tests; more ranks than batches leave some without any."""
    parts = [Part(rank, size, period) for rank in range(size)]
    assert [part.own for part in parts] == [len(range(rank, period, size)) for rank in range(size)]
    for test in range(3):
        taken = [part.index(test * part.own + place) for part in parts for place in range(part.own)]
        assert sorted(taken) == list(range(test * period, (test + 1) * period))
    assert {part.passed(2 * part.own) for part in parts if part.own} == {2 * period}
    assert all(part.passed(0) == 0 for part in parts)

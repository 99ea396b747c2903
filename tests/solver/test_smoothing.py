"""The displayed loss."""

from __future__ import annotations

import numpy as np
import pytest

from pysolver.solver.smoothing import Smoothing


def test_smoothing():
    window = Smoothing(3, start=10)
    values = []
    for i, loss in enumerate([1, 2, 6, 4, 8, 0]):
        window.add(10 + i, loss)
        values.append(float(window.value))
    assert values == pytest.approx([1, 1.5, 3, 4, 6, 4])
    again = Smoothing.from_state(3, window.state())
    for each in (window, again):
        each.add(16, 1)
    assert again == window
    window.add(17, float("nan"))
    for i in range(9):
        window.add(18 + i, 1)
    assert np.isnan(window.value), "one NaN stays, as in Caffe"

"""Mean average precision, against the definitions computed by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from pysolver.errors import CaffeError
from pysolver.proto.caffe_pb2 import SolverParameter
from pysolver.solver.detection_eval import DetectionScores, average_precision, check_evaluation, run_detection

# right, wrong, right, right, wrong of 4 objects: precision 1, 1/2, 2/3, 3/4, 3/5 at recall 1/4, 1/4, 2/4, 3/4, 3/4
FOUND = [(0.9, 1), (0.8, 0), (0.7, 1), (0.6, 1), (0.5, 0)]


@pytest.mark.parametrize(
    "version, expected",
    [
        ("Integral", (1 + 2 / 3 + 3 / 4) / 4),
        ("11point", (3 * 1 + 5 * 3 / 4) / 11),  # levels 0, 0.1, 0.2 and 0.3 .. 0.7
        ("MaxIntegral", (1 + 3 / 4 + 3 / 4) / 4),  # each step has the best precision from before it on
    ],
)
def test_average_precision(version, expected):
    assert average_precision(FOUND, 4, version) == pytest.approx(expected, abs=1e-12)
    assert average_precision(FOUND[::-1], 4, version) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("version", ["Integral", "11point", "MaxIntegral"])
def test_bounds(version):
    assert average_precision([(0.5, 1), (0.6, 1)], 2, version) == pytest.approx(1)
    assert average_precision([(0.5, 0)], 3, version) == 0
    assert average_precision([], 3, version) == 0
    assert average_precision(FOUND, 0, version) == 0


def test_rows_of_several_batches():
    scores = DetectionScores()
    first = [[-1, 1, 2, -1, -1], [-1, 2, 1, -1, -1], [0, 1, 0.9, 1, 0], [0, 1, 0.8, 0, 1]]
    second = [[-1, 1, 1, -1, -1], [-1, 2, 0, -1, -1], [0, 1, 0.7, 0, 0], [1, 1, 0.6, 1, 0]]
    for rows in (first, second):
        scores.add(torch.tensor(rows).reshape(1, 1, -1, 5), "detection_eval")
    # class 1: right, wrong, right of 3 objects, one detection on a difficult object left out; class 2: nothing found
    assert scores.by_class("Integral") == {1: pytest.approx((1 + 2 / 3) / 3)}
    assert scores.mean("Integral") == pytest.approx((1 + 2 / 3) / 3 / 2)
    with pytest.raises(CaffeError, match="output 'loss' is of"):
        scores.add(torch.zeros(()), "loss")


@pytest.mark.parametrize(
    "fields, error",
    [({"eval_type": "segmentation"}, "Unknown evaluation type"), ({"ap_version": "12point"}, "12point")],
)
def test_unknown_words(fields, error):
    with pytest.raises(CaffeError, match=error):
        check_evaluation(SolverParameter(**fields))


def test_the_result_of_each_class():
    """Told before the mean: class 1 with one right of one, class 2 with one wrong, class 3 with nothing found."""
    rows = [[-1, 1, 1, -1, -1], [-1, 2, 1, -1, -1], [-1, 3, 1, -1, -1], [0, 1, 0.9, 1, 0], [0, 2, 0.8, 0, 1]]
    net = SimpleNamespace(output_values=lambda: [("eval", torch.tensor(rows).reshape(1, 1, -1, 5), 0.0)])
    param = SolverParameter(eval_type="detection", ap_version="Integral", show_per_class_result=True)
    told = []
    result = run_detection(net, 2, lambda: torch.tensor(3.0), lambda: False, param, told.append)
    assert [(event.label, event.precision) for event in told] == [(1, 1), (2, 0)]
    assert result.loss == 3 and result.outputs == [("eval", pytest.approx(1 / 3), 0.0)]

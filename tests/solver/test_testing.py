"""A test: means over batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from short_runs import make_solver

from pysolver.errors import CaffeError
from pysolver.logs import events as e
from pysolver.solver import testing


def test_a_test_is_the_mean_of_batch_means(folder):
    folder("test_compute_loss: true")
    solver, told = make_solver()
    solver.test(1)
    output, loss = (next(event for event in told if isinstance(event, kind)) for kind in (e.Output, e.TestLoss))
    again, _ = make_solver()
    net = again.test_nets[1]
    net.share_trained_layers_with(solver.net)
    with torch.no_grad():
        batches = [float(net.run()) for _ in range(3)]
    assert output.value == pytest.approx(np.mean(batches), rel=1e-6)
    assert loss.value == pytest.approx(output.value, rel=1e-6)
    assert (output.weight, output.weighted) == (1.0, output.value)


def test_a_weighted_loss_is_a_float_product():
    """Caffe multiplies floats: 3 times 13421773 / 2^27, the float 0.1, is rounded to 24 bits; 2^129 is none."""
    assert testing.weighted(np.float32(3), float(np.float32(0.1)))[1] == 10066330 / 2**25
    assert testing.weighted(np.float32(2**127), 4.0) == (4.0, float("inf"))


def test_outputs_without_a_mean_point_to_what_has_one():
    total = testing._Sum()
    total.add(torch.zeros(()), [("eval", torch.zeros(10), 0.0)])
    with pytest.raises(CaffeError, match="output 'eval' has 10 elements .* eval_type: \"detection\""):
        total.add(torch.zeros(()), [("eval", torch.zeros(15), 0.0)])

"""Nets that a real Caffe computed, through the public interface and as one function."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from golden_layers import CASES, Comparison


def test_all_cases_are_there():
    assert len(CASES) == 186 + 36


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_computes_what_caffe_computes(path: Path, tmp_path: Path):
    Comparison(path, tmp_path).run()


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_as_one_function(path: Path, tmp_path: Path):
    """With fusions and channels last, as a solver computes it; gradients from the outputs' diffs."""
    this = Comparison(path, tmp_path)
    this.feed("in")
    for name, value in this.named("param"):
        this.parameter(name).data[...] = value
    net = this.net._net
    net.flush_params()
    inputs = [net.function.blobs[index].value.clone() for index in net.function.inputs]
    _, kept = net.function(*inputs)
    values = dict(zip(net.outputs, kept))
    outputs = {name for name, _ in this.named("out")} & values.keys()
    this.check("out", lambda name: values[name].detach(), outputs)
    this.check("param_after", lambda name: this.parameter(name).data)
    seeds = {name: torch.from_numpy(np.array(diff)) for name, diff in this.named("topdiff")}
    if not seeds or not seeds.keys() <= values.keys() or not this.named("paramdiff"):
        return
    pairs = [(values[name], seed.reshape(values[name].shape)) for name, seed in seeds.items()]
    pairs = [pair for pair in pairs if pair[0].requires_grad]
    if pairs:
        torch.autograd.backward([value for value, _ in pairs], [seed for _, seed in pairs])
    this.check("paramdiff", lambda name: this.parameter(name).diff)

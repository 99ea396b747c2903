"""The laws of the fillers, as measured from large samples of a real Caffe (tests/golden/fillers.json)."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from pysolver.errors import CaffeError
from pysolver.layers.fillers import fill
from pysolver.proto import caffe_pb2
from pysolver.proto.text import parse_text

ENTRIES = json.loads((Path(__file__).parents[1] / "golden" / "fillers.json").read_text())["entries"]


def filler_of(entry: dict) -> caffe_pb2.FillerParameter:
    values = dict(entry["filler"])
    if isinstance(values.get("variance_norm"), str):
        values["variance_norm"] = caffe_pb2.FillerParameter.VarianceNorm.Value(values["variance_norm"])
    return caffe_pb2.FillerParameter(**values)


def sample(entry: dict, count: int = 200_000) -> np.ndarray:
    blobs = []
    while sum(blob.size for blob in blobs) < count:
        blob = torch.empty(entry["shape"])
        fill(blob, filler_of(entry))
        blobs.append(blob.numpy())
    return np.stack(blobs)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: "-".join([e["filler"]["type"], *map(str, e["shape"])]))
def test_law(entry: dict):
    law = entry["law"]
    values = sample(entry)
    if "kernel" in law or "kernel" in entry:
        kernel = np.asarray(law.get("kernel", entry.get("kernel")))
        np.testing.assert_allclose(values[0], np.broadcast_to(kernel, values[0].shape), atol=1e-6)
        return
    measured = entry["measured"]
    spread = measured["std"]
    assert values.mean() == pytest.approx(measured["mean"], abs=0.01 * spread + 1e-7)
    assert values.std() == pytest.approx(spread, rel=0.02, abs=1e-7)
    if "low" in law and "high" in law:
        margin = 1e-6 * max(1, abs(law["high"]))
        assert law["low"] - margin <= values.min() and values.max() <= law["high"] + margin
    if law["kind"] == "normal":  # kurtosis 3: not merely the right spread
        z = (values - values.mean()) / values.std()
        assert (z**4).mean() == pytest.approx(3, abs=0.2)


def test_rows_of_the_gaussian_unitball_have_length_one():
    blob = torch.empty(200, 3)
    fill(blob, caffe_pb2.FillerParameter(type="gaussian_unitball"))
    torch.testing.assert_close(blob.norm(dim=1), torch.ones(200))
    assert (blob.mean(0).abs() < 0.2).all()  # nearly 5 standard deviations of 1 / sqrt(3 * 200)


def test_rows_of_the_positive_unitball_sum_to_one():
    blob = torch.empty(7, 3, 5)
    fill(blob, caffe_pb2.FillerParameter(type="positive_unitball"))
    assert (blob >= 0).all()
    torch.testing.assert_close(blob.flatten(1).sum(1), torch.ones(7))


def test_sparse_keeps_that_many_inputs_of_each_output():
    blob = torch.empty(50, 4000)
    fill(blob, caffe_pb2.FillerParameter(type="gaussian", sparse=10))
    assert (blob != 0).float().mean().item() == pytest.approx(10 / 50, abs=0.005)


def test_fan_of_a_transposed_inner_product_is_its_output_count():
    blob = torch.empty(300, 20)  # (inputs, outputs)
    fill(blob, caffe_pb2.FillerParameter(type="xavier"))
    assert blob.abs().max().item() == pytest.approx(math.sqrt(3 / 20), rel=0.01)


@pytest.mark.parametrize(
    ("text", "shape", "message"),
    [
        ('type: "nothing"', (2,), "Unknown filler name: nothing"),
        ('type: "constant"', (0, 3), "empty blob"),
        ('type: "uniform" sparse: 3', (4,), "sparse"),
        ('type: "uniform" min: 2 max: 1', (4,), "min 2 is above max 1"),
        ('type: "gaussian" std: 0', (4,), "std must be positive"),
        ('type: "bilinear"', (2, 2, 3, 4), "square"),
    ],
)
def test_refuses(text: str, shape: tuple[int, ...], message: str):
    with pytest.raises(CaffeError, match=message):
        fill(torch.empty(shape), parse_text(text, caffe_pb2.FillerParameter))

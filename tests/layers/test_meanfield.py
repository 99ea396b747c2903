"""CRF-RNN: its lattice against the numbers of its own code, its iterations against their equations."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pysolver.errors import CaffeError
from pysolver.layers.forks.lattice import Lattice

GOLDEN = Path(__file__).parents[1] / "golden" / "lattice.json"
H, W, LABELS = 4, 5, 3
RULE = (
    "num_iterations: 3 theta_alpha: 4 theta_beta: 30 theta_gamma: 2 spatial_filter_weight: 3 bilateral_filter_weight: 5"
)
TEXT = f'type: "MultiStageMeanfield" multi_stage_meanfield_param {{ {RULE} }}'


@pytest.mark.parametrize("case", json.loads(GOLDEN.read_text()), ids=["2 axes", "5 axes", "filled up to fours"])
def test_the_lattice(case):
    points, values, filtered, transposed = (np.array(case[name], np.float32) for name in case)
    lattice = Lattice(points)
    found = lattice.filtered(torch.from_numpy(values))
    np.testing.assert_allclose(found, filtered, rtol=1e-5, atol=1e-6)  # float32 sums in another order
    found = lattice.filtered(torch.from_numpy(values), is_reversed=True)
    np.testing.assert_allclose(found, transposed, rtol=1e-5, atol=1e-6)


def test_the_lattice_is_a_gaussian():
    """A cloud of points in a plane: about exp(-d^2 / 2), within a seventh of its height, for the lattice is coarse."""
    axis = np.linspace(-4, 4, 41, dtype=np.float32)
    points = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    spike = torch.zeros(len(points), 1)
    spike[len(points) // 2] = 1
    seen = Lattice(points).filtered(spike).numpy()[:, 0]
    wanted = np.exp(-(points**2).sum(1) / 2)
    assert np.abs(seen / seen.max() - wanted).max() < 1 / 7


def matrix(points):
    """The filter as a matrix whose rows are divided by what it makes of ones."""
    dense = Lattice(points.astype(np.float32)).filtered(torch.eye(len(points))).double().numpy()
    return dense / dense.sum(1, keepdims=True)


def test_the_iterations(make):
    unary, first = torch.randn(2, LABELS, H, W), torch.randn(2, LABELS, H, W)
    image = torch.rand(2, 3, H, W) * 255
    layer = make(TEXT, unary.shape, first.shape, image.shape)
    np.testing.assert_array_equal(layer.blobs[0][0, 0].detach(), 3 * np.eye(LABELS))
    np.testing.assert_array_equal(layer.blobs[1][0, 0].detach(), 5 * np.eye(LABELS))
    np.testing.assert_array_equal(layer.blobs[2][0, 0].detach(), -np.eye(LABELS))
    with torch.no_grad():
        for blob in layer.blobs:
            blob += 0.3 * torch.randn(blob.shape)
    by_place, by_colour, mixed = (blob[0, 0].detach().double().numpy() for blob in layer.blobs)
    found = layer(unary, first, image).detach()
    places = np.array([(column, row) for row in range(H) for column in range(W)], np.float32)
    for n in range(2):
        colours = image[n].numpy().reshape(3, -1).T / 30
        spatial, bilateral = matrix(places / 2), matrix(np.concatenate([places / 4, colours], 1))
        u, q = (x[n].double().numpy().reshape(LABELS, -1) for x in (unary, first))
        for _ in range(3):
            p = np.exp(q) / np.exp(q).sum(0)
            q = u - mixed @ (by_place @ (p @ spatial.T) + by_colour @ (p @ bilateral.T))
        np.testing.assert_allclose(found[n].reshape(LABELS, -1), q, rtol=1e-4, atol=1e-4)  # float32


def test_what_does_not_fit(make):
    shape, image = (1, LABELS, H, W), (1, 3, H, W)
    for old, new, words in (
        ("num_iterations: 3", "num_iterations: 1", "greater than 1"),
        ("theta_beta: 30", "", "must be positive"),
    ):
        with pytest.raises(CaffeError, match=words):
            make(TEXT.replace(old, new), shape, shape, image)
    with pytest.raises(CaffeError, match=r"and an image \(N, 3, H, W\)"):
        make(TEXT, shape, shape, shape[:2] + (H, W + 1))
    layer = make(TEXT.replace("theta_beta: 30", "theta_beta: 1e-30"), shape, shape, image)
    with pytest.raises(CaffeError, match="no colours"):
        layer(torch.zeros(shape), torch.zeros(shape), torch.rand(image))

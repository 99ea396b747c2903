"""What is read between the cells of a map, against loops that follow the rule of each fork."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pysolver.errors import CaffeError

MAP = (2, 3, 6, 8)
REGIONS = [[0, 8, 4, 40, 30], [1, -9, -3, 20, 50], [1, 40, 30, 90, 70], [0, 12, 12, 12, 12], [0, 30, 20, 10, 5]]


def read(plane: np.ndarray, y: float, x: float) -> float:
    """Bilinear; the edge up to half a cell outside, then 0."""
    height, width = plane.shape
    if y < -0.5 or x < -0.5 or y > height - 0.5 or x > width - 0.5:
        return 0.0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    value = 0.0
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            share = (1 - abs(y - row)) * (1 - abs(x - column))
            if share > 0:
                value += share * plane[row, column]
    return value


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape)


@pytest.mark.parametrize("pad", [0, 0.25])
def test_roi_align_of_cascade_rcnn(pad, make):
    data, scale, height, width = numbers(*MAP), 0.125, 2, 3
    text = f"roi_pooling_param {{ pooled_h: {height} pooled_w: {width} spatial_scale: {scale} pad_ratio: {pad} }}"
    layer = make(f"type: 'ROIAlign' {text}", MAP, (5, 5))
    expected = np.zeros((5, 3, height + 1, width + 1))
    for r, (image, x1, y1, x2, y2) in enumerate(REGIONS):
        more_x, more_y = (x2 - x1 + 1) * pad, (y2 - y1 + 1) * pad
        left, right = (x1 - more_x) * scale - 0.5, (x2 + more_x) * scale - 0.5
        top, bottom = (y1 - more_y) * scale - 0.5, (y2 + more_y) * scale - 0.5
        for c, i, j in np.ndindex(expected.shape[1:]):
            if right > left and bottom > top:
                y, x = top + i * (bottom - top) / height, left + j * (right - left) / width
                expected[r, c, i, j] = read(data[image, c], y, x)
    found = layer(torch.tensor(data), torch.tensor(REGIONS, dtype=torch.float64))
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert (expected[1] == 0).any() and (expected[1] != 0).any() and not expected[4].any()


def test_roi_align_of_frcnn_is_another_layer(make):
    with pytest.raises(CaffeError, match="bi_type is of frcnn's ROIAlign"):
        make("type: 'ROIAlign' roi_pooling_param { pooled_h: 2 pooled_w: 2 bi_type: 0 }", MAP, (5, 5))


def warped(data, regions, scale, height, width, rounded=True):
    whole = (lambda v: math.copysign(math.floor(abs(v) + 0.5), v)) if rounded else (lambda v: v)
    found = np.zeros((len(regions), data.shape[1], height, width))
    for r, (image, *corners) in enumerate(regions):
        left, top, right, bottom = (whole(v * scale) for v in corners)
        for c, i, j in np.ndindex(found.shape[1:]):
            y, x = top + i * max(bottom - top, 0) / height, left + j * max(right - left, 0) / width
            found[r, c, i, j] = read(data[int(image), c], y, x)
    return found


def test_roi_warping(make):
    data = numbers(*MAP)
    text = "roi_warping_param { pooled_h: 2 pooled_w: 3 spatial_scale: 0.125 }"
    layer = make(f"type: 'ROIWarping' {text}", MAP, (5, 5))
    found = layer(torch.tensor(data), torch.tensor(REGIONS, dtype=torch.float64))
    np.testing.assert_allclose(found, warped(data, REGIONS, 0.125, 2, 3), atol=1e-12)


def test_roi_warping_moves_the_corners(make):
    """The gradient to corners that are whole numbers on the map is that of the rule without the rounding."""
    data, regions = numbers(*MAP), np.array([[1, 8.0, 16, 40, 40], [0, 0, 8, 24, 16]])
    layer = make("type: 'ROIWarping' roi_warping_param { pooled_h: 7 pooled_w: 5 spatial_scale: 0.125 }", MAP, (2, 5))
    given = torch.tensor(regions, requires_grad=True)
    found = layer(torch.tensor(data), given)
    weights = numbers(*found.shape)
    (found * torch.tensor(weights)).sum().backward()
    for r, k in ((0, 3), (0, 4), (1, 3), (1, 4)):  # a start is a bend where the first place stands on a cell
        steps = []
        for step in (1e-4, -1e-4):
            other = regions.copy()
            other[r, k] += step
            steps.append((warped(data, other, 0.125, 7, 5, rounded=False) * weights).sum())
        assert given.grad[r, k] == pytest.approx((steps[0] - steps[1]) / 2e-4, rel=1e-6)


def test_masks(make):
    data, mask = numbers(2, 3, 4, 5), numbers(2, 1, 4, 5)
    layer = make("type: 'MaskPooling'", data.shape, mask.shape)
    np.testing.assert_array_equal(layer(torch.tensor(data), torch.tensor(mask)), data * mask)
    with pytest.raises(CaffeError, match=r"masks \(N, 1, H, W\)"):
        make("type: 'MaskPooling'", data.shape, (2, 3, 4, 5))


@pytest.mark.parametrize("height, width", [(3, 2), (7, 11)])
def test_mask_resize(height, width, make):
    data = numbers(2, 1, 4, 5)
    text = f"mask_resize_param {{ output_height: {height} output_width: {width} }}"
    layer = make(f"type: 'MaskResize' {text}", data.shape)
    expected = [
        [[[read(m, i * 4 / height, j * 5 / width) for j in range(width)] for i in range(height)]] for (m,) in data
    ]
    np.testing.assert_allclose(layer(torch.tensor(data)), expected, atol=1e-12)
    assert (np.array(expected)[..., -1] == 0).all() == (width == 11)  # more than half a cell outside

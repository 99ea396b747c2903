"""Intel's random_resize_param and random_aspect_ratio_param, in Data's and ImageData's transformer."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from pysolver.context import Context
from pysolver.data.transformer import Transformer
from pysolver.errors import CaffeError
from pysolver.proto import caffe_pb2
from pysolver.proto.text import parse_text

HEIGHT, WIDTH = 80, 120
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH]
IMAGE = np.stack([COLUMNS * 2, ROWS * 3, np.zeros_like(ROWS)]).astype(np.uint8)


def transformer(text: str, phase: int = caffe_pb2.TRAIN) -> Transformer:
    return Transformer(parse_text(text, caffe_pb2.TransformationParameter), phase, Context())


def batch(t: Transformer, images, seed: int = 0) -> np.ndarray:
    return t(images, t.draw(lambda: np.random.default_rng(seed), len(images))).numpy()


@pytest.mark.parametrize("mode, flag", [("LINEAR", cv2.INTER_LINEAR), ("CUBIC", cv2.INTER_CUBIC)])
@pytest.mark.parametrize("turned", [False, True])
def test_the_shorter_side_of_a_test_image(mode, flag, turned):
    """The middle of the image in 40 x 60, or turned."""
    image = IMAGE.transpose(0, 2, 1) if turned else IMAGE
    text = f"crop_size: 32 random_resize_param {{ min_size: 40 max_size: 40 resize_param {{ interp_mode: {mode} }} }}"
    t = transformer(text, caffe_pb2.TEST)
    assert t.output_shape(image.shape) == (3, 32, 32)
    size = (40, 60) if turned else (60, 40)
    whole = cv2.resize(np.ascontiguousarray(image.transpose(1, 2, 0)), size, interpolation=flag).transpose(2, 0, 1)
    top, left = (whole.shape[1] - 32) // 2, (whole.shape[2] - 32) // 2
    expected = whole[:, top : top + 32, left : left + 32]
    np.testing.assert_array_equal(batch(t, np.stack([image, image])), [expected, expected])


def test_sizes_are_drawn():
    """Blue rises by 2 for each column of the image: by 2 * 80 / side for one of a shorter side of 20 to 40."""
    t = transformer("crop_size: 16 random_resize_param { min_size: 20 max_size: 40 }")
    found = batch(t, [IMAGE] * 200)
    sides = 160 / (np.diff(found[:, 0], axis=2).mean((1, 2)))
    assert sides.min() > 19 and sides.max() < 42 and len(set(sides.round())) > 15
    assert sides.min() < 22 and sides.max() > 38


def test_parts_of_other_shapes():
    """Areas of a quarter to a half, sides changed by 0.8 to 1.25."""
    t = transformer(
        "crop_size: 20 random_aspect_ratio_param { min_area_ratio: 0.25 max_area_ratio: 0.5 aspect_ratio_change: 0.8 }"
    )
    found = batch(t, [IMAGE] * 200)
    columns, rows = (
        np.diff(found[:, 0], axis=2).mean((1, 2)) / 2 * 20,
        np.diff(found[:, 1], axis=1).mean((1, 2)) / 3 * 20,
    )
    area, ratio = columns * rows / (HEIGHT * WIDTH), columns / rows
    assert 0.22 < area.min() < 0.29 and 0.45 < area.max() < 0.53  # the ends of a part are read less exactly
    assert 0.6 < ratio.min() < 0.72 and 1.4 < ratio.max() < 1.65  # 0.8^2 and 1.25^2
    assert len({tuple(one[:2, 0, 0]) for one in found}) > 100  # at many places


def test_no_part_fits():
    """Then the whole image, its shorter side the crop."""
    t = transformer("crop_size: 20 random_aspect_ratio_param { min_area_ratio: 1 aspect_ratio_change: 0.5 }")
    found = batch(t, [IMAGE] * 20)
    np.testing.assert_allclose(np.diff(found[:, 1], axis=1).mean((1, 2)), 3 * HEIGHT / 20, rtol=0.05)


@pytest.mark.parametrize(
    "text, words",
    [
        ("random_resize_param { min_size: 20 }", "random_resize_param needs a crop_size"),
        ("random_aspect_ratio_param { }", "random_aspect_ratio_param needs a crop_size"),
        ('crop_size: 8 mean_file: "x" random_resize_param { }', "mean_file do not go together"),
        ("crop_size: 8 random_aspect_ratio_param { min_area_ratio: 0 }", "0 < min_area_ratio"),
    ],
)
def test_errors(text, words):
    with pytest.raises(CaffeError, match=words):
        transformer(text)


def test_sizes_the_wrong_way_round():
    t = transformer("crop_size: 8 random_resize_param { min_size: 50 max_size: 40 }")
    with pytest.raises(CaffeError, match="from 50 to 40 pixels"):
        batch(t, [IMAGE])


def test_a_size_below_the_crop():
    t = transformer("crop_size: 32 random_resize_param { min_size: 20 max_size: 20 }")
    with pytest.raises(CaffeError, match="an image of 3 x 20 x 30 is smaller than the crop, 32 x 32"):
        batch(t, [IMAGE] * 2)

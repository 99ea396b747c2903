"""ImageSegData and DenseImageData: an image and its labels stay together whatever is done to them."""

from __future__ import annotations

import re

import cv2
import numpy as np
import pytest

from pysolver.errors import CaffeError

COUNT, HEIGHT, WIDTH = 5, 12, 16


@pytest.fixture
def pairs(tmp_path):
    """Five images whose blue, in each pixel, is ten times its label; list.txt."""
    random = np.random.default_rng(2)
    for i in range(COUNT):
        labels = random.integers(0, 20, (HEIGHT // 4, WIDTH // 4)).astype(np.uint8).repeat(4, 0).repeat(4, 1)
        image = np.stack([labels * 10, np.full_like(labels, i), np.full_like(labels, 255)], -1)
        cv2.imwrite(str(tmp_path / f"i{i}.png"), image)
        cv2.imwrite(str(tmp_path / f"l{i}.png"), labels)
    (tmp_path / "list.txt").write_text("".join(f"i{i}.png l{i}.png\n" for i in range(COUNT)))
    (tmp_path / "kinds.txt").write_text("".join(f"i{i}.png {i + 3}\n" for i in range(COUNT)))
    return tmp_path


SEG = """name: "d" type: "ImageSegData" top: "data" top: "label" top: "dim"
    image_data_param {{ source: "{}" batch_size: 2 {} }} {}"""
DENSE = """name: "d" type: "DenseImageData" top: "data" top: "label"
    dense_image_data_param {{ source: "list.txt" batch_size: 2 {} }} {}"""


def test_in_order_minus_the_mean(pairs, make_source):
    text = "transform_param { mean_value: 1 mean_value: 2 mean_value: 3 scale: 0.5 }"
    source = make_source(SEG.format("list.txt", "label_type: PIXEL", text))
    assert source.top_shapes() == [(2, 3, HEIGHT, WIDTH), (2, 1, HEIGHT, WIDTH), (2, 1, 1, 2)]
    for batch in range(3):
        data, label, sizes = source.next_batch()
        assert (data[:, 1, 0, 0] * 2 + 2).tolist() == [(2 * batch) % COUNT, (2 * batch + 1) % COUNT]
        np.testing.assert_allclose(data[:, 0] * 2 + 1, label[:, 0] * 10)
        assert (data[:, 2] == 126).all()
        assert sizes.reshape(2, 2).tolist() == [[HEIGHT, WIDTH]] * 2


def test_crops_are_padded(pairs, make_source):
    """20 x 10 of 12 x 16: below, the mean and label 255; the image's own size is told."""
    text = "transform_param { crop_height: 20 crop_width: 10 mean_value: 7 mean_value: 7 mean_value: 7 mirror: true }"
    source = make_source(SEG.format("list.txt", "label_type: PIXEL shuffle: true", text))
    seen = set()
    for _ in range(20):
        data, label, sizes = source.next_batch()
        assert data.shape == (2, 3, 20, 10)
        np.testing.assert_allclose(data[:, 0, :12] + 7, label[:, 0, :12] * 10)
        assert (label[:, 0, 12:] == 255).all()
        assert not data[:, :, 12:].any()
        assert sizes.reshape(2, 2).tolist() == [[12, 10]] * 2
        seen |= {tuple(row.tolist()) for row in label[:, 0, 0]}
    assert len(seen) > 10  # of 5 images: several places, mirrored or not


def test_the_middle_in_tests(pairs, make_source):
    text = "transform_param { crop_size: 4 }"
    source = make_source(SEG.format("list.txt", "label_type: PIXEL", text), phase="TEST")
    label = source.next_batch()[1]
    whole = cv2.imread("l0.png", cv2.IMREAD_GRAYSCALE)
    np.testing.assert_array_equal(label[0, 0], whole[4:8, 6:10])


def test_scaling_takes_the_nearest_label(pairs, make_source):
    text = "transform_param { scale_factors: 2 crop_height: 24 crop_width: 32 }"
    source = make_source(SEG.format("list.txt", "label_type: PIXEL", text))
    data, label, _ = source.next_batch()
    whole = cv2.imread("l0.png", cv2.IMREAD_GRAYSCALE).repeat(2, 0).repeat(2, 1)
    np.testing.assert_array_equal(label[0, 0], whole)
    inner = slice(2, 6)  # away from the edges of the first 8 x 8 of one label
    assert (data[0, 0, inner, inner] == whole[0, 0] * 10.0).all()


def test_one_label_for_an_image(pairs, make_source):
    source = make_source(SEG.format("kinds.txt", "label_type: IMAGE", ""))
    assert [set(own.flatten().tolist()) for own in source.next_batch()[1]] == [{3}, {4}]


def test_a_random_start_is_told_and_resumed(pairs, make_source, capfd):
    """Without a random_seed the run that goes on has another seed of its own: the start is the first run's."""
    text = SEG.format("list.txt", "label_type: PIXEL shuffle: true rand_skip: 5", "")
    source = make_source(text, seed=None)
    assert re.search(r"A total of 5 images\.\n.*Skipping first [0-4] data points\.\n", capfd.readouterr().err)
    assert source.records == COUNT
    source.next_batch()
    state = source.state()
    wanted = [source.next_batch()[0][:, 1, 0, 0].tolist() for _ in range(6)]
    for _ in range(3):
        resumed = make_source(text, seed=None)
        resumed.load_state(state)
        assert [resumed.next_batch()[0][:, 1, 0, 0].tolist() for _ in range(6)] == wanted


def test_dense_images(pairs, make_source):
    source = make_source(DENSE.format("mirror: true crop_height: 6 crop_width: 8", "transform_param { scale: 0.1 }"))
    rows = set()
    for _ in range(20):
        data, label = source.next_batch()
        assert data.shape == (2, 3, 6, 8)
        np.testing.assert_allclose(data[:, 0], label[:, 0], atol=1e-5)
        rows |= {tuple(row.tolist()) for row in label[:, 0, 0]}
    assert len(rows) > 10


def test_smaller_labels(pairs, make_source):
    source = make_source(DENSE.format("new_height: 24 new_width: 32 label_divide_factor: 8", ""))
    data, label = source.next_batch()
    assert (data.shape, label.shape) == ((2, 3, 24, 32), (2, 1, 3, 4))
    np.testing.assert_array_equal(label[0, 0], cv2.imread("l0.png", cv2.IMREAD_GRAYSCALE)[::4, ::4])


@pytest.mark.parametrize(
    "text, words",
    [
        (
            SEG.format("list.txt", "label_type: PIXEL", 'transform_param { mean_file: "m" }'),
            "does not support mean file",
        ),
        (SEG.format("list.txt", "label_type: IMAGE", ""), "list.txt:1: needs `image number`"),
        (SEG.format("kinds.txt", "label_type: PIXEL", ""), "kinds.txt:1: .*Could not load .*3"),
        (DENSE.format("", "transform_param { mirror: true }"), "would part image and labels"),
        (DENSE.format("crop_height: 3", ""), "must be set at the same time"),
        (DENSE.format("crop_height: 30 crop_width: 3", ""), "list.txt:1: a crop of 30 x 3 from"),
    ],
)
def test_errors(pairs, make_source, text, words):
    with pytest.raises(CaffeError, match=words):
        make_source(text)


def test_a_resumed_source_goes_on_alike(pairs, make_source):
    text = SEG.format("list.txt", "label_type: PIXEL shuffle: true", "transform_param { crop_size: 5 mirror: true }")
    one, two = make_source(text), make_source(text)
    batches = [one.next_batch() for _ in range(4)]
    two.load_state({"batches": 2, "seed": one.state()["seed"]})
    for expected in batches[2:]:
        for a, b in zip(expected, two.next_batch(), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "fields, transform, error",
    [
        ("label_type: PIXEL", "scale_factors: 1e9", "cannot be resized to"),
        ("label_type: PIXEL", "scale_factors: inf", "scale_factors must be positive"),
        ("label_type: PIXEL", "crop_height: 4000000000 crop_width: 2", "cannot be resized to 4000000000 x 2"),
        ("label_type: NONE ignore_label: 256", "", "ignore_label must be in 0..255, not 256"),
    ],
)
def test_no_more_memory_than_an_image_may_take(fields, transform, error, pairs, make_source):
    with pytest.raises(CaffeError, match=rf"layer 'd' \(ImageSegData\): .*{error}"):
        make_source(SEG.format("list.txt", fields, f"transform_param {{ {transform} }}"))


def test_labels_that_are_no_bytes(pairs, make_source):
    (pairs / "kinds.txt").write_text("i0.png 300\n")
    with pytest.raises(CaffeError, match="kinds.txt:1: the label 300 is not in 0..255"):
        make_source(SEG.format("kinds.txt", "label_type: IMAGE", ""))


def test_a_divisor_larger_than_the_image(pairs, make_source):
    with pytest.raises(CaffeError, match="label_divide_factor leaves nothing"):
        make_source(DENSE.format("new_height: 8 new_width: 8 label_divide_factor: 9", ""))

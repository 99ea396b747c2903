"""The batch transformer against a loop over pixels, and the laws of its random decisions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pysolver.context import Context
from pysolver.data.transformer import Draws, Transformer, read_mean
from pysolver.errors import CaffeError
from pysolver.proto import caffe_pb2

TRAIN, TEST = caffe_pb2.TRAIN, caffe_pb2.TEST


def caffe_transform(image, mean, scale, crop, is_training, mirror, top, left):
    """One image, pixel by pixel: mirror, mean at the original place, crop, (pixel - mean) * scale, in float32."""
    channels, height, width = image.shape
    rows, columns = (crop, crop) if crop else (height, width)
    if crop and not is_training:
        top, left = (height - crop) // 2, (width - crop) // 2
    elif crop:
        top, left = top % (height - crop + 1), left % (width - crop + 1)
    else:
        top = left = 0
    result = np.empty((channels, rows, columns), np.float32)
    for c in range(channels):
        for h in range(rows):
            for w in range(columns):
                pixel = np.float32(image[c, top + h, left + w])
                below = np.float32(mean[c, top + h, left + w])
                result[c, h, columns - 1 - w if mirror else w] = (pixel - below) * np.float32(scale)
    return result


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.data(),
    st.integers(1, 3),
    st.integers(1, 7),
    st.integers(1, 7),
    st.sampled_from([TRAIN, TEST]),
    st.booleans(),
    st.sampled_from(["none", "file", "one value", "value a channel"]),
    st.sampled_from([1.0, 0.5, 0.017]),
    st.sampled_from([np.uint8, np.float32]),
)
def test_every_pixel(tmp_path, data, channels, height, width, phase, mirror, kind, scale, dtype) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    crop = data.draw(st.integers(0, min(height, width)))
    images = rng.integers(0, 256, (3, channels, height, width)).astype(dtype)
    param = caffe_pb2.TransformationParameter(scale=scale, mirror=mirror, crop_size=crop)
    mean = np.zeros((channels, height, width), np.float32)
    if kind == "file":
        mean = rng.normal(100, 30, mean.shape).astype(np.float32)
        blob = caffe_pb2.BlobProto(num=1, channels=channels, height=height, width=width, data=mean.ravel())
        param.mean_file = str(tmp_path / "mean.binaryproto")
        (tmp_path / "mean.binaryproto").write_bytes(blob.SerializeToString())
    elif kind != "none":
        values = rng.normal(100, 30, 1 if kind == "one value" else channels).astype(np.float32)
        param.mean_value.extend(values)
        mean += values[:, None, None]
    transformer = Transformer(param, phase, Context())
    assert transformer.output_shape((channels, height, width)) == (channels, crop or height, crop or width)
    draws = transformer.draw(lambda: rng, 3)
    assert (draws is not None) == (mirror or (crop > 0 and phase == TRAIN))
    mirrors, tops, lefts = draws or np.zeros((3, 3), np.uint32)
    wanted = [
        caffe_transform(image, mean, param.scale, crop, phase == TRAIN, mirror and m % 2 == 1, int(t), int(x))
        for image, m, t, x in zip(images, mirrors, tops, lefts)
    ]
    before = images.copy()
    np.testing.assert_array_equal(transformer(images, draws).numpy(), np.stack(wanted))
    np.testing.assert_array_equal(images, before)
    if crop and kind != "file":  # the way of images that differ in size
        np.testing.assert_array_equal(transformer(list(images), draws).numpy(), np.stack(wanted))


def seen_windows(crop: int, mirror: bool, count: int = 6000) -> np.ndarray:
    """(top, left, mirrored) of many images of 6 x 8 whose pixel values tell their place."""
    image = np.arange(48, dtype=np.uint8).reshape(1, 6, 8)
    transformer = Transformer(caffe_pb2.TransformationParameter(crop_size=crop, mirror=mirror), TRAIN, Context())
    draws = transformer.draw(lambda: np.random.Generator(np.random.Philox(5)), count)
    out = transformer(np.repeat(image[None], count, 0), draws).numpy().astype(int)
    mirrored = out[:, 0, 0, 0] > out[:, 0, 0, -1]
    first = np.minimum(out[:, 0, 0, 0], out[:, 0, 0, -1])
    return np.stack([first // 8, first % 8, mirrored], axis=1)


def test_windows_and_mirrors_are_uniform_and_independent() -> None:
    """Every (row, column, mirrored) of 3 x 5 x 2 is as likely: chi-square with 29 degrees of freedom, 1 in 10^4."""
    _, counts = np.unique(seen_windows(crop=4, mirror=True), axis=0, return_counts=True)
    assert len(counts) == 30
    assert ((counts - 200) ** 2 / 200).sum() < 64.0


def test_a_single_cut_reaches_every_place() -> None:
    """3 rows and 4 columns of windows; 300 draws miss one of 12 once in 10^10."""
    transformer = Transformer(caffe_pb2.TransformationParameter(crop_size=3), TRAIN, Context())
    image, generator = np.arange(30, dtype=np.uint8).reshape(5, 6, 1), np.random.default_rng(0)
    corners = {divmod(int(transformer.cut(image, generator)[0][0, 0, 0]), 6) for _ in range(300)}
    assert corners == {(row, column) for row in range(3) for column in range(4)}


def test_each_image_decides_for_itself() -> None:
    windows = seen_windows(crop=4, mirror=True)
    agree = (windows[1:] == windows[:-1]).mean(axis=0)
    np.testing.assert_allclose(agree, [1 / 3, 1 / 5, 1 / 2], atol=0.03)


def test_the_centre_of_an_odd_rest_is_up_and_left() -> None:
    image = np.arange(20, dtype=np.uint8).reshape(1, 1, 4, 5)
    param = caffe_pb2.TransformationParameter(crop_size=1)
    assert Transformer(param, TEST, Context())(image).item() == 1 * 5 + 2


def test_mirror_acts_in_the_test_phase_too() -> None:
    transformer = Transformer(caffe_pb2.TransformationParameter(mirror=True), TEST, Context())
    draws = Draws(np.array([0, 1], np.uint32), np.zeros(2, np.uint32), np.zeros(2, np.uint32))
    image = np.array([[[1, 2, 3]]], np.uint8)
    assert transformer(np.stack([image, image]), draws)[:, 0, 0].tolist() == [[1, 2, 3], [3, 2, 1]]


def test_mean_files_old_and_new(tmp_path) -> None:
    new = caffe_pb2.BlobProto(data=[1, 2], shape=caffe_pb2.BlobShape(dim=[1, 2, 1]))
    flat = caffe_pb2.BlobProto(data=[1, 2], shape=caffe_pb2.BlobShape(dim=[2]))
    for name, blob in (("new", new), ("flat", flat)):
        (tmp_path / name).write_bytes(blob.SerializeToString())
    assert read_mean(str(tmp_path / "new")).tolist() == [[[1], [2]]]
    with pytest.raises(CaffeError, match="flat: a mean image has the shape .* not 2"):
        read_mean(str(tmp_path / "flat"))

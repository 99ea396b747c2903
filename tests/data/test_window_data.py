"""WindowData: which windows a batch holds, how they are warped, and what is wrong with window files."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from pysolver.data.window_data import fit_window
from pysolver.data.window_file import Window
from pysolver.errors import CaffeError

WINDOWS = """name: "d" type: "WindowData" top: "data" top: "label" transform_param {{ crop_size: 8 {} }}
window_data_param {{ source: "windows.txt" {} }}"""


@pytest.fixture
def write_windows(tmp_path):
    """write_windows([image, ...], [[window line, ...], ...]) makes PNGs and windows.txt."""

    def write(images: list[np.ndarray], windows: list[list[str]]) -> None:
        text = ""
        for number, (image, lines) in enumerate(zip(images, windows)):
            cv2.imwrite(str(tmp_path / f"{number}.png"), image)
            height, width = image.shape[:2]
            text += f"# {number}\n{number}.png\n3\n{height}\n{width}\n{len(lines)}\n" + "".join(f"{x}\n" for x in lines)
        (tmp_path / "windows.txt").write_text(text)

    return write


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def warped(image: np.ndarray, x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
    return cv2.resize(image[y1 : y2 + 1, x1 : x2 + 1], (8, 8)).transpose(2, 0, 1)


def test_a_window_is_warped_to_the_crop(write_windows, make_source) -> None:
    image = noise(30, 40)
    write_windows([image], [["2 0.9 5 6 24 17"]])
    source = make_source(WINDOWS.format("", "batch_size: 2 fg_fraction: 1"))
    assert source.top_shapes() == [(2, 3, 8, 8), (2,)]
    data, label = source.next_batch()
    np.testing.assert_array_equal(data.numpy(), np.stack([warped(image, 5, 6, 24, 17)] * 2))
    assert label.tolist() == [2, 2]


@pytest.mark.parametrize("place", ["transform", "window"])
def test_mean_and_scale(write_windows, make_source, place) -> None:
    """scale may stand in either message."""
    image = noise(30, 40)
    write_windows([image], [["2 0.9 5 6 24 17"]])
    mean = "mean_value: 1 mean_value: 2 mean_value: 3"
    transform, window = (f"{mean} scale: 0.5", "") if place == "transform" else (mean, "scale: 0.5")
    data, _ = make_source(WINDOWS.format(transform, f"batch_size: 1 fg_fraction: 1 {window}")).next_batch()
    wanted = (warped(image, 5, 6, 24, 17).astype(np.float32) - np.float32([1, 2, 3])[:, None, None]) / 2
    np.testing.assert_array_equal(data[0].numpy(), wanted)


def test_context_beyond_the_image_stays_zero(write_windows, make_source) -> None:
    """Crop 8 with 2 of context doubles a window of 4 x 4: from -2 to 6, of which 2 of 9 lie outside: 2 of 8 pixels."""
    write_windows([np.full((40, 40, 3), 100, np.uint8)], [["1 0.9 0 0 3 3"]])
    source = make_source(WINDOWS.format("mean_value: 10 scale: 0.5", "batch_size: 1 fg_fraction: 1 context_pad: 2"))
    wanted = np.zeros((3, 8, 8))
    wanted[:, 2:, 2:] = 45
    np.testing.assert_array_equal(source.next_batch()[0][0].numpy(), wanted)


def test_a_mirrored_window_has_its_border_on_the_other_side(write_windows, make_source) -> None:
    image = np.full((40, 40, 3), 100, np.uint8)
    image[:, 0] = 50
    write_windows([image], [["1 0.9 0 20 3 23"]])
    source = make_source(WINDOWS.format("mirror: true", "batch_size: 40 fg_fraction: 1 context_pad: 2"))
    rows = {tuple(item[0, 4].tolist()) for item in source.next_batch()[0]}
    assert len(rows) == 2
    plain, mirrored = sorted(rows)
    assert plain[:2] == (0, 0) and plain[2] < 100 and plain[3:] == (100,) * 5
    assert mirrored == plain[::-1]


def test_square_mode_takes_the_longer_side() -> None:
    """A window of 10 x 4 about (20, 17): a square of half side 5, without context."""
    window = Window(0, 1, 1.0, 15, 15, 24, 18)
    param = SimpleNamespace(context_pad=0, crop_mode="square")
    place = fit_window(window, (40, 40), 8, param, mirrored=False)
    assert place == (15, 12, 25, 22, 0, 0, 8, 8)


def test_backgrounds_come_first_and_each_window_is_as_likely(write_windows, make_source) -> None:
    image = np.zeros((9, 9, 3), np.uint8)
    write_windows(
        [image, image],
        [["3 0.8 0 0 3 3", "5 0.5 0 0 3 3", "4 0.45 0 0 3 3"], ["1 0.2 0 0 3 3", "7 1 0 0 3 3", "0 0.39 1 1 2 2"]],
    )
    source = make_source(WINDOWS.format("", "batch_size: 10 fg_fraction: 0.35 bg_threshold: 0.4"))
    labels = np.stack([source.next_batch()[1].numpy() for _ in range(300)])
    assert (labels[:, :7] == 0).all()  # int(10 * 0.35) = 3 foregrounds
    values, counts = np.unique(labels[:, 7:], return_counts=True)
    assert values.tolist() == [3, 5, 7]  # 4 lies between the thresholds
    assert ((counts - 300) ** 2 / 300).sum() < 18.4  # chi-square, 2 degrees of freedom, 1 in 10^4


def test_a_resumed_stream_is_the_undisturbed_one(write_windows, make_source) -> None:
    write_windows([noise(30, 40)], [[f"{i} 0.9 {i} 2 {i + 9} 11" for i in range(1, 9)] + ["0 0 0 0 5 5"]])
    text = WINDOWS.format("mirror: true", "batch_size: 4 cache_images: true")
    source = make_source(text, seed=None)
    for _ in range(3):
        source.next_batch()
    state = source.state()
    wanted = [source.next_batch() for _ in range(4)]
    resumed = make_source(text.replace("cache_images: true", ""), seed=None)
    resumed.load_state(state)
    for batch in wanted:
        assert all(top.equal(again) for top, again in zip(batch, resumed.next_batch()))


def test_mean_file_is_read_at_its_centre(write_windows, make_source, tmp_path) -> None:
    from pysolver.proto import caffe_pb2

    mean = np.random.default_rng(1).normal(100, 9, (3, 12, 12)).astype(np.float32)
    blob = caffe_pb2.BlobProto(num=1, channels=3, height=12, width=12, data=mean.ravel())
    (tmp_path / "mean").write_bytes(blob.SerializeToString())
    image = noise(30, 40)
    write_windows([image], [["2 0.9 5 6 24 17"]])
    source = make_source(WINDOWS.format('mean_file: "mean"', "batch_size: 1 fg_fraction: 1"))
    wanted = warped(image, 5, 6, 24, 17) - mean[:, 2:10, 2:10]
    np.testing.assert_array_equal(source.next_batch()[0][0].numpy(), wanted)


GOOD = "# 0\n0.png\n3 9 9\n1\n1 0.9 0 0 3 3\n"
BAD = [
    (None, "batch_size: 1 fg_fraction: 1", "Failed to open window file windows.txt"),
    ("", "batch_size: 1 fg_fraction: 1", "Window file is empty"),
    (GOOD, "batch_size: 0", "batch_size must be positive"),
    (GOOD, "batch_size: 1 crop_mode: 'round'", "crop_mode must be warp or square, not 'round'"),
    (GOOD, "batch_size: 1 context_pad: 4", "context_pad 4 leaves nothing of crop_size 8"),
    (GOOD, "batch_size: 4", "no background window, but each batch takes 3"),
    (GOOD.replace("0.9", "0.1"), "batch_size: 4", "no foreground window, but each batch takes 1"),
    (GOOD.replace("1 0.9", "0 0.9"), "batch_size: 1", "a foreground window .overlap 0.9. of class 0"),
    (GOOD.replace("# 0", "0"), "batch_size: 1", "windows.txt:1: '#' expected, not '0'"),
    (GOOD.replace("0.9", "x"), "batch_size: 1", "windows.txt:5: an overlap expected, not 'x'"),
    (GOOD[:-4], "batch_size: 1", "the file ends where a window's x2 is expected"),
]


@pytest.mark.parametrize("text, param, message", BAD)
def test_bad_input(make_source, tmp_path, text, param, message) -> None:
    if text is not None:
        (tmp_path / "windows.txt").write_text(text)
    with pytest.raises(CaffeError, match=f"layer 'd' .WindowData.: .*{message}"):
        make_source(WINDOWS.format("", param))


@pytest.mark.parametrize(
    "window, message",
    [("0 0 9 3", r"0.png: a window from \(0, 0\) to \(9, 3\) in an image of 9 x 9"), ("3 3 2 2", "a window from")],
)
def test_a_window_outside_of_its_image(write_windows, make_source, window, message) -> None:
    write_windows([np.zeros((9, 9, 3), np.uint8)], [[f"1 0.9 {window}"]])
    with pytest.raises(CaffeError, match=message):
        make_source(WINDOWS.format("", "batch_size: 1 fg_fraction: 1")).next_batch()


def test_a_missing_image(make_source, tmp_path) -> None:
    (tmp_path / "windows.txt").write_text(GOOD)
    with pytest.raises(CaffeError, match="Could not load 0.png: file not found"):
        make_source(WINDOWS.format("", "batch_size: 1 fg_fraction: 1")).next_batch()

"""VideoData: which frames of which clip, and what is done to them."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest

from pysolver.data.video_data import fixed_places
from pysolver.errors import CaffeError

HEIGHT, WIDTH, FRAMES = 10, 12, 9


def frame(video: int, number: int) -> np.ndarray:
    """Blue: the row and column; green: the frame; red: the video."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([rows * 16 + columns, np.full_like(rows, number), np.full_like(rows, video)], -1).astype(np.uint8)


@pytest.fixture
def folders(tmp_path):
    """Three folders of frames, 000000.jpg and on, without loss; c3d.txt."""
    for video in range(3):
        (tmp_path / f"v{video}").mkdir()
        for number in range(FRAMES):
            file = cv2.imencode(".png", frame(video, number))[1].tobytes()
            (tmp_path / f"v{video}" / f"{number:06d}.jpg").write_bytes(file)
    (tmp_path / "c3d.txt").write_text("v0 1 10\nv1 3 11\nv2 0 12\n")
    (tmp_path / "counts.txt").write_text("".join(f"v{i} {FRAMES - 1} {i}\n" for i in range(3)))
    return tmp_path


C3D = """name: "d" type: "VideoData" top: "data" top: "label"
    video_data_param {{ source: "{}" batch_size: 2 new_length: {} use_image: true {} }} {}"""


def test_clips_in_order(folders, make_source):
    source = make_source(C3D.format("c3d.txt", 3, "sampling_rate: 2", "transform_param { mean_value: 1 scale: 0.5 }"))
    assert source.top_shapes() == [(2, 3, 3, HEIGHT, WIDTH), (2,)]
    starts = {0: 1, 1: 3, 2: 0}
    for batch in range(3):
        data, label = source.next_batch()
        for item in range(2):
            video = (2 * batch + item) % 3
            assert label[item] == 10 + video
            expected = np.stack([frame(video, starts[video] + 2 * i) for i in range(3)]).transpose(3, 0, 1, 2)
            np.testing.assert_array_equal(data[item], (expected - 1.0) / 2)


def test_a_crop_is_the_same_in_all_frames(folders, make_source):
    text = "transform_param { crop_size: 6 mirror: true }"
    source = make_source(C3D.format("c3d.txt", 3, "shuffle: true", text))
    seen = set()
    for _ in range(20):
        data, _ = source.next_batch()
        assert data.shape == (2, 3, 3, 6, 6)
        for clip in data[:, 0]:
            assert (clip == clip[0]).all()
            seen.add((int(clip.min()), bool(clip[0, 0, 0] > clip[0, 0, 1])))
    assert {corner % 16 for corner, _ in seen} <= set(range(7)) and {corner // 16 for corner, _ in seen} <= set(
        range(5)
    )
    assert len(seen) > 15  # of 35 places, mirrored or not, in 40 draws


def test_from_a_random_frame_on(folders, make_source):
    """The number is how many frames there are, counted from 1; a test starts at frame 0."""
    text = C3D.format("counts.txt", 3, "use_temporal_jitter: true sampling_rate: 2", "")
    source = make_source(text)
    starts = {int(clip[1, 0, 0, 0]) for _ in range(20) for clip in source.next_batch()[0]}
    assert starts == {1, 2, 3}  # 3 frames, 2 apart, of 8: the last start in C3D is 8 - 6 + 1
    assert make_source(text, "TEST").next_batch()[0][0, 1, :, 0, 0].tolist() == [0, 2, 4]
    with pytest.raises(CaffeError, match="does not have enough frames; having 8, not 10"):
        make_source(C3D.format("counts.txt", 5, "use_temporal_jitter: true sampling_rate: 2", ""))


def test_several_labels(folders, make_source):
    (folders / "many.txt").write_text("v0 1 0,3\nv1 1 2\n")
    source = make_source(C3D.format("many.txt", 2, "use_multiple_label: true num_of_labels: 4", ""))
    assert source.next_batch()[1].tolist() == [[1, 0, 0, 1], [0, 0, 1, 0]]


def c3d_mean(values: np.ndarray) -> bytes:
    """A blob as C3D 1.0 writes it: num, channels, length, height, width are fields 1 to 5, the values field 6."""
    axes = b"".join(bytes([number << 3, size]) for number, size in enumerate(values.shape, 1))
    packed = values.astype("<f4").tobytes()
    size, length = len(packed), b""
    while size:
        length, size = length + bytes([size & 127 | (128 if size > 127 else 0)]), size >> 7
    return axes + bytes([6 << 3 | 2]) + length + packed


def test_fields_of_c3d_1_0(folders, make_source):
    mean = np.random.default_rng(0).normal(size=(1, 3, 2, HEIGHT, WIDTH)).astype(np.float32)
    (folders / "mean.binaryproto").write_bytes(c3d_mean(mean))
    assert struct.unpack("<f", (folders / "mean.binaryproto").read_bytes()[-4:])[0] == mean[0, -1, -1, -1, -1]
    text = """name: "d" type: "VideoData" top: "data" top: "label" image_data_param { source: "c3d.txt" batch_size: 2
              use_image: true new_length: 2 mean_file: "mean.binaryproto" crop_size: 4 show_data: 0 }"""
    data, label = make_source(text, "TEST").next_batch()
    assert label.shape == (2, 1, 1, 1, 1) and label.flatten().tolist() == [10, 11]
    clip = np.stack([frame(1, 3), frame(1, 4)]).transpose(3, 0, 1, 2) - mean[0]
    np.testing.assert_allclose(data[1], clip[:, :, 3:7, 4:8], rtol=1e-6)


@pytest.mark.parametrize("jitter", [False, True])
def test_video_files(jitter, tmp_path, make_source):
    video = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, (32, 16))
    for number in range(20):
        video.write(np.full((16, 32, 3), number * 10, np.uint8))
    video.release()
    (tmp_path / "videos.txt").write_text("v.avi 7\n" if jitter else "v.avi 4 7\n")
    text = f"""name: "d" type: "VideoData" top: "data" top: "label"
               video_data_param {{ source: "videos.txt" new_length: 3 sampling_rate: 3 new_height: 8 new_width: 8
                                   use_temporal_jitter: {str(jitter).lower()} }}"""
    source = make_source(text)
    found = np.array([source.next_batch()[0][0, :, :, 4, 4].mean(0).tolist() for _ in range(10)]) / 10
    np.testing.assert_allclose(found - found.round(), 0, atol=0.25)  # JPEG
    np.testing.assert_array_equal(np.diff(found.round(), axis=1), 3)
    starts = set(found[:, 0].round())
    assert starts == {4} if not jitter else len(starts) > 3 and starts <= set(range(12))


@pytest.fixture
def segments(tmp_path):
    for number in range(1, 11):
        for name, value in (("image", 0), ("flow_x", 100), ("flow_y", 200)):
            image = np.full((HEIGHT, WIDTH, 3), value + number, np.uint8)
            image[:, 0] = 0
            (tmp_path / f"{name}_{number:04d}.jpg").write_bytes(cv2.imencode(".png", image)[1].tobytes())
    (tmp_path / "tsn.txt").write_text(f"{tmp_path} 10 5\n")
    return tmp_path


TSN = """name: "d" type: "VideoData" top: "data" top: "label"
    video_data_param {{ source: "tsn.txt" batch_size: 1 {} }} {}"""


def test_snippets_of_the_middle(segments, make_source):
    """Three parts of 3 frames; of 2 in a row, the middle of each part is its second frame."""
    source = make_source(TSN.format("num_segments: 3 modality: FLOW new_length: 2", ""), "TEST")
    data, label = source.next_batch()
    assert data.shape == (1, 12, HEIGHT, WIDTH) and label.shape == (1, 1, 1, 1) and label == 5
    frames = [2, 3, 5, 6, 8, 9]
    assert data[0, :, 4, 4].tolist() == [base + f for f in frames for base in (100, 200)]
    source = make_source(TSN.format("num_segments: 4 modality: RGB", ""), "TEST")
    assert source.next_batch()[0][0, ::3, 4, 4].tolist() == [2, 4, 6, 8]
    source = make_source(TSN.format("num_segments: 5 modality: RGB new_length: 3", ""), "TEST")
    assert source.next_batch()[0][0, ::3, 4, 4].tolist() == [1, 2, 3] * 5  # parts of 2 are too short


def test_snippets_at_random(segments, make_source):
    source = make_source(TSN.format("num_segments: 2 modality: RGB new_length: 3", ""))
    found = np.array([source.next_batch()[0][0, ::3, 4, 4].tolist() for _ in range(40)]).reshape(-1, 3)
    np.testing.assert_array_equal(found, found[:, :1] + np.arange(3))
    assert set(found[::2, 0]) == {1, 2, 3} and set(found[1::2, 0]) == {6, 7, 8}


def test_mirrored_flow_turns_around(segments, make_source):
    text = "transform_param { mirror: true is_flow: true mean_value: 1 mean_value: 2 }"
    source = make_source(TSN.format("modality: FLOW new_length: 2 num_segments: 1", text))
    seen = set()
    for _ in range(20):
        data = source.next_batch()[0][0]
        is_mirrored = bool(data[1, 0, -1] < 0)  # the column of zeros
        seen.add(is_mirrored)
        x, y = data[0, 4, 4] + 1, data[1, 4, 4] + 2
        assert (255 - x if is_mirrored else x) - 100 == y - 200 == data[3, 4, 4] + 2 - 201
    assert seen == {True, False}


def test_crops_of_tsn(segments, make_source):
    """From 10 x 12 to 8: the sides are 10, 8 (8.75 is within 2), 7 -> 8 and 6 -> 8 of the shorter one."""
    text = "transform_param { crop_size: 8 multi_scale: true fix_crop: true more_fix_crop: true max_distort: 1 }"
    source = make_source(TSN.format("modality: RGB", text))
    assert source.crop_sizes(10, 12) == [(8, 8)] * 10
    assert source.crop_sizes(100, 90)[:4] == [(90, 90), (90, 78), (78, 90), (78, 78)]
    assert source.next_batch()[0].shape == (1, 3, 8, 8)
    large = make_source(TSN.format("modality: RGB", text.replace("crop_size: 8", "crop_size: 4")))
    assert large.next_batch()[0].shape == (1, 3, 4, 4)
    assert fixed_places(9, 5, False) == [(0, 0), (0, 4), (8, 0), (8, 4), (4, 2)]
    assert fixed_places(9, 5, True)[5:] == [(0, 2), (8, 2), (4, 0), (4, 4), (2, 1), (2, 3), (6, 1), (6, 3)]


@pytest.mark.parametrize(
    "text, words",
    [
        ("video_data_param { video_type: WEBCAM }", "a webcam or a single video"),
        ('video_data_param { source: "c3d.txt" }', "new_length need to be positive"),
        ('video_data_param { source: "c3d.txt" new_length: 2 new_height: 3 }', "must be set at the same time"),
        ('video_data_param { source: "words.txt" new_length: 2 }', "needs lines of 3 words, the file has 4 words"),
        ('video_data_param { source: "far.txt" new_length: 2 use_image: true }', "far.txt: v0 8: Could not load"),
        ('video_data_param { source: "far.txt" new_length: 2 }', "there is no such file"),
        (
            'video_data_param { source: "c3d.txt" new_length: 2 use_image: true } transform_param { crop_size: 11 }',
            "the crop is larger than the frames by 1 pixels",
        ),
        ('video_data_param { source: "c3d.txt" new_length: 2 } transform_param { is_flow: true }', "is_flow is read"),
    ],
)
def test_errors(text, words, folders, make_source):
    (folders / "words.txt").write_text("v0 1 2\nv1")
    (folders / "far.txt").write_text("v0 8 1\n")
    with pytest.raises(CaffeError, match=words):
        make_source(f'name: "d" type: "VideoData" top: "data" top: "label" {text}')


@pytest.mark.parametrize(
    "line, error",
    [
        ("v0 -3 1", "v0 begins at frame -3"),
        (f"v0 {10**30} 1", "is not in the range of an int: needs lines"),
        (f"v0 1 {10**400}", "is not in the range of an int: needs lines"),
        ("v0 1 x", "invalid literal for int.* 'x': needs lines"),
    ],
)
def test_numbers_that_no_clip_has(line, error, folders, make_source):
    (folders / "list.txt").write_text(line)
    with pytest.raises(CaffeError, match=rf"layer 'd' \(VideoData\): list.txt: .*{error}"):
        make_source(C3D.format("list.txt", 3, "use_temporal_jitter: true", ""))


def test_a_playlist_is_no_video(folders, make_source):
    """OpenCV's decoder would follow it to other files of the user's."""
    (folders / "list.txt").write_text("list.avi 0 1\n")
    for text in ("ffconcat version 1.0\nfile other.avi\n", "#EXTM3U\n#EXTINF:1,\nother.avi\n"):
        (folders / "list.avi").write_text(text)
        with pytest.raises(CaffeError, match="list.avi is no video; this is a text, as playlists are"):
            make_source(C3D.format("list.txt", 3, "", "").replace("use_image: true", "use_image: false"))


@pytest.mark.parametrize("pattern", ["%999999999d.jpg", "%-0999999999d", "%.999999999d"])
def test_a_name_as_long_as_the_memory(pattern, folders, make_source):
    with pytest.raises(CaffeError, match="has a width of more than 2 digits"):
        make_source(C3D.format("counts.txt", 1, f'num_segments: 1 name_pattern: "{pattern}"', ""))

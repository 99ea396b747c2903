"""ImageData: lists, order, shuffling, and what is wrong with them."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest

from pysolver.data import images
from pysolver.data.image_lists import read_image_list
from pysolver.data.window_file import read_window_file
from pysolver.errors import CaffeError
from pysolver.logs import notices

IMAGES = (
    'name: "d" type: "ImageData" top: "data" top: "label" {} image_data_param {{ source: "list.txt" batch_size: {} }}'
)


@pytest.fixture
def write_images(tmp_path):
    """write_images(n): n images of 4 x 5 whose blue is their number, and list.txt with the number as label."""

    def write(count: int) -> None:
        for i in range(count):
            image = np.zeros((4, 5, 3), np.uint8)
            image[..., 0] = i
            cv2.imwrite(str(tmp_path / f"{i}.png"), image)
        (tmp_path / "list.txt").write_text("".join(f"{i}.png {i}\n" for i in range(count)))

    return write


def labels_of(source, batches: int) -> list[int]:
    found = []
    for _ in range(batches):
        data, label = source.next_batch()
        assert data[:, 0, 0, 0].tolist() == label.tolist()  # pixels and label belong together
        found += label.int().tolist()
    return found


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_the_list_in_order_divided_over_the_ranks(write_images, make_source, cache_bytes) -> None:
    write_images(5)
    for rank in range(2):
        source = make_source(IMAGES.format("", 3), cache_bytes=cache_bytes, rank=rank, world_size=2)
        assert labels_of(source, 4) == [image % 5 for image in range(rank, 24, 2)]


def test_ranks_divide_one_random_order(write_images, make_source) -> None:
    """Together they see each image once an epoch."""
    write_images(8)
    text = IMAGES.format("", "2 shuffle: true")
    ranks = [make_source(text, rank=rank, world_size=2, seed=3 + rank) for rank in range(2)]
    first, second = (np.array(labels_of(rank, 6)).reshape(3, 4) for rank in ranks)
    assert [sorted([*a, *b]) for a, b in zip(first.tolist(), second.tolist())] == [list(range(8))] * 3


def test_fewer_images_than_ranks(write_images, make_source) -> None:
    write_images(2)
    with pytest.raises(CaffeError, match="2 records for 3 processes: each needs one of its own"):
        make_source(IMAGES.format("", 3), world_size=3)


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_shuffling_takes_each_image_once_an_epoch(write_images, make_source, cache_bytes) -> None:
    write_images(7)
    source = make_source(IMAGES.format("", "3 shuffle: true"), cache_bytes=cache_bytes)
    epochs = np.array(labels_of(source, 14)).reshape(6, 7)
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 6
    again = make_source(IMAGES.format("", "3 shuffle: true"))
    assert labels_of(again, 14) == epochs.ravel().tolist()
    assert labels_of(make_source(IMAGES.format("", "3 shuffle: true"), seed=2), 14) != epochs.ravel().tolist()


def test_rand_skip_only_moves_the_start(write_images, make_source) -> None:
    write_images(6)
    starts = set()
    for seed in range(40):
        first, *rest = labels_of(make_source(IMAGES.format("", "4 rand_skip: 4"), seed=seed), 2)
        assert rest == [(first + i) % 6 for i in range(1, 8)]
        starts.add(first)
    assert starts == {0, 1, 2, 3}


def test_the_shape_at_first_is_that_of_the_first_batch(tmp_path, make_source) -> None:
    """Whichever image that is, after shuffling and skipping (DataLayerSetUp)."""
    for i in range(6):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.zeros((2 + i, 3, 3), np.uint8))
    (tmp_path / "list.txt").write_text("".join(f"{i}.png {i}\n" for i in range(6)))
    heights = set()
    for seed in range(12):
        source = make_source(IMAGES.format("", "1 shuffle: true rand_skip: 3"), seed=seed)
        assert source.top_shapes()[0] == tuple(source.next_batch()[0].shape)
        heights.add(source.top_shapes()[0][2])
    assert len(heights) > 3


def test_a_resumed_stream_is_the_undisturbed_one(write_images, make_source) -> None:
    write_images(7)
    text = IMAGES.format("transform_param { crop_size: 2 mirror: true }", "3 shuffle: true rand_skip: 5")
    source = make_source(text, seed=None)
    for _ in range(4):
        source.next_batch()
    state = source.state()
    wanted = [[top.clone() for top in source.next_batch()] for _ in range(6)]
    resumed = make_source(text, seed=None)
    resumed.next_batch()
    resumed.load_state(state)
    for batch in wanted:
        assert all(top.equal(again) for top, again in zip(batch, resumed.next_batch()))


def test_the_log(write_images, make_source, capfd) -> None:
    write_images(5)
    make_source(IMAGES.format("", "3 shuffle: true rand_skip: 1"))
    lines = [line.split("] ", 1)[1] for line in capfd.readouterr().err.splitlines()]
    assert lines[1:] == [
        "Opening file list.txt",
        "Shuffling data",
        "A total of 5 images.",
        "Skipping first 0 data points.",
        "output data size: 3,3,4,5",
    ]


def test_lines_are_split_at_the_last_blank(tmp_path) -> None:
    (tmp_path / "l").write_text("a b.png 3\nc.png  12x\nd.png x\nalone\ne.png -4")
    found = read_image_list(tmp_path / "l")
    assert found == [("a b.png", 3), ("c.png ", 12), ("d.png", 0), ("alone", 0), ("e.png", -4)]


def test_lines_without_a_label_are_told_once(tmp_path) -> None:
    told: list = []
    (tmp_path / "l").write_text("a.png 3\nb.png\nc.png cat\nd.png,1\ne.png\t1\nf.png 2.0\ng.png -4")
    path = str(tmp_path / "l")
    read_image_list(path, told.append)
    assert told == [notices.OddLabels(path, 2, "b.png", 4)]


def test_a_list_of_windows(tmp_path) -> None:
    (tmp_path / "l").write_bytes(b"\xef\xbb\xbfa.png 1\r\nb.png 2\r\n")
    assert read_image_list(tmp_path / "l") == [("a.png", 1), ("b.png", 2)]


# ---- bad input -------------------------------------------------------------------------------------------------


BAD = [
    ("batch_size: 2", 'source: "nowhere"', "layer 'd' .ImageData.: nowhere: file not found"),
    ("batch_size: 2", 'source: "empty.txt"', "empty.txt: File is empty"),
    ("batch_size: 0", 'source: "list.txt"', "batch_size must be positive"),
    ("new_height: 3", 'source: "list.txt"', "new_height and new_width must be set at the same time"),
    ("rand_skip: 1000", 'source: "list.txt"', "Not enough points to skip"),
    ("batch_size: 2", 'source: "missing.txt"', "missing.txt:1: Could not load nothing.png: file not found"),
    ("batch_size: 2", 'source: "notimage.txt"', "notimage.txt:1: Could not load list.txt: not an image that OpenCV"),
    ("batch_size: 2", 'source: "short.txt"', "short.txt:1: Could not load short.jpg: the JPEG is cut short"),
    ("batch_size: 2", 'source: "short_png.txt"', "short_png.txt:1: Could not load short.png: "),
    ("batch_size: 2", "", "image_data_param.source is missing"),
]


@pytest.mark.parametrize("field, source, message", BAD)
def test_bad_input(write_images, make_source, tmp_path, field, source, message) -> None:
    write_images(3)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for kind in ("jpg", "png"):
        file = cv2.imencode(f".{kind}", noise)[1].tobytes()
        (tmp_path / f"short.{kind}").write_bytes(file[: len(file) * 2 // 3])
    for name, line in {"empty": "", "missing": "nothing.png 0\n", "notimage": "list.txt 0\n", "short": "short.jpg 0\n",
                       "short_png": "short.png 0\n"}.items():  # fmt: skip
        (tmp_path / f"{name}.txt").write_text(line)
    with pytest.raises(CaffeError, match=message):
        make_source(f'name: "d" type: "ImageData" top: "data" top: "label" image_data_param {{ {field} {source} }}')


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_a_missing_image_is_named_with_its_line(write_images, make_source, tmp_path, cache_bytes) -> None:
    write_images(5)
    (tmp_path / "3.png").unlink()
    source = make_source(IMAGES.format("", 2), cache_bytes=cache_bytes)
    assert labels_of(source, 1) == [0, 1]
    with pytest.raises(CaffeError, match=r"layer 'd' .ImageData.: list.txt:4: Could not load 3.png: file not found"):
        source.next_batch()


def test_images_of_other_sizes_need_resizing_or_a_crop(write_images, make_source, tmp_path) -> None:
    write_images(3)
    cv2.imwrite(str(tmp_path / "1.png"), np.full((9, 9, 3), 1, np.uint8))
    with pytest.raises(CaffeError, match="list.txt:2: 1.png: an image of 3 x 9 x 9 in a batch that starts with"):
        make_source(IMAGES.format("", 3)).next_batch()
    resized = make_source(IMAGES.format("", "3 new_height: 6 new_width: 7"))
    assert resized.next_batch()[0].shape == (3, 3, 6, 7)
    cropped = make_source(IMAGES.format("transform_param { crop_size: 4 }", 3))
    assert cropped.next_batch()[0].shape == (3, 3, 4, 4)


def png_header(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims this size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_an_image_that_claims_gigabytes_is_refused_by_its_header(tmp_path) -> None:
    """In a process of its own: OpenCV takes its limit when it is loaded, here by pysolver."""
    (tmp_path / "large.png").write_bytes(png_header(24000, 24000))
    code = (
        "import resource; from pysolver.data import images\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: images.read('large.png', images.Colour.COLOR)\n"
        "except Exception as error: print(type(error).__name__, error)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    error, megabytes = done.stdout.splitlines()
    assert "CaffeError Could not load large.png: by its header the image has more than 67108864 pixels" in error
    assert int(megabytes) < 200  # OpenCV itself; the pixels would be 1700


def test_a_resize_to_gigabytes_is_refused(write_images, make_source) -> None:
    write_images(1)
    with pytest.raises(CaffeError, match="list.txt:1: .*cannot be resized to 4000000000 x 4000000000"):
        make_source(IMAGES.format("", "1 new_height: 4000000000 new_width: 4000000000"))


def test_a_png_with_a_chunk_that_it_has_not(write_images, tmp_path) -> None:
    """OpenCV took 2 GB for it."""
    write_images(1)
    file = bytearray((tmp_path / "0.png").read_bytes())
    at = file.find(b"IDAT")
    file[at - 4 : at] = (0x7FFE017F).to_bytes(4, "big")
    with pytest.raises(CaffeError, match="the PNG is cut short"):
        images.decode(bytes(file), images.Colour.COLOR)


@pytest.mark.parametrize("label", ["2147483648", "-2147483649", "9" * 5000])
def test_a_label_that_is_no_int(tmp_path, label) -> None:
    (tmp_path / "list.txt").write_text(f"a.png 2147483647\nb.png {label}\n")
    with pytest.raises(CaffeError, match=f"list.txt:2: the label {label[:20]} is not in the range"):
        read_image_list(tmp_path / "list.txt")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("reader", [read_image_list, images.load, read_window_file])
def test_a_device_that_never_ends_is_no_list(reader, monkeypatch) -> None:
    monkeypatch.setattr("pysolver.files.LARGEST_LIST", 1 << 16)
    monkeypatch.setattr("pysolver.data.images.LARGEST_FILE", 1 << 16)
    with pytest.raises(CaffeError, match="/dev/zero: larger than 65536 bytes, the most that is read"):
        reader("/dev/zero")


@pytest.mark.timeout(30)  # was quadratic: minutes
def test_digits_in_the_midst_of_a_line(tmp_path) -> None:
    (tmp_path / "list.txt").write_text("a " + "1" * 300_000 + " x\nb 2\n")
    told = []
    lines = read_image_list(tmp_path / "list.txt", told.append)
    assert lines[1] == ("b", 2) and lines[0][1] == 0 and len(told) == 1


def test_a_jpeg_of_thousands_of_scans() -> None:
    """33 bytes each, and each goes over all pixels: 100 KB kept OpenCV busy for half a minute."""
    whole = cv2.imencode(".jpg", np.zeros((64, 64), np.uint8), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    assert images.decode(whole, images.Colour.GRAY).shape == (1, 64, 64)
    scan = whole[whole.rfind(b"\xff\xda") : -2]
    with pytest.raises(CaffeError, match="a JPEG of 3006 scans: it could take minutes"):
        images.decode(whole[:-2] + scan * 3000 + b"\xff\xd9", images.Colour.GRAY)

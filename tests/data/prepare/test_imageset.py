"""convert_imageset, compute_image_mean, the imagenet preparation."""

from __future__ import annotations

import cv2
import lmdb
import numpy as np
import plyvel
import pytest

from pysolver.data.prepare import prepare
from pysolver.data.prepare.imageset import convert_imageset
from pysolver.data.prepare.mean import compute_image_mean
from pysolver.errors import CaffeError
from pysolver.proto import caffe_pb2

from ..conftest import GOLDEN


def records(path) -> dict[bytes, caffe_pb2.Datum]:
    with lmdb.open(str(path), readonly=True, lock=False) as environment, environment.begin() as transaction:
        return {key: caffe_pb2.Datum.FromString(value) for key, value in transaction.cursor()}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """in/a.png, in/b c.png (grey), in/d.jpg and list.txt."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(0)
    cv2.imwrite("in/a.png", rng.integers(0, 256, (6, 8, 3), np.uint8))
    cv2.imwrite("in/b c.png", rng.integers(0, 256, (6, 8), np.uint8))
    cv2.imwrite("in/d.jpg", rng.integers(0, 256, (6, 8, 3), np.uint8))
    (tmp_path / "list.txt").write_text("a.png 3\nb c.png 1\nd.jpg 2\n")
    return tmp_path


def test_raw_records(folder, capfd) -> None:
    assert convert_imageset("in/", "list.txt", "db") == 3
    found = records("db")
    assert list(found) == [b"00000000_a.png", b"00000001_b c.png", b"00000002_d.jpg"]
    assert [record.label for record in found.values()] == [3, 1, 2]
    for record, name in zip(found.values(), ("a.png", "b c.png", "d.jpg")):
        assert (record.channels, record.height, record.width, record.encoded) == (3, 6, 8, False)
        assert record.data == cv2.imread(f"in/{name}").transpose(2, 0, 1).tobytes()
    log = capfd.readouterr().err
    assert "A total of 3 images." in log
    assert "Processed 3 files." in log


def test_resizing_and_grey(folder) -> None:
    convert_imageset("in/", "list.txt", "db", gray=True, resize_width=5, resize_height=4)
    record = records("db")[b"00000000_a.png"]
    assert (record.channels, record.height, record.width) == (1, 4, 5)
    assert record.data == cv2.resize(cv2.imread("in/a.png", cv2.IMREAD_GRAYSCALE), (5, 4)).tobytes()
    convert_imageset("in/", "list.txt", "half", resize_width=5)  # one size alone does nothing
    assert records("half")[b"00000000_a.png"].width == 8


def test_encoded_records(folder) -> None:
    convert_imageset("in/", "list.txt", "db", encoded=True)
    found = records("db")
    assert all(record.encoded and not record.HasField("channels") for record in found.values())
    assert found[b"00000000_a.png"].data == (folder / "in" / "a.png").read_bytes()
    assert found[b"00000002_d.jpg"].data == (folder / "in" / "d.jpg").read_bytes()
    grey = found[b"00000001_b c.png"].data  # another colour mode: encoded anew
    assert grey != (folder / "in" / "b c.png").read_bytes()
    decoded = cv2.imdecode(np.frombuffer(grey, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(decoded, cv2.imread("in/b c.png"))
    convert_imageset("in/", "list.txt", "png", encode_type="png", resize_width=5, resize_height=4)
    data = records("png")[b"00000002_d.jpg"].data
    assert data.startswith(b"\x89PNG")
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(decoded, cv2.resize(cv2.imread("in/d.jpg"), (5, 4)))


def test_unreadable_images_are_left_out_with_their_number(folder, capfd) -> None:
    (folder / "in" / "b c.png").write_bytes(b"no image")
    assert convert_imageset("in/", "list.txt", "db") == 2
    assert list(records("db")) == [b"00000000_a.png", b"00000002_d.jpg"]
    assert "io.cpp:80] Could not load in/b c.png: not an image" in capfd.readouterr().err


def test_shuffling_and_leveldb(folder) -> None:
    (folder / "list.txt").write_text("".join(f"a.png {i}\n" for i in range(50)))
    convert_imageset("in/", "list.txt", "db", shuffle=True, backend="leveldb", seed=1)
    database = plyvel.DB("db")
    found = list(database)
    database.close()
    assert [key for key, _ in found] == [b"%08d_a.png" % i for i in range(50)]
    labels = [caffe_pb2.Datum.FromString(value).label for _, value in found]
    assert sorted(labels) == list(range(50)) != labels


def test_bad_input(folder) -> None:
    (folder / "in" / "a.png").unlink()
    cv2.imwrite("in/a.png", np.zeros((5, 5, 3), np.uint8))
    cases = [
        ({"check_size": True}, "list.txt", "in/b c.png: Incorrect data field size 144, not 75"),
        ({}, "nowhere", "nowhere: file not found"),
        ({"backend": "x"}, "list.txt", "Unknown database backend 'x'"),
        ({"encode_type": "nonsense"}, "list.txt", "not one of 3 images could be read"),
    ]
    for flags, listed, message in cases:
        with pytest.raises(CaffeError, match=message):
            convert_imageset("in/", listed, "db", **flags)
        assert not list(folder.glob("*db*"))
    (folder / "db").mkdir()
    with pytest.raises(CaffeError, match="db: exists already"):
        convert_imageset("in/", "list.txt", "db")


def test_the_mean_is_that_of_sums_in_float32(tmp_path, monkeypatch, capfd) -> None:
    """Bit for bit what Caffe's way of adding up gives; over a database of PNGs."""
    monkeypatch.chdir(GOLDEN)
    images = []
    with lmdb.open("encoded_png_lmdb", readonly=True, lock=False) as environment, environment.begin() as transaction:
        for _, value in transaction.cursor():
            data = np.frombuffer(caffe_pb2.Datum.FromString(value).data, np.uint8)
            images.append(cv2.imdecode(data, cv2.IMREAD_UNCHANGED).transpose(2, 0, 1))
    mean = compute_image_mean("encoded_png_lmdb", tmp_path / "mean")
    np.testing.assert_array_equal(mean, (np.sum(images, axis=0, dtype=np.float32) / len(images)).astype(np.float32))
    blob = caffe_pb2.BlobProto.FromString((tmp_path / "mean").read_bytes())
    assert (blob.num, blob.channels, blob.height, blob.width) == (1, *mean.shape)
    assert list(blob.data) == mean.ravel().tolist()
    log = capfd.readouterr().err
    assert "Number of channels: 3" in log
    assert f"mean_value channel [2]: {mean[2].mean():g}" in log


def test_means_of_floats_and_of_leveldbs(monkeypatch) -> None:
    monkeypatch.chdir(GOLDEN)
    assert compute_image_mean("float_datum_lmdb").dtype == np.float32
    assert compute_image_mean("color_leveldb", backend="leveldb").shape[0] == 3


def test_a_mean_needs_images_of_one_size(folder) -> None:
    cv2.imwrite("in/d.jpg", np.zeros((7, 8, 3), np.uint8))
    convert_imageset("in/", "list.txt", "db")
    with pytest.raises(CaffeError, match=r"db: record '00000002_d.jpg': an image of \(3, 7, 8\), the first has"):
        compute_image_mean("db", "mean")
    assert not (folder / "mean").exists()


def test_imagenet_from_class_folders(tmp_path) -> None:
    rng = np.random.default_rng(0)
    colours = {"n02": 40, "n01": 200}
    for part, count in (("train", 4), ("val", 2)):
        for name, colour in colours.items():
            (tmp_path / "in" / part / name).mkdir(parents=True)
            for i in range(count):
                image = np.full(rng.integers(20, 60, 2).tolist() + [3], colour, np.uint8)
                cv2.imwrite(str(tmp_path / "in" / part / name / f"{i}.JPEG"), image)
    train, test, mean = prepare("imagenet", tmp_path / "out", tmp_path / "in")
    for path, count in ((train, 8), (test, 4)):
        found = records(path)
        assert len(found) == count
        for key, record in found.items():
            image = cv2.imdecode(np.frombuffer(record.data, np.uint8), cv2.IMREAD_UNCHANGED)
            assert image.shape == (256, 256, 3)
            name = key.decode().split("_", 1)[1].split("/")[0]
            assert record.label == sorted(colours).index(name)
            assert abs(image.mean() - colours[name]) < 2
    blob = caffe_pb2.BlobProto.FromString(mean.read_bytes())
    assert abs(np.mean(blob.data) - 120) < 2
    assert len(list((tmp_path / "out").iterdir())) == 3
    (tmp_path / "in" / "val" / "n03").mkdir()
    with pytest.raises(CaffeError, match="val: classes that .*train lacks: n03"):
        prepare("imagenet", tmp_path / "out", tmp_path / "in", force=True)

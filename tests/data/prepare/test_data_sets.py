"""`pysolver data`: what the databases hold, and what is refused."""

from __future__ import annotations

import gzip
import io
import pickle
import re
import tarfile
from pathlib import Path

import lmdb
import numpy as np
import pytest

from pysolver.data.prepare import NAMES, prepare
from pysolver.errors import CaffeError
from pysolver.proto import caffe_pb2


def read_back(path: Path) -> tuple[list[bytes], np.ndarray, np.ndarray]:
    """Keys, images, labels."""
    with lmdb.open(str(path), readonly=True, lock=False) as environment, environment.begin() as transaction:
        keys, values = zip(*transaction.cursor())
    records = [caffe_pb2.Datum.FromString(value) for value in values]
    shape = (records[0].channels, records[0].height, records[0].width)
    images = np.stack([np.frombuffer(record.data, np.uint8).reshape(shape) for record in records])
    return list(keys), images, np.array([record.label for record in records])


def read_mean(path: Path) -> tuple[tuple[int, ...], np.ndarray]:
    blob = caffe_pb2.BlobProto.FromString(path.read_bytes())
    return (blob.num, blob.channels, blob.height, blob.width), np.array(blob.data)


def test_digits_are_those_of_scikit_learn(tmp_path) -> None:
    from sklearn.datasets import load_digits

    train, test, mean = prepare("digits", tmp_path)
    assert [path.name for path in (train, test, mean)] == [
        "digits_train_lmdb",
        "digits_test_lmdb",
        "digits_mean.binaryproto",
    ]
    keys, images, labels = read_back(train)
    _, test_images, test_labels = read_back(test)
    assert keys[:2] == [b"00000000", b"00000001"]
    assert (len(images), len(test_images)) == (1497, 300)
    ink, wanted_labels = load_digits(return_X_y=True)
    wanted = np.floor(ink * 255 / 16 + 0.5).astype(int)
    everything = np.concatenate([images, test_images]).reshape(-1, 64), np.concatenate([labels, test_labels])
    order, wanted_order = np.lexsort(np.c_[everything].T), np.lexsort(np.c_[wanted, wanted_labels].T)
    np.testing.assert_array_equal(everything[0][order], wanted[wanted_order])
    np.testing.assert_array_equal(everything[1][order], wanted_labels[wanted_order])
    assert np.bincount(test_labels).min() >= 20  # shuffled: every class is in both
    assert len(set(labels[:30])) >= 8
    shape, values = read_mean(mean)
    assert shape == (1, 1, 8, 8)
    np.testing.assert_allclose(values, images.mean(axis=0).ravel(), rtol=1e-6)


def test_preparing_again_gives_the_same_bytes_and_needs_force(tmp_path) -> None:
    train, *_ = prepare("digits", tmp_path)
    first = read_back(train)
    with pytest.raises(CaffeError, match="digits_train_lmdb, .*exists already .--force replaces it"):
        prepare("digits", tmp_path)
    (train / "data.mdb").write_bytes(b"old")
    prepare("digits", tmp_path, force=True)
    for one, other in zip(first, read_back(train)):
        np.testing.assert_array_equal(one, other)
    assert len(list(tmp_path.iterdir())) == 3


# ---- MNIST -------------------------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture
def idx_folder(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path / "idx"
    folder.mkdir()
    for part, count in (("train", 7), ("t10k", 3)):
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(rng.integers(0, 256, (count, 4, 5)))))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(rng.integers(0, 10, count))))
    return folder


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
@pytest.mark.parametrize("packed", [True, False])
def test_idx_files(idx_folder, tmp_path, name, packed) -> None:
    originals = {path.name: gzip.decompress(path.read_bytes()) for path in idx_folder.iterdir()}
    if not packed:
        for path in list(idx_folder.iterdir()):
            path.with_suffix("").write_bytes(originals[path.name])
            path.unlink()
    *databases, mean = prepare(name, tmp_path / "out", idx_folder)
    for path, part, count in zip(databases, ("train", "t10k"), (7, 3)):
        keys, images, labels = read_back(path)
        assert keys == [b"%08d" % i for i in range(count)]
        assert images.shape == (count, 1, 4, 5)
        assert images.tobytes() == originals[f"{part}-images-idx3-ubyte.gz"][16:]
        assert labels.astype(np.uint8).tobytes() == originals[f"{part}-labels-idx1-ubyte.gz"][8:]
    np.testing.assert_allclose(read_mean(mean)[1], read_back(databases[0])[1].mean(axis=0).ravel(), rtol=1e-6)


LABELS = "t10k-labels-idx1-ubyte.gz"
DAMAGE = {
    "missing": (None, f"idx: {LABELS} is missing"),
    "another length": (gzip.compress(idx(np.zeros(4))), "4 labels for the 3 images"),
    "not gzip": (b"text", "cannot be read"),
    "cut short": (gzip.compress(idx(np.arange(3)))[:-9], "cannot be read"),
    "header says more": (gzip.compress(idx(np.zeros(3))[:-1]), "2 bytes of data, the header says 3"),
    "another kind": (gzip.compress(idx(np.zeros((3, 1)))), "not an IDX file of bytes with 1 axes"),
    "empty": (gzip.compress(b""), "not an IDX file"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_idx_files_leave_nothing_behind(idx_folder, tmp_path, kind) -> None:
    content, message = DAMAGE[kind]
    (idx_folder / LABELS).unlink() if content is None else (idx_folder / LABELS).write_bytes(content)
    with pytest.raises(CaffeError, match=message):
        prepare("mnist", tmp_path / "out", idx_folder)
    assert not (tmp_path / "out").exists()


# ---- CIFAR -------------------------------------------------------------------------------------------------------


class Cifar:
    """A tiny CIFAR in all its forms."""

    def __init__(self, name: str) -> None:
        rng = np.random.default_rng(0)
        self.hundred = name == "cifar100"
        self.folder = {"cifar10": "cifar-10-batches-", "cifar100": "cifar-100-"}[name]
        self.files = ["train", "test"] if self.hundred else [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
        self.images = {file: rng.integers(0, 256, (2, 3072), np.uint8) for file in self.files}
        self.labels = {file: rng.integers(0, 10, 2, np.uint8) for file in self.files}

    def binary(self) -> dict[str, bytes]:
        coarse = [np.full(2, 77, np.uint8)] if self.hundred else []
        return {
            f"{file}.bin": np.column_stack([*coarse, self.labels[file], self.images[file]]).tobytes()
            for file in self.files
        }

    def python(self) -> dict[str, bytes]:
        key = b"fine_labels" if self.hundred else b"labels"
        return {
            file: pickle.dumps({b"data": self.images[file], key: self.labels[file].tolist(), b"x": [b"y"]}, protocol=3)
            for file in self.files
        }

    def write(self, folder: Path, form: str) -> None:
        folder.mkdir(parents=True)
        files = self.binary() if "binary" in form else self.python()
        word = ("binary" if self.hundred else "bin") if "binary" in form else ("python" if self.hundred else "py")
        inner = self.folder + word
        if form.endswith("archive"):
            base = "cifar-100-" if self.hundred else "cifar-10-"
            with tarfile.open(folder / f"{base}{form.split()[0]}.tar.gz", "w:gz") as archive:
                for name, content in files.items():
                    member = tarfile.TarInfo(f"{inner}/{name}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
            return
        place = folder / inner if form.endswith("folder") else folder
        place.mkdir(exist_ok=True)
        for name, content in files.items():
            (place / name).write_bytes(content)


@pytest.mark.parametrize("form", ["binary", "binary folder", "binary archive", "python", "python archive"])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_every_form_of_cifar(tmp_path, name, form) -> None:
    cifar = Cifar(name)
    cifar.write(tmp_path / "in", form)
    train, test, mean = prepare(name, tmp_path / "out", tmp_path / "in")
    for path, files in ((train, cifar.files[:-1]), (test, cifar.files[-1:])):
        keys, images, labels = read_back(path)
        assert keys == [b"%05d" % i for i in range(2 * len(files))]
        assert images.shape[1:] == (3, 32, 32)
        assert images.tobytes() == b"".join(cifar.images[file].tobytes() for file in files)
        assert labels.tolist() == np.concatenate([cifar.labels[file] for file in files]).tolist()
    assert read_mean(mean)[0] == (1, 3, 32, 32)


def python2_pickle(images: np.ndarray, labels: list[int]) -> bytes:
    """What Python 2 wrote: {"data": array, "labels": [...]} with byte strings, opcode by opcode."""
    rows, pixels = images.shape
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K" + bytes([rows]) + b"M" + pixels.to_bytes(2, "little") + b"\x86"
        b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89T" + images.size.to_bytes(4, "little") + images.tobytes() + b"tb"
    )
    return b"\x80\x02}(U\x04data" + array + b"U\x06labels](" + b"".join(b"K" + bytes([n]) for n in labels) + b"eu."


def test_cifar_as_python_2_wrote_it(tmp_path) -> None:
    cifar = Cifar("cifar10")
    (tmp_path / "in").mkdir()
    for file in cifar.files:
        content = python2_pickle(cifar.images[file], cifar.labels[file].tolist())
        (tmp_path / "in" / file).write_bytes(content)
    _, images, labels = read_back(prepare("cifar10", tmp_path / "out", tmp_path / "in")[1])
    assert images.tobytes() == cifar.images["test_batch"].tobytes()
    assert labels.tolist() == cifar.labels["test_batch"].tolist()


class Trap:
    def __reduce__(self):
        return (print, ("unpickled code ran",))


def dumped(data: object, labels: object = (1,)) -> bytes:
    return pickle.dumps({b"data": data, b"labels": list(labels)}, protocol=2 if isinstance(data, Trap) else 3)


ROW = np.zeros((1, 3072), np.uint8)
# The bytes of an array of objects are pointers: numpy.ndarray, allowed, reads memory wherever the file wants.
OBJECTS = (
    b"\x80\x02}(U\x04datacnumpy\nndarray\n(M\x00\x0c\x85U\x01OT\x00\x60\x00\x00"
    + b"A" * 0x6000
    + b"tRU\x06labels](K\x01eu."
)
BAD_CIFAR = {
    "code": dumped(Trap()),
    "code in numpy": dumped(np.array([Trap()], object)),
    "pointers": OBJECTS,
    "text": b"hello",
    "no labels": pickle.dumps({b"data": ROW}, protocol=3),
    "other lengths": dumped(ROW, [1, 2]),
    "other values": dumped(ROW, [1.5]),
    "another type": dumped(ROW.astype(np.int16)),
    "a class too many": dumped(ROW, [10]),
    "a place of four thousand million in the memo": dumped(ROW)[:2] + b"Nr\xff\xff\xff\xff" + dumped(ROW)[2:-1],
    "nested keys": b"\x80\x02})" + b"\x85" * 1_000_000 + b"K\x01s.",
    "lists in themselves": b"\x80\x02}U\x06labels]q\x00(h\x00h\x00es.",
}


@pytest.mark.parametrize("kind", BAD_CIFAR)
def test_a_pickle_can_do_nothing_but_hold_arrays(tmp_path, kind, capfd) -> None:
    Cifar("cifar10").write(tmp_path / "in", "python")
    (tmp_path / "in" / "data_batch_3").write_bytes(BAD_CIFAR[kind])
    with pytest.raises(CaffeError, match="the file data_batch_3 is damaged or of another data set"):
        prepare("cifar10", tmp_path / "out", tmp_path / "in")
    assert "unpickled" not in "".join(capfd.readouterr())
    assert not (tmp_path / "out").exists()


def test_incomplete_cifar(tmp_path) -> None:
    Cifar("cifar10").write(tmp_path / "in", "binary")
    file = tmp_path / "in" / "test_batch.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CaffeError, match="the file test_batch is damaged"):
        prepare("cifar10", tmp_path / "out", tmp_path / "in")
    file.unlink()
    with pytest.raises(CaffeError, match="in: neither cifar-10-binary.tar.gz nor data_batch_1.bin"):
        prepare("cifar10", tmp_path / "out", tmp_path / "in")
    (tmp_path / "in" / "cifar-10-binary.tar.gz").write_bytes(b"text")
    with pytest.raises(CaffeError, match="cifar-10-binary.tar.gz: not a complete archive"):
        prepare("cifar10", tmp_path / "out", tmp_path / "in")


# ---- all -----------------------------------------------------------------------------------------------------------


def test_what_cannot_be_prepared(tmp_path) -> None:
    for name, source, message in [
        ("nonsense", None, "unknown data set 'nonsense' .known: digits, mnist,"),
        ("mnist", tmp_path / "nowhere", "nowhere: no such folder"),
        ("digits", tmp_path, "the digits come with scikit-learn: leave out --from"),
        ("imagenet", None, "--from DIR is needed"),
        ("imagenet", tmp_path, "train: a folder with one folder of images a class is needed"),
    ]:
        with pytest.raises(CaffeError, match=message):
            prepare(name, tmp_path / "out", source)
    assert not (tmp_path / "out").exists()
    assert len(NAMES) == 7


def test_without_a_network_the_folder_is_recommended(tmp_path, monkeypatch) -> None:
    import requests

    def no_network(*_, **__):
        raise requests.ConnectionError("no route")

    monkeypatch.setattr(requests, "get", no_network)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / "cache")
    with pytest.raises(CaffeError, match="cifar-10-binary.tar.gz cannot be downloaded: no route. .*use --from DIR"):
        prepare("cifar10", tmp_path / "out")


def test_a_download_with_another_checksum_is_refused(tmp_path, monkeypatch) -> None:
    import pooch

    def other_file(url, output_file, *_, **__):
        Path(output_file).write_bytes(b"other bytes")

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", lambda self, *args, **kwargs: other_file(*args))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / "cache")
    with pytest.raises(CaffeError, match="train-images-idx3-ubyte.gz cannot be downloaded: .*hash"):
        prepare("mnist", tmp_path / "out")


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "cifar100"])
def test_downloads_come_over_https_with_a_sha256(tmp_path, monkeypatch, name) -> None:
    import pooch

    asked = []

    def fetch(store, file, **options):
        asked.append((store.base_url, store.registry[file]))
        raise OSError("enough")

    monkeypatch.setattr(pooch.Pooch, "fetch", fetch)
    with pytest.raises(CaffeError, match="enough"):
        prepare(name, tmp_path / "out")
    ((home, known),) = asked
    assert home.startswith("https://") and re.fullmatch("sha256:[0-9a-f]{64}", known)


def test_a_file_where_the_folder_should_be(tmp_path) -> None:
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(CaffeError, match="cannot be written: .*out is a file, where a folder is needed"):
        prepare("digits", tmp_path / "out")

"""CIFAR-10 and CIFAR-100, from the binary or the Python version (www.cs.toronto.edu/~kriz/cifar.html).

Colours stay in the order R, G, B of these files, as in Caffe's own conversion.
"""

from __future__ import annotations

import tarfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pysolver.data.prepare.archives import MOST, files_of, unpacked
from pysolver.data.prepare.cifar_pickle import NotABatch, read_batch
from pysolver.data.prepare.download import fetch
from pysolver.data.prepare.split import DataSet, Split
from pysolver.errors import CaffeError
from pysolver.files import read_bytes

_HOME = "https://www.cs.toronto.edu/~kriz/"
_PIXELS = 3 * 32 * 32


class _Kind(NamedTuple):
    """What tells the two sets apart."""

    binary_archive: str
    sha256: str  # of the binary archive
    python_archive: str
    folders: tuple[str, str]  # in the archives: binary, Python
    train: tuple[str, ...]  # file names of the Python version; the binary one adds .bin
    test: tuple[str, ...]
    label_bytes: int  # before each image of the binary version; the last of them is the class
    label_key: bytes  # of the class in the Python version
    classes: int

    @property
    def binary_names(self) -> list[str]:
        return [f"{name}.bin" for name in self.train + self.test]


_CIFAR10 = _Kind(
    binary_archive="cifar-10-binary.tar.gz",
    sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    python_archive="cifar-10-python.tar.gz",
    folders=("cifar-10-batches-bin", "cifar-10-batches-py"),
    train=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test=("test_batch",),
    label_bytes=1,
    label_key=b"labels",
    classes=10,
)
_CIFAR100 = _Kind(
    binary_archive="cifar-100-binary.tar.gz",
    sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    python_archive="cifar-100-python.tar.gz",
    folders=("cifar-100-binary", "cifar-100-python"),
    train=("train",),
    test=("test",),
    label_bytes=2,
    label_key=b"fine_labels",
    classes=100,
)


def load_cifar10(source_dir: Path | None) -> DataSet:
    """CIFAR-10 from the files or an archive of them in source_dir; else downloaded."""
    return _load(_CIFAR10, source_dir)


def load_cifar100(source_dir: Path | None) -> DataSet:
    """CIFAR-100 with its 100 fine classes, likewise."""
    return _load(_CIFAR100, source_dir)


def _load(kind: _Kind, source_dir: Path | None) -> DataSet:
    if source_dir is None:
        files = _read_archive(kind, fetch(_HOME + kind.binary_archive, kind.sha256))
    else:
        files = _read_folder(kind, Path(source_dir))
    train, test = ([_parse(kind, name, files) for name in names] for names in (kind.train, kind.test))
    return DataSet(_join(train), _join(test), key_digits=5)


def _join(parts: list[Split]) -> Split:
    return Split(np.concatenate([part.images for part in parts]), np.concatenate([part.labels for part in parts]))


# ---- the files, by name ----------------------------------------------------------------------------------


def _read_folder(kind: _Kind, folder: Path) -> dict[str, bytes]:
    for place in (folder, *(folder / name for name in kind.folders)):
        for names in (kind.binary_names, kind.train + kind.test):
            if all((place / name).is_file() for name in names):
                return {name: read_bytes(place / name, MOST) for name in names}
    for archive in (kind.binary_archive, kind.python_archive):
        if (folder / archive).is_file():
            return _read_archive(kind, folder / archive)
    raise CaffeError(f"{folder}: neither {kind.binary_archive} nor {', '.join(kind.binary_names)} (or the Python form)")


def _read_archive(kind: _Kind, path: Path) -> dict[str, bytes]:
    """The wanted members of an archive; nothing is unpacked to the disk."""
    wanted = {*kind.binary_names, *kind.train, *kind.test}
    files = {}
    try:
        with unpacked(path) as archive:
            for member in files_of(archive):
                name = member.name.rsplit("/", 1)[-1]
                if name in wanted and name not in files and member.size <= MOST:
                    files[name] = archive.extractfile(member).read()
    except (tarfile.TarError, OSError, EOFError, ValueError, zlib.error) as error:
        raise CaffeError(f"{path}: not a complete archive: {error}") from None
    return files


# ---- their contents --------------------------------------------------------------------------------------


def _parse(kind: _Kind, name: str, files: dict[str, bytes]) -> Split:
    if f"{name}.bin" in files:
        split = _parse_binary(kind, files[f"{name}.bin"])
    elif name in files:
        split = _parse_pickle(kind, files[name])
    else:
        raise CaffeError(f"CIFAR: the file {name}.bin is missing")
    if split is None or not len(split.labels) or split.labels.max() >= kind.classes:
        raise CaffeError(f"CIFAR: the file {name} is damaged or of another data set")
    return split


def _parse_binary(kind: _Kind, content: bytes) -> Split | None:
    record = kind.label_bytes + _PIXELS
    if len(content) % record:
        return None
    rows = np.frombuffer(content, np.uint8).reshape(-1, record)
    return Split(rows[:, kind.label_bytes :].reshape(-1, 3, 32, 32), rows[:, kind.label_bytes - 1])


def _parse_pickle(kind: _Kind, content: bytes) -> Split | None:
    try:
        fields = read_batch(content)
    except NotABatch:
        return None
    pixels, labels = fields.get(b"data"), fields.get(kind.label_key)
    if not isinstance(pixels, np.ndarray) or not isinstance(labels, list) or pixels.size != _PIXELS * len(labels):
        return None
    if not all(type(label) is int and 0 <= label < 256 for label in labels):
        return None
    return Split(pixels.reshape(-1, 3, 32, 32), np.array(labels, np.uint8))

"""MNIST and Fashion-MNIST, from their IDX files (yann.lecun.com/exdb/mnist describes the format)."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from pysolver.data.prepare.download import fetch
from pysolver.data.prepare.split import DataSet, Split
from pysolver.errors import CaffeError

_MNIST_HOME = "https://ossci-datasets.s3.amazonaws.com/mnist/"  # a mirror: the original site is gone
_MNIST_SHA256 = {
    "train-images-idx3-ubyte": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
_FASHION_HOME = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"
_FASHION_SHA256 = {
    "train-images-idx3-ubyte": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "train-labels-idx1-ubyte": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "t10k-images-idx3-ubyte": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "t10k-labels-idx1-ubyte": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}
_UNSIGNED_BYTE = 8
_LARGEST = 1 << 28  # bytes after decompression; the training images have 47 MB


def load(source_dir: Path | None) -> DataSet:
    """MNIST from the four files in source_dir (.gz or not), else downloaded."""
    return _load(source_dir, _MNIST_HOME, _MNIST_SHA256)


def load_fashion(source_dir: Path | None) -> DataSet:
    """Fashion-MNIST, likewise."""
    return _load(source_dir, _FASHION_HOME, _FASHION_SHA256)


def _load(source_dir: Path | None, home: str, sums: dict[str, str]) -> DataSet:
    if source_dir is None:
        paths = [fetch(f"{home}{name}.gz", checksum) for name, checksum in sums.items()]
    else:
        paths = [_find(Path(source_dir), name) for name in sums]
    return DataSet(_read_split(*paths[:2]), _read_split(*paths[2:]))


def _find(folder: Path, name: str) -> Path:
    for candidate in (folder / f"{name}.gz", folder / name):
        if candidate.is_file():
            return candidate
    raise CaffeError(f"{folder}: {name}.gz is missing")


def _read_split(images_path: Path, labels_path: Path) -> Split:
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if len(images) != len(labels):
        raise CaffeError(f"{labels_path}: {len(labels)} labels for the {len(images)} images of {images_path}")
    return Split(images[:, None], labels)


def read_idx(path: Path, axes: int) -> np.ndarray:
    """An IDX file of bytes with this number of axes, gzipped or not. Raises CaffeError if it is anything else."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            content = file.read(_LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise CaffeError(f"{path}: cannot be read: {error}") from None
    if len(content) > _LARGEST:
        raise CaffeError(f"{path}: more than {_LARGEST} bytes in it")
    header = 4 + 4 * axes
    if len(content) < header or content[:4] != bytes([0, 0, _UNSIGNED_BYTE, axes]):
        raise CaffeError(f"{path}: not an IDX file of bytes with {axes} axes")
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", axes, 4))
    if len(content) - header != math.prod(shape):
        raise CaffeError(f"{path}: {len(content) - header} bytes of data, the header says {math.prod(shape)}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)

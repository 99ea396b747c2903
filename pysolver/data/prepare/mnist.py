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
_MNIST_MD5 = {
    "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
}
_FASHION_HOME = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_FASHION_MD5 = {
    "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
}
_UNSIGNED_BYTE = 8
_LARGEST = 1 << 30  # bytes after decompression


def load(source_dir: Path | None) -> DataSet:
    """MNIST from the four files in source_dir (.gz or not), else downloaded."""
    return _load(source_dir, _MNIST_HOME, _MNIST_MD5)


def load_fashion(source_dir: Path | None) -> DataSet:
    """Fashion-MNIST, likewise."""
    return _load(source_dir, _FASHION_HOME, _FASHION_MD5)


def _load(source_dir: Path | None, home: str, md5: dict[str, str]) -> DataSet:
    if source_dir is None:
        paths = [fetch(f"{home}{name}.gz", checksum) for name, checksum in md5.items()]
    else:
        paths = [_find(Path(source_dir), name) for name in md5]
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
    header = 4 + 4 * axes
    if len(content) < header or content[:4] != bytes([0, 0, _UNSIGNED_BYTE, axes]):
        raise CaffeError(f"{path}: not an IDX file of bytes with {axes} axes")
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", axes, 4))
    if len(content) - header != math.prod(shape):
        raise CaffeError(f"{path}: {len(content) - header} bytes of data, the header says {math.prod(shape)}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)

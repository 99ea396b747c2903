"""What is downloaded: CIFAR and MNIST, in their archives."""

from __future__ import annotations

import contextlib
import gzip
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np

from pysolver.errors import CaffeError
from tests.fuzz.targets.target import folder_of, target


def _cifar_batches() -> list[bytes]:
    images = np.random.default_rng(0).integers(0, 256, (3, 3072), np.uint8)
    python = {b"data": images, b"labels": [1, 2, 3], b"fine_labels": [1, 2, 3], b"batch_label": b"x"}
    binary = np.column_stack([np.array([1, 2, 3], np.uint8), images]).tobytes()
    return [pickle.dumps(python, protocol=2), pickle.dumps(python, protocol=3), binary]


@target("CIFAR", _cifar_batches)
def _cifar(data: bytes) -> None:
    from pysolver.data.prepare import cifar

    binary = data[:1] != b"\x80"
    with folder_of("in") as folder:
        for kind in (cifar._CIFAR10, cifar._CIFAR100):
            for name in kind.binary_names if binary else kind.train + kind.test:
                (folder / name).write_bytes(data)
        error = None
        try:
            cifar.load_cifar100(folder)
        except CaffeError as given:
            error = given
        cifar.load_cifar10(folder)
        if error:
            raise error


def _archives() -> list[bytes]:
    made = []
    for mode in ("w", "w:gz"):
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode=mode) as tar:
            for number in range(1, 7):
                name = f"data_batch_{number}.bin" if number < 6 else "test_batch.bin"
                member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
                member.size = 3073
                tar.addfile(member, io.BytesIO(bytes(3073)))
        made.append(archive.getvalue())
    return made


@target("tar", _archives)
def _tar(data: bytes) -> None:
    from pysolver.data.prepare import cifar

    with folder_of("in") as folder:
        (folder / "cifar-10-binary.tar.gz").write_bytes(data)
        cifar.load_cifar10(folder)


def _idx_files() -> list[bytes]:
    labels = bytes([0, 0, 8, 1, 0, 0, 0, 3, 1, 2, 3])
    images = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 2, *range(8)])
    return [labels, images, gzip.compress(labels), gzip.compress(images)]


@target("IDX", _idx_files)
def _idx(data: bytes) -> None:
    from pysolver.data.prepare.mnist import read_idx

    path = Path("idx.gz" if data[:1] == b"\x1f" else "idx")
    path.write_bytes(data)
    with contextlib.suppress(CaffeError):
        read_idx(path, 1)
    read_idx(path, 3)

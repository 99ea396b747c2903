"""The files of a prepared data set: two LMDBs and a mean file, all of them or none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pysolver.data import datum
from pysolver.data.database_writer import new_database, staging_folder, write_all
from pysolver.data.databases import LMDB
from pysolver.data.prepare.mean import write_mean
from pysolver.data.prepare.split import DataSet, Split
from pysolver.errors import CaffeError
from pysolver.files import sync


def targets(name: str, out: str | Path, force: bool, *others: str) -> list[Path]:
    """OUT/<name>_train_lmdb, OUT/<name>_test_lmdb, OUT/<name>_<other>; CaffeError if they are there and not `force`."""
    paths = [Path(out) / f"{name}_{part}" for part in ("train_lmdb", "test_lmdb", *others)]
    existing = [str(path) for path in paths if path.exists()]
    if existing and not force:
        raise CaffeError(f"{', '.join(existing)}: exists already (--force replaces it)")
    return paths


def publish(paths: list[Path], write: Callable[..., None]) -> list[Path]:
    """Let `write`, given a path for each, make these things beside; then move them to their paths, over what is
    there."""
    with staging_folder(paths[0].parent, paths[0].name) as staging:
        staged = [staging / path.name for path in paths]
        write(*staged)
        for new, path in zip(staged, paths, strict=True):
            old = staging / f"old_{path.name}"
            if path.exists():
                path.rename(old)
            try:
                new.rename(path)
            except OSError:
                if old.exists():
                    old.rename(path)
                raise
        sync(paths[0].parent)
    return paths


def write_data_set(data: DataSet, train: Path, test: Path, mean: Path) -> None:
    """Both splits, in the order of their images, and the mean of the training images."""
    for split, path in ((data.train, train), (data.test, test)):
        records = tqdm(_records(split, data.key_digits), path.name, len(split.labels), unit="image", disable=None)
        with new_database(path, LMDB) as database:
            write_all(database, records)
    write_mean(mean, data.train.images.mean(axis=0, dtype=np.float64).astype(np.float32))


def _records(split: Split, key_digits: int) -> Iterator[tuple[bytes, bytes]]:
    for number, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
        yield b"%0*d" % (key_digits, number), datum.from_pixels(image, int(label)).SerializeToString()

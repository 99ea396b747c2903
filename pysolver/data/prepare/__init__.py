"""Data sets ready for a Data layer: `pysolver data NAME OUT`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pysolver.data import datum
from pysolver.data.database_writer import new_database, staging_folder, write_all
from pysolver.data.databases import LMDB
from pysolver.data.prepare import cifar, digits, imagenet, mnist
from pysolver.data.prepare.mean import write_mean
from pysolver.data.prepare.split import DataSet, Split
from pysolver.errors import CaffeError

_LOADERS = {
    "digits": digits.load,
    "mnist": mnist.load,
    "fashion-mnist": mnist.load_fashion,
    "cifar10": cifar.load_cifar10,
    "cifar100": cifar.load_cifar100,
}
NAMES = (*_LOADERS, "imagenet")


def prepare(name: str, out: str | Path, source_dir: str | Path | None = None, force: bool = False) -> list[Path]:
    """Write OUT/<name>_train_lmdb, OUT/<name>_test_lmdb and OUT/<name>_mean.binaryproto; returns the three paths.

    source_dir: folder with the original files; without it they are downloaded (digits come from scikit-learn,
    imagenet always needs the folder). force: replace what is there. All three appear, or none.
    Raises CaffeError: unknown name, missing or damaged files, existing output, no network, full disk.
    """
    if name not in NAMES:
        raise CaffeError(f"unknown data set '{name}' (known: {', '.join(NAMES)})")
    out = Path(out)
    targets = [out / f"{name}_{part}" for part in ("train_lmdb", "test_lmdb", "mean.binaryproto")]
    existing = [str(target) for target in targets if target.exists()]
    if existing and not force:
        raise CaffeError(f"{', '.join(existing)}: exists already (--force replaces it)")
    if source_dir is not None and not Path(source_dir).is_dir():
        raise CaffeError(f"{source_dir}: no such folder")
    write = imagenet.check(source_dir) if name == "imagenet" else partial(_write, _LOADERS[name](source_dir))
    with staging_folder(out, name) as staging:
        staged = [staging / target.name for target in targets]
        write(*staged)
        _publish(staged, targets, staging)
    return targets


def _write(data: DataSet, train: Path, test: Path, mean: Path) -> None:
    for split, path in ((data.train, train), (data.test, test)):
        records = tqdm(_records(split, data.key_digits), path.name, len(split.labels), unit="image", disable=None)
        with new_database(path, LMDB) as database:
            write_all(database, records)
    write_mean(mean, data.train.images.mean(axis=0, dtype=np.float64).astype(np.float32))


def _records(split: Split, key_digits: int):
    for number, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
        yield b"%0*d" % (key_digits, number), datum.from_pixels(image, int(label)).SerializeToString()


def _publish(staged: list[Path], targets: list[Path], staging: Path) -> None:
    for path, target in zip(staged, targets, strict=True):
        old = staging / f"old_{target.name}"
        if target.exists():
            target.rename(old)
        try:
            path.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise

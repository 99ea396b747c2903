"""Data sets ready for a Data layer: `pysolver data NAME OUT`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pysolver.data.prepare import cifar, digits, imagenet, mnist, voc
from pysolver.data.prepare.publish import publish, targets, write_data_set
from pysolver.errors import CaffeError

_LOADERS = {
    "digits": digits.load,
    "mnist": mnist.load,
    "fashion-mnist": mnist.load_fashion,
    "cifar10": cifar.load_cifar10,
    "cifar100": cifar.load_cifar100,
}
NAMES = (*_LOADERS, "imagenet", "voc")


def prepare(name: str, out: str | Path, source_dir: str | Path | None = None, force: bool = False) -> list[Path]:
    """Write OUT/<name>_train_lmdb, OUT/<name>_test_lmdb and OUT/<name>_mean.binaryproto; returns the paths.

    voc, for AnnotatedData, has voc_labelmap.prototxt and, for DetectionOutput's result files, voc_test_name_size.txt in
    place of a mean.
    source_dir: folder with the original files; without it they are downloaded (digits come from scikit-learn,
    imagenet and voc always need the folder). force: replace what is there. All appear, or none.
    Raises CaffeError: unknown name, missing or damaged files, existing output, no network, full disk.
    """
    if name not in NAMES:
        raise CaffeError(f"unknown data set '{name}' (known: {', '.join(NAMES)})")
    others = ("labelmap.prototxt", "test_name_size.txt") if name == "voc" else ("mean.binaryproto",)
    paths = targets(name, out, force, *others)
    if source_dir is not None and not Path(source_dir).is_dir():
        raise CaffeError(f"{source_dir}: no such folder")
    if name == "imagenet":
        return publish(paths, imagenet.writer(source_dir))
    if name == "voc":
        return publish(paths, voc.writer(source_dir))
    return publish(paths, partial(write_data_set, _LOADERS[name](None if source_dir is None else Path(source_dir))))

"""CIFAR-10 from NPZ files of JPEGs, where the original archive is out of reach.

    python examples/cifar10/from_jpegs.py DIR [OUT]

DIR holds cifar10_train_jpeg.npz and cifar10_test_jpeg.npz with the arrays `jpeg` (all files, joined), `offset` (where
each begins; one more than images) and `label`. OUT (default examples/cifar10) gets what `pysolver data cifar10` writes,
with colours in the same order R, G, B. The pixels are those of the JPEGs, not quite the original ones.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import numpy as np

from pysolver.data.images import Colour, decode
from pysolver.data.prepare.publish import publish, targets, write_data_set
from pysolver.data.prepare.split import DataSet, Split


def read(path: Path) -> Split:
    content = np.load(path)
    joined, offsets = content["jpeg"].tobytes(), content["offset"].tolist()
    images = [decode(joined[start:end], Colour.COLOR)[::-1] for start, end in zip(offsets, offsets[1:])]
    return Split(np.stack(images), content["label"])


def main(folder: str, out: str = "examples/cifar10") -> None:
    train, test = (read(Path(folder) / f"cifar10_{part}_jpeg.npz") for part in ("train", "test"))
    publish(targets("cifar10", out, force=False), partial(write_data_set, DataSet(train, test, key_digits=5)))


if __name__ == "__main__":
    main(*sys.argv[1:])

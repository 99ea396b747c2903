"""The handwritten digits that scikit-learn ships: 1797 images of 8 x 8, no download."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pysolver.data.prepare.split import DataSet, Split
from pysolver.errors import CaffeError
from pysolver.extras import require

TEST_IMAGES = 300


def load(source_dir: Path | None) -> DataSet:
    """1497 training and 300 test images, shuffled once with a fixed seed.

    A Data layer reads in file order, so they have to be shuffled here; the original order goes by writer.
    The ink values 0..16 become bytes as round(ink * 255 / 16), so that `scale: 0.00390625` gives about [0, 1].
    """
    if source_dir is not None:
        raise CaffeError("the digits come with scikit-learn: leave out --from")
    require("sklearn")
    from sklearn.datasets import load_digits

    ink, labels = load_digits(return_X_y=True)
    images = ((ink.astype(np.uint16) * 255 + 8) // 16).astype(np.uint8).reshape(-1, 1, 8, 8)
    order = np.random.RandomState(0).permutation(len(labels))  # this generator's numbers are frozen for good
    train, test = order[:-TEST_IMAGES], order[-TEST_IMAGES:]
    return DataSet(Split(images[train], labels[train]), Split(images[test], labels[test]))

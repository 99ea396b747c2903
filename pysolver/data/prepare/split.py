"""What a loader returns, and what all loaders use."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
    images: np.ndarray  # uint8 (N, C, H, W)
    labels: np.ndarray  # integers (N,)


class DataSet(NamedTuple):
    train: Split
    test: Split
    key_digits: int = 8  # of the zero-padded record number that is the key

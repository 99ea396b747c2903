"""Video files, by OpenCV."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from pysolver.data.images import LARGEST_IMAGE
from pysolver.errors import CaffeError
from pysolver.extras import require
from pysolver.files import seems_to_be

_PLAYLIST = "a text, as playlists are"


@contextlib.contextmanager
def open_video(path: str) -> Iterator[tuple[int, Iterator[np.ndarray]]]:
    """How many frames a file says that it has, and those that it has: uint8 (height, width, 3). CaffeError if none."""
    cv2 = require("cv2")
    if not Path(path).is_file():
        raise CaffeError(f"Could not open {path}: there is no such file")
    with open(path, "rb") as file:
        seems = seems_to_be(file.read(4096), _PLAYLIST)
    if seems.endswith(_PLAYLIST):  # it names other files, which OpenCV would read
        raise CaffeError(f"{path} is no video{seems}")
    video = cv2.VideoCapture(path)
    try:
        if not video.isOpened():
            raise CaffeError(f"{path} is no video that OpenCV can decode")
        height, width = (int(video.get(what)) for what in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH))
        if height * width > LARGEST_IMAGE:
            raise CaffeError(f"{path} has frames of {height} x {width}: more than {LARGEST_IMAGE} pixels")
        yield int(video.get(cv2.CAP_PROP_FRAME_COUNT)), _frames(video)
    finally:
        video.release()


def stretch(frames: Iterator[np.ndarray], start: int, reach: int, rate: int) -> list[np.ndarray]:
    """Those whose number is a multiple of `rate`, from `start` on.

    All are read from the first on, since few videos can be entered elsewhere exactly.
    """
    return [image for i, image in enumerate(islice(frames, start, start + reach)) if i % rate == 0]


def _frames(video: Any) -> Iterator[np.ndarray]:
    while True:
        there, image = video.read()
        if not there:
            return
        yield image

"""Images."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path

import cv2
import numpy as np

from pysolver.errors import CaffeError
from tests.fuzz.targets.target import target


@functools.cache
def pictures() -> list[bytes]:
    image = np.random.default_rng(0).integers(0, 256, (12, 10, 3), np.uint8)
    kinds = [".png", ".jpg", ".bmp", ".tiff", ".webp", ".ppm"]
    grey = [
        cv2.imencode(".png", image[..., 0])[1].tobytes(),
        cv2.imencode(".png", image.astype(np.uint16))[1].tobytes(),
    ]
    return [cv2.imencode(kind, image)[1].tobytes() for kind in kinds] + grey


@target("image bytes", pictures)
def _image(data: bytes) -> None:
    from pysolver.data import images

    for colour in images.Colour:
        with contextlib.suppress(CaffeError):
            images.decode(data, colour)
    images.decode(data, images.Colour.COLOR, 5, 6)


def write_pictures() -> None:
    if not Path("0.png").exists():
        for name, content in zip(("0.png", "1.jpg"), pictures()):
            Path(name).write_bytes(content)

"""Image files to arrays, by OpenCV, as Caffe does: B, G, R, and bilinear resizing rounded to bytes."""

from __future__ import annotations

import enum
import os
from pathlib import Path

import numpy as np

from pysolver.errors import CaffeError
from pysolver.extras import require
from pysolver.files import read_bytes

LARGEST_FILE = 1 << 28  # bytes
LARGEST_IMAGE = 1 << 26  # pixels: 8192 x 8192, 200 MB in colour
_MOST_SCANS = 100  # of a progressive JPEG; common are ten
_LIMIT = "OPENCV_IO_MAX_IMAGE_PIXELS"
# OpenCV looks at it once, when it is loaded, and then refuses by the header, before it takes memory for the pixels.
os.environ.setdefault(_LIMIT, str(LARGEST_IMAGE))


class Colour(enum.Enum):
    """Which channels a decoded image gets."""

    AS_STORED = "IMREAD_UNCHANGED"
    COLOR = "IMREAD_COLOR"
    GRAY = "IMREAD_GRAYSCALE"


def decode(file: bytes, colour: Colour, height: int = 0, width: int = 0) -> np.ndarray:
    """An encoded image as uint8 (channels, height, width), resized if height and width are given.

    Raises CaffeError for anything that is not a whole image with 8 bits a channel, in one or three channels.
    """
    cv2 = require("cv2")
    check_size(height, width)
    check_whole(file)
    try:
        image = cv2.imdecode(np.frombuffer(file, np.uint8), getattr(cv2, colour.value))
    except cv2.error as error:  # an empty buffer, absurd dimensions
        if "CV_IO_MAX_IMAGE" in error.err:
            raise CaffeError(
                f"by its header the image has more than {os.environ[_LIMIT]} pixels, the most that is decoded "
                f"(the environment variable {_LIMIT} is the limit)"
            ) from None
        raise CaffeError(f"not an image: {error.err}") from None
    if image is None:
        raise CaffeError(f"not an image that OpenCV can decode ({len(file)} bytes)")
    if image.dtype != np.uint8 or (image.ndim == 3 and image.shape[2] != 3):
        bits, channels = image.dtype.itemsize * 8, image.shape[2] if image.ndim == 3 else 1
        raise CaffeError(f"an image of {channels} channels with {bits} bits: set force_color or force_gray")
    if height and width:
        image = cv2.resize(image, (width, height))  # INTER_LINEAR is the default of both
    return to_planes(image)


def check_size(height: int, width: int) -> None:
    """Raises CaffeError if an image is to be resized to more pixels than an image may have."""
    if height * width > LARGEST_IMAGE:
        raise CaffeError(f"an image cannot be resized to {height} x {width}: more than {LARGEST_IMAGE} pixels")


def read(path: str | Path, colour: Colour, height: int = 0, width: int = 0) -> np.ndarray:
    """decode() of a file."""
    file = load(path)
    try:
        return decode(file, colour, height, width)
    except CaffeError as error:
        raise CaffeError(f"Could not load {path}: {error}") from None


def load(path: str | Path) -> bytes:
    """The bytes of a file. Raises CaffeError in Caffe's words."""
    try:
        return read_bytes(path, LARGEST_FILE)
    except CaffeError as error:
        raise CaffeError(f"Could not load {error}") from None


def to_planes(image: np.ndarray) -> np.ndarray:
    """(height, width[, channels]) to (channels, height, width), contiguous."""
    if image.ndim == 2:
        return image[None]
    planes = np.empty((image.shape[2], *image.shape[:2]), image.dtype)
    require("cv2").split(image, list(planes))  # writes into them, several times as fast as a transposed copy
    return planes


def check_whole(file: bytes) -> None:
    """CaffeError if the end of an image is missing: of a JPEG OpenCV would make up the rest in grey and say nothing,
    for a chunk of a PNG take the memory that it claims. Or if a JPEG has scans by the hundred: each is over all pixels.

    In the data of a JPEG's scan no marker but a restart occurs, so this only looks for two byte pairs.
    """
    kind = _cut_short(file)
    if kind:
        raise CaffeError(f"the {kind} is cut short ({len(file)} bytes)")
    if file.startswith(b"\xff\xd8") and (scans := file.count(b"\xff\xda")) > _MOST_SCANS:
        raise CaffeError(f"a JPEG of {scans} scans: it could take minutes, and no program writes more than a few")


def _cut_short(file: bytes) -> str | None:
    if file.startswith(b"\xff\xd8"):
        return "JPEG" if file.rfind(b"\xff\xd9") < file.rfind(b"\xff\xda") else None
    if file.startswith(b"\x89PNG\r\n\x1a\n"):
        at = 8
        while at + 12 <= len(file) and file[at + 4 : at + 8] != b"IEND":
            at += 12 + int.from_bytes(file[at : at + 4], "big")  # length, kind, data, checksum
        return "PNG" if at + 12 > len(file) else None
    return None


def encode(image: np.ndarray, kind: str) -> bytes:
    """An image (channels, height, width) as the bytes of a file; kind: "jpg", "png" or another of OpenCV's."""
    cv2 = require("cv2")
    try:
        done, file = cv2.imencode(f".{kind}", image.transpose(1, 2, 0))
    except cv2.error as error:
        raise CaffeError(f"cannot encode an image as '{kind}': {error.err}") from None
    if not done:
        raise CaffeError(f"cannot encode an image as '{kind}'")
    return file.tobytes()

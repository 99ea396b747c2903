"""Lists of images with their labels, as ImageData and convert_imageset read them."""

from __future__ import annotations

import re
from pathlib import Path

from pysolver.errors import CaffeError

_LEADING_INTEGER = re.compile(r"\s*([+-]?\d+)")


def read_image_list(path: str | Path) -> list[tuple[str, int]]:
    """(image path, label) of every line: `path label`, split at the last blank, so that paths may hold blanks.

    A label is read as C's atoi does: leading digits count, anything else is 0.
    Raises CaffeError if the file cannot be read or holds no line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8", errors="surrogateescape")
    except (OSError, ValueError) as error:
        raise CaffeError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    if not lines:
        raise CaffeError(f"{path}: File is empty")
    return [_split(line) for line in lines]


def _split(line: str) -> tuple[str, int]:
    name, blank, label = line.rpartition(" ")
    if not blank:  # without a blank Caffe takes the whole line for both
        name = label
    number = _LEADING_INTEGER.match(label)
    return name, int(number[1]) if number else 0

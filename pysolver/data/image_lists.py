"""Lists of images with their labels, as ImageData and convert_imageset read them."""

from __future__ import annotations

import re
from pathlib import Path

from pysolver.errors import CaffeError
from pysolver.files import read_text
from pysolver.logs import notices
from pysolver.logs.events import Emit
from pysolver.logs.writer import to_stderr

_LABEL = re.compile(r"[+-]?\d\S*")
_LEADING_INTEGER = re.compile(r"\s*([+-]?\d+)")


def read_image_list(path: str | Path, emit: Emit = to_stderr) -> list[tuple[str, int]]:
    """(image path, label) of every line: `path label`, split at the last blank, so that paths may hold blanks.

    A label is read as C's atoi does: leading digits count, anything else is 0, with a warning.
    Raises CaffeError if the file cannot be read or holds no line, or a label is no int.
    """
    text = read_text(path)
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    if not lines:
        raise CaffeError(f"{path}: File is empty")
    odd = [number for number, line in enumerate(lines, 1) if not _is_labelled(line)]
    if odd:
        emit(notices.OddLabels(str(path), odd[0], lines[odd[0] - 1][:100], len(odd)))
    return [_split(line, path, number) for number, line in enumerate(lines, 1)]


def integer(word: str) -> int:
    """A word as an int of C's, of 32 bits. Raises ValueError if it is none."""
    value = int(word)
    if not -(1 << 31) <= value < 1 << 31:
        raise ValueError(f"{word:.20} is not in the range of an int")
    return value


def _is_labelled(line: str) -> bool:
    _, blank, label = line.rpartition(" ")
    return bool(blank and _LABEL.fullmatch(label))


def _split(line: str, path: str | Path, number: int) -> tuple[str, int]:
    name, blank, label = line.rpartition(" ")
    if not blank:  # without a blank Caffe takes the whole line for both
        name = label
    digits = _LEADING_INTEGER.match(label)
    if digits is None:
        return name, 0
    if len(digits[1]) > 20 or not -(1 << 31) <= int(digits[1]) < 1 << 31:
        raise CaffeError(f"{path}:{number}: the label {digits[1][:20]} is not in the range of an int")
    return name, int(digits[1])

"""The window files of WindowData, MS-CNN and Cascade R-CNN: images with labelled boxes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pysolver.data.image_lists import integer
from pysolver.errors import CaffeError
from pysolver.files import read_text


class WindowImage(NamedTuple):
    index: int  # type: ignore[assignment]  # the file's own word, not the tuple's method
    path: str
    channels: int
    height: int
    width: int
    windows: int


class Window(NamedTuple):
    """A box in an image, corners included."""

    image: int  # place in the list of images
    label: int
    overlap: float
    x1: int
    y1: int
    x2: int
    y2: int


def read_window_file(path: str) -> tuple[list[WindowImage], list[Window]]:
    """All images and windows of a file of repeated

        # image_index  path  channels height width  number_of_windows  (class overlap x1 y1 x2 y2)...

    separated by any white space. Raises CaffeError with the line of what does not fit.
    """
    try:
        text = read_text(path)
    except CaffeError as error:
        raise CaffeError(f"Failed to open window file {error}") from None
    words = _Words(path, text)
    images: list[WindowImage] = []
    windows: list[Window] = []
    while not words.at_end:
        words.take("'#'", lambda word: {"#": word}[word])
        index, name = words.take("an image index", integer), words.take("a path", str)
        channels, height, width, count = (words.take(f"the {what}", integer) for what in _IMAGE_FIELDS)
        for _ in range(count):
            label, overlap = words.take("a class", integer), words.take("an overlap", float)
            corners = [words.take(f"a window's {what}", integer) for what in ("x1", "y1", "x2", "y2")]
            windows.append(Window(len(images), label, overlap, *corners))
        images.append(WindowImage(index, name, channels, height, width, count))
    if not images:
        raise CaffeError(f"{path}: Window file is empty")
    return images, windows


class ObjectImage(NamedTuple):
    """An image of MS-CNN's or Cascade R-CNN's window file.

    objects: rows of label, ignore, difficult, x1, y1, x2, y2. regions: rows of x1, y1, x2, y2 of no interest.
    """

    path: str
    height: int
    width: int
    objects: list[list[int]]
    regions: list[list[int]]


_CORNERS = ("x1", "y1", "x2", "y2")


def read_object_file(path: str, has_difficult: bool = True) -> list[ObjectImage]:
    """The images of a file of repeated

        # image_index  path  channels height width  number (label ignore difficult x1 y1 x2 y2)...
        number (x1 y1 x2 y2)...

    in the order of their index; without the difficult flag (MS-CNN) in that of the file. Raises CaffeError with the
    line.
    """
    words, images, order = _Words(path, read_text(path)), [], []
    flags = ("label", "ignore flag", *(("difficult flag",) if has_difficult else ()))
    while not words.at_end:
        words.take("'#'", lambda word: {"#": word}[word])
        order.append(words.take("an image index", integer))
        name = words.take("a path", str)
        _, height, width, count = (words.take(f"the {what}", integer) for what in _IMAGE_FIELDS)
        objects = [
            [words.take(f"an object's {what}", integer) for what in flags]
            + ([] if has_difficult else [0])
            + [words.take(f"an object's {what}", integer) for what in _CORNERS]
            for _ in range(count)
        ]
        count = words.take("the number of regions", integer)
        regions = [[words.take("a region's corner", integer) for _ in _CORNERS] for _ in range(count)]
        images.append(ObjectImage(name, height, width, objects, regions))
    if not images or (has_difficult and sorted(order) != list(range(len(images)))):
        raise CaffeError(f"{path}: needs images with the indices from 0 on, each once")
    return [image for _, image in sorted(zip(order, images), key=lambda pair: pair[0])] if has_difficult else images


_IMAGE_FIELDS = ("number of channels", "height", "width", "number of windows")


class _Words:
    def __init__(self, path: str, text: str) -> None:
        self._path = path
        self._words: Iterator[tuple[int, str]] = (
            (number, word) for number, line in enumerate(text.split("\n"), 1) for word in line.split()
        )
        self._next = next(self._words, None)

    @property
    def at_end(self) -> bool:
        return self._next is None

    def take(self, what: str, kind):
        """The next word as `kind`. Raises CaffeError if it cannot be read so."""
        if self._next is None:
            raise CaffeError(f"{self._path}: the file ends where {what} is expected")
        number, word = self._next
        self._next = next(self._words, None)
        try:
            return kind(word)
        except (ValueError, KeyError):
            raise CaffeError(f"{self._path}:{number}: {what} expected, not '{word:.60}'") from None

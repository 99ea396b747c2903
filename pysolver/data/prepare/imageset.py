"""convert_imageset: a list of images becomes a database (tools/convert_imageset.cpp)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pysolver.data import datum, images
from pysolver.data.database_writer import new_database, write_all
from pysolver.data.databases import backend_named
from pysolver.data.image_lists import read_image_list
from pysolver.data.parallel import map_ahead
from pysolver.errors import CaffeError
from pysolver.extras import require
from pysolver.logs import notices
from pysolver.logs.events import Emit
from pysolver.logs.writer import to_stderr
from pysolver.proto import caffe_pb2


@dataclass(frozen=True)
class Conversion:
    """How images are stored: the flags of Caffe's tool, with its defaults.

    Both resize_width and resize_height must be positive for resizing. encode_type ("jpg", "png", ...) implies
    encoded; encoded alone keeps each file's own type. check_size: all images must give as many bytes as the first.
    """

    gray: bool = False
    resize_width: int = 0
    resize_height: int = 0
    check_size: bool = False
    encoded: bool = False
    encode_type: str = ""

    @property
    def colour(self) -> images.Colour:
        return images.Colour.GRAY if self.gray else images.Colour.COLOR

    @property
    def size(self) -> tuple[int, int]:
        """(height, width), zeros without resizing."""
        if self.resize_height > 0 and self.resize_width > 0:
            return self.resize_height, self.resize_width
        return 0, 0

    def read(self, path: str, label: int) -> caffe_pb2.Datum:
        """The record of one image file. Raises CaffeError if the file cannot be read."""
        if not (self.encoded or self.encode_type):
            return datum.from_pixels(images.read(path, self.colour, *self.size), label)
        kind = self.encode_type or Path(path).suffix[1:]
        image = images.read(path, self.colour, *self.size)  # also checks a file that is stored as it is
        stays = not any(self.size) and _same_type(path, kind) and _has_channels(path, len(image))
        data = images.load(path) if stays else images.encode(image, kind)
        return caffe_pb2.Datum(data=data, label=label, encoded=True)


def _same_type(path: str, kind: str) -> bool:
    suffix, kind = Path(path).suffix[1:].lower(), kind.lower()
    return suffix == kind or {suffix, kind} == {"jpg", "jpeg"}


def _has_channels(path: str, channels: int) -> bool:
    try:
        return len(images.read(path, images.Colour.AS_STORED)) == channels
    except CaffeError:  # 16 bits, an alpha channel
        return False


def convert_imageset(
    root: str,
    list_file: str,
    database: str | Path,
    *,
    shuffle: bool = False,
    backend: str = "lmdb",
    seed: int | None = None,
    emit: Emit = to_stderr,
    **flags: Any,
) -> int:
    """Write the images of list_file into a new database; returns how many. flags: the fields of Conversion.

    root is put in front of the paths as text. Keys are the line number (after shuffling) with 8 digits, `_` and the
    path. An image that cannot be read is reported and left out. Raises CaffeError if the database exists, if no
    image could be read, or with check_size if sizes differ.
    """
    require("cv2")
    conversion, kind = Conversion(**flags), backend_named(backend)
    lines = read_image_list(list_file, emit)
    if shuffle:
        emit(notices.ShufflingList())
        random.Random(seed).shuffle(lines)
    emit(notices.ConvertingImages(len(lines)))
    with new_database(database, kind) as target:
        records = tqdm(_records(root, lines, conversion, emit), str(database), len(lines), unit="image", disable=None)
        count = write_all(target, records, lambda count: emit(notices.Converted(count)))
        if not count:
            hint = f"; '{root}' is put in front as it is" if root and root[-1] != "/" else ""
            raise CaffeError(f"{list_file}: not one of {len(lines)} images could be read{hint}")
    return count


def _records(
    root: str, lines: list[tuple[str, int]], conversion: Conversion, emit: Emit
) -> Iterator[tuple[bytes, bytes]]:
    def read(line: tuple[str, int]) -> caffe_pb2.Datum | CaffeError:
        try:
            return conversion.read(root + line[0], line[1])
        except CaffeError as error:
            return error

    bytes_of_first = None
    for number, ((path, _), record) in enumerate(zip(lines, map_ahead(read, lines))):
        if isinstance(record, CaffeError):
            emit(notices.UnreadableImage(str(record)))
            continue
        if conversion.check_size:
            bytes_of_first = bytes_of_first or len(record.data)
            if len(record.data) != bytes_of_first:
                raise CaffeError(f"{root}{path}: Incorrect data field size {len(record.data)}, not {bytes_of_first}")
        yield f"{number:08d}_{path}".encode(errors="surrogateescape"), record.SerializeToString()

"""Result files of detections, as the servers of VOC, COCO and ILSVRC take them (SSD, detection_output_layer.cpp)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from pysolver.errors import CaffeError
from pysolver.files import read_text, write_together
from pysolver.layers.base import Layer
from pysolver.logs import notices
from pysolver.proto import caffe_pb2
from pysolver.proto import text as proto_text

N = TypeVar("N", int, float)
_FIRST_LINE = {
    "VOC": rb"\S+ \S+( -?\d+){4}$",
    "COCO": rb"\[$",
    "ILSVRC": rb"\S+ -?\d+ \S+( -?\d+){4}$",
}
_R = caffe_pb2.ResizeParameter


class Found(NamedTuple):
    """One detection: x, y, width and height in pixels of the image, rounded to hundredths."""

    image: str
    label: int
    score: float
    box: list[float]


class ResultFiles:
    """What save_output_param asks for: detections are gathered image by image, in the order of name_size_file, and
    written, all files or none, after each num_test_image images (none given: after all of the list).

    VOC: prefix + class + .txt for every class, lines `image score x1 y1 x2 y2`; ILSVRC: prefix.txt, lines
    `image label score x1 y1 x2 y2`, both in whole pixels; COCO: prefix.json, a list of image_id, category_id, bbox
    (x, y, width, height) and score, whose names are numbers where they can be.
    Errors: another output_format; files that cannot be read; a label that the map does not have.
    """

    def __init__(self, param: Any, layer: Layer, background: int) -> None:
        self.param, self.layer, self.format = param, layer, param.output_format
        layer.check(self.format in _FIRST_LINE, f"output_format is VOC, COCO or ILSVRC, not {self.format!r}")
        layer.check(layer.context.world_size == 1, "result files are written by one process only, not by several ranks")
        with layer.about("save_output_param"):
            self.names = _label_names(param.label_map_file)
            self.images = read_sizes(param.name_size_file, int)
        self.classes = [name for label, name in self.names.items() if label != background]
        self.period = param.num_test_image or len(self.images)
        layer.check(
            0 < self.period <= len(self.images),
            f"num_test_image is {self.period}, {param.name_size_file} has {len(self.images)} images",
        )
        with layer.about("save_output_param"):
            for name in self._file_names():
                _check_place(Path(param.output_directory), name, self.format)
        self.found: list[Found] = []
        self.seen = 0

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image that comes next."""
        return self.images[self.seen][1:]

    def add(self, labels: np.ndarray, scores: np.ndarray, boxes: np.ndarray) -> None:
        """The detections of the next image: (K), (K), (K, 4) corners in its pixels."""
        image = self.images[self.seen][0]
        for label, score, box in zip(labels.astype(int).tolist(), scores.tolist(), boxes.astype(float), strict=True):
            if label not in self.names:
                self.layer.fail(f"Cannot find label: {label} in the label map {self.param.label_map_file}.")
            sides = [*box[:2], *(box[2:] - box[:2])]
            self.found.append(
                Found(image, label, score, [np.floor(abs(v) * 100 + 0.5) * np.sign(v) / 100 for v in sides])
            )
        self.seen += 1
        if self.seen == self.period:
            self._write()
            self.seen, self.found = 0, []

    def _file_names(self) -> list[str]:
        """Of the files."""
        prefix = self.param.output_name_prefix
        if self.format == "VOC":
            return [f"{prefix}{name}.txt" for name in self.classes]
        return [f"{prefix}.{'json' if self.format == 'COCO' else 'txt'}"]

    def _write(self) -> None:
        folder = Path(self.param.output_directory)
        if self.format == "COCO":
            texts = [self._coco()]
        elif self.format == "ILSVRC":
            lines = [f"{one.image} {one.label} {one.score:g} {_corners(one)}\n" for one in self.found]
            texts = ["".join(lines)]
        else:
            rows: dict[str, list[str]] = {name: [] for name in self.names.values()}
            for one in self.found:
                rows[self.names[one.label]].append(f"{one.image} {one.score:g} {_corners(one)}\n")
            texts = ["".join(rows[name]) for name in self.classes]
        with self.layer.about("save_output_param"):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise CaffeError(f"output_directory {folder} cannot be made: {error.strerror}") from None
            named = zip(self._file_names(), texts, strict=True)
            write_together({folder / name: text.encode("utf-8", "surrogateescape") for name, text in named})

    def _coco(self) -> str:
        rows = [
            {
                "image_id": _number(one.image),
                "category_id": _number(self.names[one.label]),
                "bbox": one.box,
                "score": one.score,
            }
            for one in self.found
        ]
        return "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"


def result_files(param: Any, layer: Layer, background: int) -> ResultFiles | None:
    """ResultFiles, if save_output_param names a folder, the labels and the images; a warning if only the folder."""
    if not param.output_directory:
        return None
    for field in ("label_map_file", "name_size_file"):
        if not getattr(param, field):
            layer.context.emit(notices.NoResultFiles(field))
            return None
    return ResultFiles(param, layer, background)


def in_pixels(boxes: np.ndarray, size: tuple[int, int], resize: Any = None) -> np.ndarray:
    """Boxes (K, 4) as fractions of what the net saw, as pixels of the image of this size (OutputBBox).

    resize: the resize_param that made the one of the other; None or WARP: as fractions of the image.
    """
    height, width = size
    scale = np.array([width, height, width, height], np.float32)
    mode = resize.resize_mode if resize is not None else _R.WARP
    if mode == _R.FIT_SMALL_SIZE and resize.height_scale and resize.width_scale:
        return (boxes * np.array([resize.width_scale, resize.height_scale] * 2, np.float32)).clip(0, scale)
    if mode == _R.FIT_LARGE_SIZE_AND_PAD:
        aspect, wanted = width / height, resize.width / resize.height
        pad_x = max(0.0, (resize.width - resize.height * aspect) / 2 / resize.width) if aspect <= wanted else 0.0
        pad_y = (resize.height - resize.width / aspect) / 2 / resize.height if aspect > wanted else 0.0
        start = np.array([pad_x, pad_y] * 2, np.float32)
        boxes = (boxes - start) / (1 - 2 * start)
    return boxes.clip(0, 1) * scale


def _check_place(folder: Path, name: str, form: str) -> None:
    """CaffeError if such a file would lie elsewhere, or replace another kind of file: the names come from files."""
    if Path(name).name != name:
        raise CaffeError(f"{name!r:.60} is no name of a file: it comes from the label map and output_name_prefix")
    try:
        with open(folder / name, "rb") as file:
            first = file.readline(4096)
    except (OSError, ValueError):  # not there; what else it may be shows when it is written
        return
    if first and not re.match(_FIRST_LINE[form], first):
        raise CaffeError(f"{folder / name} is there and is no {form} result: a net does not overwrite it")


def _label_names(path: str) -> dict[int, str]:
    items = proto_text.read_text(path, caffe_pb2.LabelMap).item
    names = {item.label: item.name for item in items}
    if len(names) < len(items) or len(set(names.values())) < len(names):
        raise CaffeError(f"{path}: a label or a name occurs twice")
    return names


def read_sizes(path: str, number: type[N]) -> list[tuple[str, N, N]]:
    """Images of a name_size_file, `name height width` a line; number: what heights and widths are. CaffeError for
    other lines."""
    rows = []
    for at, line in enumerate(read_text(path).splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            name, height, width = words
            rows.append((name, number(height), number(width)))
        except ValueError:
            raise CaffeError(f"{path}:{at}: needs `name height width`, not {line[:60]!r}") from None
    return rows


def _corners(one: Found) -> str:
    x, y, width, height = (int(value) for value in one.box)
    return f"{x} {y} {x + width} {y + height}"


def _number(name: str) -> int | str:
    return int(name) if name.isascii() and name.isdigit() else name

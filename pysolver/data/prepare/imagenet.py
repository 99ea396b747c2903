"""ImageNet, or any images in one folder a class: DIR/train/<class>/<image> and DIR/val/<class>/<image>."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pysolver.data.prepare.imageset import convert_imageset
from pysolver.data.prepare.mean import compute_image_mean
from pysolver.errors import CaffeError

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".tif", ".tiff", ".webp"}
_SIZE = 256
_SEED = 0


def writer(source_dir: str | Path | None) -> Callable[[Path, Path, Path], None]:
    """What writes the databases and the mean file, if source_dir is as it must be; else CaffeError."""
    if source_dir is None:
        raise CaffeError("imagenet: --from DIR is needed, with DIR/train/<class>/<image> and DIR/val/<class>/<image>")
    root = Path(source_dir)
    classes = _classes(root / "train")
    unknown = set(_classes(root / "val")) - set(classes)
    if unknown:
        raise CaffeError(f"{root / 'val'}: classes that {root / 'train'} lacks: {', '.join(sorted(unknown)[:5])}")
    return partial(_write, root, classes)


def _write(root: Path, classes: list[str], train: Path, test: Path, mean: Path) -> None:
    """256 x 256 images as JPEGs, shuffled; a class's label is its place among the sorted names in DIR/train."""
    _convert(root / "train", classes, train)
    _convert(root / "val", classes, test)
    compute_image_mean(str(train), mean)


def _classes(folder: Path) -> list[str]:
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
    if not names:
        raise CaffeError(f"{folder}: a folder with one folder of images a class is needed")
    return names


def _convert(folder: Path, classes: list[str], database: Path) -> None:
    lines = [
        f"{name}/{image.name} {label}\n"
        for label, name in enumerate(classes)
        for image in sorted((folder / name).glob("*"))
        if image.suffix.lower() in _SUFFIXES
    ]
    with tempfile.NamedTemporaryFile("w", suffix=".txt", errors="surrogateescape") as listed:
        listed.writelines(lines)
        listed.flush()
        stored: dict[str, Any] = {"resize_width": _SIZE, "resize_height": _SIZE, "encode_type": "jpg"}
        convert_imageset(f"{folder}/", listed.name, database, shuffle=True, seed=_SEED, **stored)

"""PASCAL VOC for AnnotatedData, from its own archives (host.robots.ox.ac.uk/pascal/VOC describes the files).

As SSD's scripts make it: training on the trainval sets of 2007 and 2012, test on the test set of 2007.
"""

from __future__ import annotations

import contextlib
import random
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

from tqdm import tqdm

from pysolver.data.database_writer import new_database, write_all
from pysolver.data.databases import LMDB
from pysolver.data.prepare.archives import files_of, in_place
from pysolver.errors import CaffeError
from pysolver.files import write_atomic
from pysolver.proto.caffe_pb2 import AnnotatedDatum, LabelMap
from pysolver.proto.text import to_text

_NAMES = """aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant
sheep sofa train tvmonitor"""
CLASSES = _NAMES.split()
_TRAIN = (("VOC2007", "trainval"), ("VOC2012", "trainval"))
_TEST = (("VOC2007", "test"),)
_SEED = 0
_LARGEST = 1 << 26  # bytes of one file
_LARGEST_XML = 1 << 20

Item = tuple[str, str]  # year's folder, name of the image


def writer(source_dir: str | Path | None) -> Callable[..., None]:
    """What writes the databases, the label map and the test images' sizes, if source_dir is as it must be; else
    CaffeError.
    """
    if source_dir is None:
        raise CaffeError(
            "voc: --from DIR is needed, with VOCtrainval_06-Nov-2007.tar, VOCtest_06-Nov-2007.tar and "
            "VOCtrainval_11-May-2012.tar, or what they hold (VOCdevkit)"
        )
    devkit = Devkit(Path(source_dir))
    train = [item for year, part in _TRAIN for item in devkit.listed(year, part)]
    test = [item for year, part in _TEST for item in devkit.listed(year, part)]
    if not train or not test:
        raise CaffeError(f"{source_dir}: no trainval set or no test set of 2007 is there")
    random.Random(_SEED).shuffle(train)
    return partial(_write, devkit, train, test)


@contextlib.contextmanager
def _readable(path: str | Path) -> Iterator[None]:
    """CaffeError for a file that cannot be read; FileNotFoundError passes."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise CaffeError(f"{path}: cannot be read: {error}") from None


class Devkit:
    """The files below VOCdevkit, in a folder or in archives."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._members: dict[str, tuple[tarfile.TarFile, tarfile.TarInfo]] = {}
        for path in sorted(root.glob("VOC*.tar")):
            with _readable(path):
                archive = in_place(path)
                self._members |= {member.name: (archive, member) for member in files_of(archive)}
        if not self._members and not (root / "VOCdevkit").is_dir():
            raise CaffeError(f"{root}: neither VOC*.tar nor a folder VOCdevkit is there")

    def listed(self, year: str, part: str) -> list[Item]:
        """The images of a set; none if the set is not there."""
        try:
            names = self.read(f"{year}/ImageSets/Main/{part}.txt").decode("utf-8", "replace").split()
        except FileNotFoundError:
            return []
        for name in names:
            if not re.fullmatch(r"\w[\w.-]*", name):  # it becomes part of a path
                raise CaffeError(f"{year}/ImageSets/Main/{part}.txt: {name!r:.60} is no name of an image")
        return [(year, name) for name in names]

    def read(self, path: str) -> bytes:
        """A file below VOCdevkit; FileNotFoundError if it is not there, CaffeError if it is too large."""
        path = f"VOCdevkit/{path}"
        with _readable(path):
            if path in self._members:
                archive, member = self._members[path]
                file = archive.extractfile(member)
            else:
                file = open(self._root / path, "rb")  # noqa: SIM115  closed below
            with file:
                data = file.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise CaffeError(f"{path}: larger than {_LARGEST} bytes")
        return data


def _write(
    devkit: Devkit,
    train: list[Item],
    test: list[Item],
    train_path: Path,
    test_path: Path,
    map_path: Path,
    sizes_path: Path,
) -> None:
    sizes: list[str] = []
    for items, path in ((train, train_path), (test, test_path)):
        sizes.clear()
        records = tqdm(_records(devkit, items, sizes), path.name, len(items), unit="image", disable=None)
        with new_database(path, LMDB) as database:
            write_all(database, records)
    names = LabelMap()
    for label, name in enumerate(["none_of_the_above", *CLASSES]):
        names.item.add(name=name, label=label, display_name=name if label else "background")
    write_atomic(map_path, to_text(names).encode())
    write_atomic(sizes_path, "".join(sizes).encode())


def _records(devkit: Devkit, items: list[Item], sizes: list[str]) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values; `name height width` of each go to sizes."""
    for number, (year, name) in enumerate(items):
        image = f"{year}/JPEGImages/{name}.jpg"
        try:
            record = annotated(devkit.read(f"{year}/Annotations/{name}.xml"), f"{year}/Annotations/{name}.xml")
            record.datum.data, record.datum.encoded = devkit.read(image), True
            sizes.append(f"{name} {record.datum.height} {record.datum.width}\n")
        except FileNotFoundError as error:
            raise CaffeError(f"{error.filename or image}: listed, but not there") from None
        yield b"%08d_%s" % (number, image.encode()), record.SerializeToString()


def annotated(xml: bytes, name: str) -> AnnotatedDatum:
    """The objects of an annotation file, by class in the order of their first appearance; corners over the size."""
    if b"<!" in xml or b"\0" in xml:  # entities could blow it up, in UTF-16 too
        raise CaffeError(f"{name}: not an annotation of VOC: it has declarations, or is no text of single bytes")
    if len(xml) > _LARGEST_XML:
        raise CaffeError(f"{name}: not an annotation of VOC: larger than {_LARGEST_XML} bytes")
    record, groups, instances = AnnotatedDatum(type="BBOX"), {}, Counter[int]()
    try:
        root = ElementTree.fromstring(xml)
        width, height = (int(root.findtext(f"size/{side}", "0")) for side in ("width", "height"))
        record.datum.width, record.datum.height, record.datum.channels = width, height, 3
        for one in root.iterfind("object"):
            label = CLASSES.index(one.findtext("name", "")) + 1
            x1, y1, x2, y2 = (float(one.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax"))
            if label not in groups:
                groups[label] = record.annotation_group.add(group_label=label)
            box = {"xmin": x1 / width, "ymin": y1 / height, "xmax": x2 / width, "ymax": y2 / height}
            difficult = one.findtext("difficult", "0").strip() == "1"
            groups[label].annotation.add(instance_id=instances[label], bbox={**box, "difficult": difficult})
            instances[label] += 1
    except (ElementTree.ParseError, ValueError, ZeroDivisionError) as error:
        raise CaffeError(f"{name}: not an annotation of VOC: {error}") from None
    return record

"""`pysolver data voc`: records as SSD's tools write them, from archives or from the folder."""

from __future__ import annotations

import tarfile

import cv2
import lmdb
import numpy as np
import pytest

from pysolver.component import create
from pysolver.context import Context
from pysolver.data.prepare import prepare, voc
from pysolver.errors import CaffeError
from pysolver.proto.caffe_pb2 import AnnotatedDatum, LabelMap, LayerParameter
from pysolver.proto.text import parse_text, read_text

XML = """<annotation><size><width>40</width><height>20</height><depth>3</depth></size>
<object><name>dog</name><difficult>0</difficult>
  <bndbox><xmin>4</xmin><ymin>5</ymin><xmax>20</xmax><ymax>15</ymax></bndbox></object>
<object><name>person</name><difficult>1</difficult>
  <bndbox><xmin>1</xmin><ymin>1</ymin><xmax>10</xmax><ymax>20</ymax></bndbox></object>
<object><name>dog</name><bndbox><xmin>30</xmin><ymin>2</ymin><xmax>40</xmax><ymax>8</ymax></bndbox></object>
</annotation>"""


def _devkit(root, packed):
    """One image of trainval 2007, two of 2012, one of test 2007."""
    sets = {
        ("VOC2007", "trainval"): ["000001"],
        ("VOC2012", "trainval"): ["2008_1", "2008_2"],
        ("VOC2007", "test"): ["9"],
    }
    image = cv2.imencode(".jpg", np.full((20, 40, 3), 7, np.uint8))[1].tobytes()
    for (year, part), names in sets.items():
        folder = root / "VOCdevkit" / year
        for name in ("ImageSets/Main", "Annotations", "JPEGImages"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / f"ImageSets/Main/{part}.txt").write_text("\n".join(names) + "\n")
        for name in names:
            (folder / f"Annotations/{name}.xml").write_text(XML)
            (folder / f"JPEGImages/{name}.jpg").write_bytes(image)
    if packed:
        with tarfile.open(root / "VOCtrainval.tar", "w") as archive:
            archive.add(root / "VOCdevkit", "VOCdevkit")
        (root / "VOCdevkit").rename(root / "elsewhere")
    return root


@pytest.mark.parametrize("packed", [False, True])
def test_databases_and_label_map(tmp_path, packed):
    source = tmp_path / "source"
    source.mkdir()
    paths = prepare("voc", tmp_path / "out", _devkit(source, packed))
    parts = ["train_lmdb", "test_lmdb", "labelmap.prototxt", "test_name_size.txt"]
    assert [path.name for path in paths] == [f"voc_{part}" for part in parts]
    train, test, names, sizes = paths
    assert sizes.read_text() == "9 20 40\n"
    with lmdb.open(str(train), readonly=True, lock=False) as environment, environment.begin() as transaction:
        keys, values = zip(*transaction.cursor())
    assert sorted(key.split(b"_", 1)[1] for key in keys) == [
        b"VOC2007/JPEGImages/000001.jpg",
        b"VOC2012/JPEGImages/2008_1.jpg",
        b"VOC2012/JPEGImages/2008_2.jpg",
    ]
    record = AnnotatedDatum.FromString(values[0])
    assert record.datum.encoded
    rows = [
        (
            group.group_label,
            one.instance_id,
            one.bbox.xmin,
            one.bbox.ymin,
            one.bbox.xmax,
            one.bbox.ymax,
            one.bbox.difficult,
        )
        for group in record.annotation_group
        for one in group.annotation
    ]
    expected = [(12, 0, 0.1, 0.25, 0.5, 0.75, 0), (12, 1, 0.75, 0.1, 1, 0.4, 0), (15, 0, 0.025, 0.05, 0.25, 1, 1)]
    np.testing.assert_allclose(rows, expected, rtol=1e-6)
    items = read_text(names, LabelMap).item
    assert [(item.label, item.name) for item in items[:2]] == [(0, "none_of_the_above"), (1, "aeroplane")]
    assert (items[12].name, items[15].name, items[20].name) == ("dog", "person", "tvmonitor")
    text = f'name: "d" type: "AnnotatedData" phase: TEST data_param {{ source: "{test}" batch_size: 1 backend: LMDB }}'
    param = parse_text(text, LayerParameter)
    param.top.extend(["data", "label"])
    layer = create(param, Context())
    layer.set_up()
    images, labels = layer.next_batch()
    assert images.shape == (1, 3, 20, 40)
    assert labels.shape == (1, 1, 3, 8)
    layer.close()


@pytest.mark.parametrize(
    "xml, error",
    [
        (b"<annotation>", "not an annotation of VOC"),
        (b"<!DOCTYPE x><annotation/>", "it has declarations"),
        ("<!DOCTYPE x [<!ENTITY a 'b'>]><annotation>&a;</annotation>".encode("utf-16"), "it has declarations"),
        (b"<annotation>" + b"<a/>" * 300_000, "larger than 1048576 bytes"),
        (XML.replace("dog", "unicorn").encode(), "'unicorn' is not in list"),
        (XML.replace("<width>40", "<width>0").encode(), "division by zero"),
    ],
)
def test_bad_annotations(xml, error):
    with pytest.raises(CaffeError, match=f"^a.xml: .*{error}"):
        voc.annotated(xml, "a.xml")


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(CaffeError, match="--from DIR is needed"):
        prepare("voc", tmp_path / "out")
    with pytest.raises(CaffeError, match="neither VOC"):
        prepare("voc", tmp_path / "out", tmp_path)
    source = tmp_path / "source"
    source.mkdir()
    _devkit(source, False)
    (source / "VOCdevkit/VOC2012/JPEGImages/2008_2.jpg").unlink()
    with pytest.raises(CaffeError, match="2008_2.jpg: listed, but not there"):
        prepare("voc", tmp_path / "out", source)
    assert not list((tmp_path / "out").glob("voc*"))


@pytest.mark.parametrize(
    "name, content, error",
    [
        ("VOC1.tar", b"no archive" * 99, "VOC1.tar: cannot be read"),
        ("VOCdevkit/VOC2007/ImageSets/Main/trainval.txt", b"1 ../../../secret", "'../../../secret' is no name"),
        ("VOCdevkit/VOC2007/ImageSets/Main/trainval.txt", b"1\xff", "is no name of an image"),
    ],
)
def test_what_a_stranger_may_have_put_there(tmp_path, name, content, error):
    _devkit(tmp_path, False)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CaffeError, match=error):
        voc.writer(tmp_path)

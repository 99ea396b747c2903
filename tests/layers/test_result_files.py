"""Result files of DetectionOutput and FrcnnOutput: the formats of VOC, COCO and ILSVRC."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from pysolver.errors import CaffeError
from pysolver.layers.forks.result_files import in_pixels
from pysolver.proto import caffe_pb2

PRIORS = [[0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0.9, 1.1]]
# Scores of background, cat, dog for each of the two priors of each image: 3 detections, 1, none, 1.
SCORES = [
    [[0, 0.9, 0.25], [0, 0, 0.123456789]],
    [[1, 0, 0], [0, 0.5, 0]],
    [[1, 0, 0], [1, 0, 0]],
    [[0, 0, 1], [1, 0, 0]],
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    items = [(0, "none_of_the_above"), (1, "cat"), (2, "dog")]
    text = "".join(f'item {{ name: "{name}" label: {label} display_name: "x" }}\n' for label, name in items)
    (tmp_path / "labels.prototxt").write_text(text)
    (tmp_path / "sizes.txt").write_text("000012 100 200\n13 50 80\n14 100 100\n15 100 100\n")
    return tmp_path


SAVE = """save_output_param {{ output_directory: "out/here" output_name_prefix: "{}" output_format: "{}"
          label_map_file: "labels.prototxt" name_size_file: "sizes.txt" {} }}"""


def detector(make, save: str):
    text = f"""num_classes: 3 confidence_threshold: 0.1 nms_param {{ nms_threshold: 0.9 }}
               variance_encoded_in_target: true {save}"""
    return make(f'type: "DetectionOutput" detection_output_param {{ {text} }}', (2, 8), (2, 6), (1, 2, 8), phase="TEST")


def detect(layer, images):
    priors = torch.tensor([[PRIORS[0] + PRIORS[1], [0.1] * 8]])
    scores = torch.tensor([SCORES[image] for image in images]).flatten(1)
    layer(torch.zeros(len(images), 8), scores, priors)


def test_voc(folder, make):
    layer = detector(make, SAVE.format("comp4_det_test_", "VOC", ""))
    detect(layer, [0, 1])
    assert not (folder / "out").exists()
    detect(layer, [2, 3])
    out = folder / "out" / "here"
    assert sorted(path.name for path in out.iterdir()) == ["comp4_det_test_cat.txt", "comp4_det_test_dog.txt"]
    # 0.1 and 0.3 of 200 columns; beyond 1 is clipped to the image
    assert (out / "comp4_det_test_cat.txt").read_text() == "000012 0.9 20 20 60 40\n13 0.5 40 25 72 50\n"
    dogs = "000012 0.25 20 20 60 40\n000012 0.123457 100 50 180 100\n15 1 10 20 30 40\n"
    assert (out / "comp4_det_test_dog.txt").read_text() == dogs


def test_ilsvrc_in_rounds(folder, make):
    """Of num_test_image images each: the second round replaces the file."""
    layer = detector(make, SAVE.format("result", "ILSVRC", "num_test_image: 2"))
    path = folder / "out/here/result.txt"
    detect(layer, [1, 2])
    assert path.read_text() == "000012 1 0.5 100 50 180 100\n"
    detect(layer, [3, 2])
    assert path.read_text() == "000012 2 1 20 20 60 40\n"


def test_coco(folder, make):
    layer = detector(make, SAVE.format("result", "COCO", "num_test_image: 1"))
    detect(layer, [0])
    found = json.loads((folder / "out/here/result.json").read_text())
    assert [(one["image_id"], one["category_id"]) for one in found] == [(12, "cat"), (12, "dog"), (12, "dog")]
    assert [one["bbox"] for one in found] == [[20, 20, 40, 20], [20, 20, 40, 20], [100, 50, 80, 50]]
    np.testing.assert_allclose([one["score"] for one in found], [0.9, 0.25, 0.123456789], rtol=1e-7)


def test_of_frcnn_output(folder, make):
    """The net saw 50 x 100: half of the image; a box of 10 x 10 from (10, 20) on."""
    save = SAVE.format("r", "ILSVRC", "num_test_image: 1")
    text = f"type: 'FrcnnOutput' frcnn_output_param {{ conf_thr: 0.5 {save} }} bbox_reg_param {{ cls_aware: false }}"
    layer = make(text, (1, 3), (1, 8), (1, 5), (1, 2), phase="TEST")
    given = ([[0.1, 0.7, 0.2]], [[0.0] * 8], [[0, 10, 20, 20, 30]], [[50, 100]])
    layer(*(torch.tensor(values) for values in given))
    assert (folder / "out/here/r.txt").read_text() == "000012 1 0.7 20 40 40 60\n"


def test_nothing_is_written_when_it_cannot_be(folder, make):
    (folder / "out").write_text("in the way")
    layer = detector(make, SAVE.format("result", "VOC", "num_test_image: 1"))
    with pytest.raises(CaffeError, match=r"layer 'layer' \(DetectionOutput\): save_output_param: .*out/here"):
        detect(layer, [0])


@pytest.mark.parametrize(
    "old, new, words",
    [
        ('"VOC"', '"XML"', "output_format is VOC, COCO or ILSVRC, not 'XML'"),
        ("labels.prototxt", "no.prototxt", "save_output_param: no.prototxt"),
        ("sizes.txt", "wrong.txt", "wrong.txt:2: needs `name height width`, not '13 50'"),
        ("}", "num_test_image: 5 }", "num_test_image is 5, sizes.txt has 4 images"),
        ("labels.prototxt", "twice.prototxt", "a label or a name occurs twice"),
    ],
)
def test_errors(old, new, words, folder, make):
    (folder / "wrong.txt").write_text("12 100 200\n13 50\n")
    (folder / "twice.prototxt").write_text("item { name: 'a' label: 1 } item { name: 'b' label: 1 }")
    with pytest.raises(CaffeError, match=words):
        detector(make, SAVE.format("p", "VOC", "").replace(old, new))


def test_a_label_that_the_map_does_not_have(folder, make):
    (folder / "labels.prototxt").write_text("item { name: 'cat' label: 1 }")
    layer = detector(make, SAVE.format("p", "VOC", ""))
    with pytest.raises(CaffeError, match="Cannot find label: 2 in the label map labels.prototxt"):
        detect(layer, [0])


def test_only_a_folder_is_a_warning(folder, make, capsys):
    layer = detector(make, SAVE.format("p", "VOC", "").replace('label_map_file: "labels.prototxt"', ""))
    detect(layer, [0, 1])
    assert "Provide label_map_file if output results to files." in capsys.readouterr().err
    assert not (folder / "out").exists()


@pytest.mark.parametrize("size", [(100, 200), (240, 120), (90, 90)])
@pytest.mark.parametrize("mode", ["WARP", "FIT_LARGE_SIZE_AND_PAD", "FIT_SMALL_SIZE"])
def test_where_the_pixels_were(mode, size):
    """A box of the image, where the resized image shows it, comes back."""
    resize = caffe_pb2.ResizeParameter(
        resize_mode=caffe_pb2.ResizeParameter.Resize_mode.Value(mode), height=60, width=80
    )
    height, width = size
    box = np.array([[10, 20, 70, 80.0]])
    shown = box / [width, height, width, height]
    if mode == "FIT_LARGE_SIZE_AND_PAD":
        factor = min(60 / height, 80 / width)
        above, before = (60 - height * factor) / 2, (80 - width * factor) / 2
        shown = (box * factor + [before, above] * 2) / [80, 60, 80, 60]
    np.testing.assert_allclose(in_pixels(shown.astype(np.float32), size, resize), box, rtol=1e-5)


def test_a_class_whose_name_leads_elsewhere(folder, make):
    """The label map comes from a stranger as often as the net."""
    (folder / "labels.prototxt").write_text("item { name: 'a' label: 1 } item { name: '/../../../notes' label: 2 }")
    with pytest.raises(CaffeError, match="save_output_param: '/../../../notes.txt' is no name of a file"):
        detector(make, SAVE.format("", "VOC", ""))


@pytest.mark.parametrize("form, name", [("VOC", "pcat.txt"), ("ILSVRC", "p.txt"), ("COCO", "p.json")])
def test_files_of_ones_own_stay(form, name, folder, make):
    """Results of an earlier run are replaced, nothing else."""
    out = folder / "out" / "here"
    for images in ([0, 1, 2, 3], [3, 2, 1, 0]):
        detect(detector(make, SAVE.format("p", form, "")), images)
    assert (out / name).stat().st_size
    (out / name).write_text("My notes, of years.\n")
    with pytest.raises(CaffeError, match=f"{name} is there and is no {form} result: a net does not overwrite it"):
        detector(make, SAVE.format("p", form, ""))
    assert (out / name).read_text() == "My notes, of years.\n"

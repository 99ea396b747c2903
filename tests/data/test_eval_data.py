"""EvalData of Cascade R-CNN, and the evaluation in pixels that reads it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from pysolver.component import create
from pysolver.context import Context
from pysolver.errors import CaffeError
from pysolver.layers.forks import evaluation  # noqa: F401  registers DetectionEvaluate
from pysolver.proto import caffe_pb2
from pysolver.proto.text import parse_text

WINDOWS = """# 0
a.png
3 60 90
2
1 0 0 10 20 30 40
2 1 1 0 0 89 59
1
5 5 9 9
# 1
b.png
3 64 32
0
0
"""
TEXT = """name: "d" type: "EvalData" top: "data" top: "gt" top: "size" transform_param { mean_value: 7 }
          eval_data_param { source: "windows.txt" batch_size: 1 %s }"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for name, size in (("a", (60, 90)), ("b", (64, 32))):
        cv2.imwrite(f"{name}.png", random.integers(0, 256, (*size, 3)).astype(np.uint8))
    (tmp_path / "windows.txt").write_text(WINDOWS)
    return tmp_path


def test_images_and_objects(folder, make_source):
    """60 x 90 with a shorter side of 120 and no longer one than 160: 120 x 160, then multiples of 32."""
    source = make_source(TEXT % "short_size: 120 long_size: 160", "TEST")
    assert source.records == 2
    data, objects, size = source.next_batch()
    assert size.flatten().tolist() == [128, 160]
    expected = cv2.resize(cv2.imread("a.png"), (160, 128)).transpose(2, 0, 1) - 7.0
    np.testing.assert_array_equal(data[0], expected)
    x, y = 160 / 90, 128 / 60
    rows = [[0, 10 * x, 20 * y, 30 * x, 40 * y, 1, 0, 0], [0, 0, 0, 89 * x, 59 * y, 2, 1, 1]]
    np.testing.assert_allclose(objects.reshape(-1, 8), rows, rtol=1e-6)
    data, objects, size = source.next_batch()
    assert size.flatten().tolist() == [160, 128] and data.shape == (1, 3, 160, 128)  # 240 x 120, then 160 x 120
    assert objects.flatten().tolist() == [-1] * 8
    data, _, _ = source.next_batch()
    np.testing.assert_array_equal(data[0], expected)


def test_as_they_are(folder, make_source):
    source = make_source(TEXT % "", "TEST")
    data, _, size = source.next_batch()
    assert size.flatten().tolist() == [64, 96]
    np.testing.assert_array_equal(
        source.next_batch()[0][0] + 7, cv2.imread("b.png").transpose(2, 0, 1).astype(np.float32)
    )


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("# 1", "# 2", "indices from 0 on, each once"),
        ("10 20", "10 x", "windows.txt:5: an object's y1 expected, not 'x'"),
        ("a.png", "c.png", "windows.txt: # 0: Could not load c.png"),
        ("10 20", f"10 {10**400}", "windows.txt:5: an object's y1 expected, not '1000"),
    ],
)
def test_errors(old, new, words, folder, make_source):
    (folder / "windows.txt").write_text(WINDOWS.replace(old, new))
    with pytest.raises(CaffeError, match=words):
        make_source(TEXT % "", "TEST")


def test_a_fixed_size_or_one_image(folder, make_source):
    with pytest.raises(CaffeError, match="batch_size is 1 without"):
        make_source((TEXT % "").replace("batch_size: 1", "batch_size: 2"), "TEST")


def test_evaluation_in_pixels(folder):
    """Two images, the first without a detection: then the second is judged in its own pixels, 200 x 400, of which the
    net saw 100 x 100. Overlaps there: 1/2 of the first object; of a difficult one, enough."""
    (folder / "sizes.txt").write_text("a 50 50\nb 200 400\n")
    text = """name: "e" type: "DetectionEvaluate" phase: TEST bottom: "a" bottom: "b" bottom: "c" top: "t"
              detection_evaluate_param { num_classes: 3 overlap_threshold: 0.49 evaluate_difficult_gt: false
                                         name_size_file: "sizes.txt" }"""
    layer = create(parse_text(text, caffe_pb2.LayerParameter), Context())
    found = [[0, *[-1] * 6], [1, *[-1] * 6], [1, 10, 10, 19.75, 19.5, 1, 0.9], [1, 10, 10, 19.75, 19.5, 1, 0.8],
             [1, 50, 50, 60, 60, 2, 0.7], [1, 0, 0, 5, 5, 2, 0.6]]  # fmt: skip
    # 40 x 20 pixels each, the object 40 x 40
    real = [[1, 10, 10, 19.75, 29.5, 1, 0, 0], [1, 50, 50, 60, 60, 2, 0, 1], [0, 1, 1, 9, 9, 2, 0, 0]]
    sizes = [[100, 100], [100, 100]]
    tensors = [torch.tensor(rows, dtype=torch.float32) for rows in (found, real, sizes)]
    layer.set_up(*(tuple(t.shape) for t in tensors))
    rows = layer(*tensors).reshape(-1, 5).tolist()
    verdicts = [[1, 1, 0.9, 1, 0], [1, 1, 0.8, 0, 1], [1, 2, 0.7, 0, 0], [1, 2, 0.6, 0, 1]]
    np.testing.assert_allclose(rows[:6], [[-1, 1, 1, -1, -1], [-1, 2, 1, -1, -1], *verdicts], rtol=1e-6)


def test_a_size_of_gigabytes(folder, make_source):
    with pytest.raises(CaffeError, match="cannot be resized to"):
        make_source(TEXT % "resize_height: 100000 resize_width: 100000", "TEST")

"""The net that most tests of caffe.Net use: two inner products, and a softmax loss."""

from __future__ import annotations

from pathlib import Path

DENSE = (Path(__file__).parents[1] / "golden/pycaffe/dense.prototxt").read_text()

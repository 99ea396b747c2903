"""Nets that a real Caffe computed: values, gradients and statistics, through the public interface.

tests/golden/layers: BVLC Caffe 1.0; tests/golden/layers_ssd: a Caffe of the SSD line. Keys: in.BLOB, param.LAYER.I,
out.BLOB, topdiff.BLOB, indiff.BLOB, paramdiff.LAYER.I, param_after.LAYER.I, and in2, out2, param_after2 of a second
forward.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import pysolver as caffe

DATA = Path(__file__).parents[1] / "golden"
CASES = sorted([*(DATA / "layers").glob("*.npz"), *(DATA / "layers_ssd").glob("*.npz")])


class Comparison:
    """One case against a net of ours."""

    def __init__(self, path: Path, folder: Path) -> None:
        self.case = dict(np.load(path))
        (folder / "net.prototxt").write_text(str(self.case["prototxt"]))
        phase = caffe.TRAIN if str(self.case["phase"]) == "TRAIN" else caffe.TEST
        self.net = caffe.Net(str(folder / "net.prototxt"), phase)

    def named(self, kind: str) -> list[tuple[str, np.ndarray]]:
        return [(key[len(kind) + 1 :], value) for key, value in self.case.items() if key.startswith(f"{kind}.")]

    def parameter(self, name: str) -> caffe.Net:
        layer, index = name.rsplit(".", 1)
        return self.net.params[layer][int(index)]

    def feed(self, kind: str) -> None:
        for name, value in self.named(kind):
            self.net.blobs[name].data[...] = value

    def check(self, kind: str, got) -> None:
        for name, expected in self.named(kind):
            value = np.asarray(got(name), np.float64)
            assert value.shape == expected.shape, f"{kind}.{name}"
            error = np.abs(value - expected) / np.maximum(1, np.abs(expected))
            np.testing.assert_array_less(
                np.nan_to_num(error, nan=np.inf), float(self.case["tolerance"]), f"{kind}.{name}"
            )


def test_all_cases_are_there():
    assert len(CASES) == 186 + 36


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_computes_what_caffe_computes(path: Path, tmp_path: Path):
    this = Comparison(path, tmp_path)
    this.feed("in")
    for name, value in this.named("param"):
        this.parameter(name).data[...] = value
    this.net.forward()
    this.check("out", lambda name: this.net.blobs[name].data)
    this.check("param_after", lambda name: this.parameter(name).data)
    for name, value in this.named("topdiff"):
        this.net.blobs[name].diff[...] = value
    if this.named("indiff") or this.named("paramdiff"):
        this.net.backward()
        this.check("indiff", lambda name: this.net.blobs[name].diff)
        this.check("paramdiff", lambda name: this.parameter(name).diff)
    if this.named("out2") or this.named("param_after2"):
        this.feed("in2")
        this.net.forward()
        this.check("out2", lambda name: this.net.blobs[name].data)
        this.check("param_after2", lambda name: this.parameter(name).data)

"""Nets that a real Caffe computed: values, gradients and statistics.

tests/golden/layers: BVLC Caffe 1.0; tests/golden/layers_ssd: a Caffe of the SSD line. Keys: in.BLOB, param.LAYER.I,
out.BLOB, topdiff.BLOB, indiff.BLOB, paramdiff.LAYER.I, param_after.LAYER.I, and in2, out2, param_after2 of a second
forward.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

import pysolver as caffe

DATA = Path(__file__).parents[1] / "golden"
CASES = sorted([*(DATA / "layers").glob("*.npz"), *(DATA / "layers_ssd").glob("*.npz")])


class Comparison:
    """One case against a net of ours."""

    def __init__(self, path: Path, folder: Path, slack: float = 1.0) -> None:
        """slack: times the tolerance of the case."""
        self.case = dict(np.load(path))
        self.tolerance = slack * float(self.case["tolerance"])
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

    def check(self, kind: str, got, names: Collection[str] | None = None) -> None:
        """got: what came out for a name. names: these only."""
        for name, expected in self.named(kind):
            if names is not None and name not in names:
                continue
            value = np.asarray(got(name), np.float64)
            assert value.shape == expected.shape, f"{kind}.{name}"
            error = np.abs(value - expected) / np.maximum(1, np.abs(expected))
            np.testing.assert_array_less(np.nan_to_num(error, nan=np.inf), self.tolerance, f"{kind}.{name}")

    def run(self) -> None:
        """Forward, backward, and forward again, each compared."""
        self.feed("in")
        for name, value in self.named("param"):
            self.parameter(name).data[...] = value
        self.net.forward()
        self.check("out", lambda name: self.net.blobs[name].data)
        self.check("param_after", lambda name: self.parameter(name).data)
        for name, value in self.named("topdiff"):
            self.net.blobs[name].diff[...] = value
        if self.named("indiff") or self.named("paramdiff"):
            self.net.backward()
            self.check("indiff", lambda name: self.net.blobs[name].diff)
            self.check("paramdiff", lambda name: self.parameter(name).diff)
        if self.named("out2") or self.named("param_after2"):
            self.feed("in2")
            self.net.forward()
            self.check("out2", lambda name: self.net.blobs[name].data)
            self.check("param_after2", lambda name: self.parameter(name).data)

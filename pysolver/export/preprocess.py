"""--preprocess: what transform_param does to a picture, in front of the model."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from onnx import helper

from pysolver.data.transformer import read_mean
from pysolver.errors import CaffeError
from pysolver.export.onnx.graph import Graph
from pysolver.net.net import Net


class Preprocessing(NamedTuple):
    """(picture - mean) * scale of the input blob. mean: broadcasts to (C, H, W)."""

    blob: str
    mean: np.ndarray
    scale: float

    def apply(self, pictures: np.ndarray) -> np.ndarray:
        """What the data layer makes of pictures (N, C, H, W)."""
        return ((pictures - self.mean) * np.float32(self.scale)).astype(np.float32)

    def undo(self, blob: np.ndarray) -> np.ndarray:
        """The pictures that the data layer has made this of."""
        return (blob / np.float32(self.scale) + self.mean).astype(np.float32)

    def put_before(self, graph: Graph) -> None:
        """The graph's input becomes the picture; the blob as the net reads it is BLOB/preprocessed."""
        inner = f"{self.blob}/preprocessed"
        for node in graph.nodes:
            node.input[:] = [inner if name == self.blob else name for name in node.input]
        nodes, tensor = [], self.blob
        for op, name, value in (("Sub", "mean", self.mean), ("Mul", "scale", np.asarray(self.scale, np.float32))):
            if np.any(value != (0 if op == "Sub" else 1)):
                constant = f"{self.blob}.{name}"
                graph.constants[constant] = np.ascontiguousarray(value, np.float32)
                nodes.append(helper.make_node(op, [tensor, constant], [f"{self.blob}/{name}"], f"{self.blob}/{name}"))
                tensor = nodes[-1].output[0]
        nodes[-1].output[0] = inner
        graph.shapes[inner] = graph.shapes[self.blob]
        graph.nodes[:0] = nodes


def preprocessing_of(net: Net, inputs: list[str]) -> Preprocessing:
    """What the net's data layer does to its pictures. Errors: no data layer among the inputs that transforms any."""
    for source in net.sources.values():
        p = source.param.transform_param
        blob = source.param.top[0] if source.param.top else ""
        if blob in inputs and (p.mean_value or p.HasField("mean_file") or p.scale != 1):
            mean = np.array(list(p.mean_value) or [0], np.float32).reshape(-1, 1, 1)
            if p.HasField("mean_file"):
                mean = read_mean(p.mean_file)
                height, width = net.blobs[blob].shape[2:]  # in TEST the window is the middle of the picture
                top, left = (mean.shape[1] - height) // 2, (mean.shape[2] - width) // 2
                mean = mean[:, top : top + height, left : left + width]
            return Preprocessing(blob, mean, p.scale)
    raise CaffeError(
        f"net '{net.name}': no data layer with a mean or a scale in its transform_param: "
        "--preprocess needs the net's train_val prototxt, or leave it out"
    )

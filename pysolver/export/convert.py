"""to_onnx: the way from a net to an ONNX model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import onnx

from pysolver.errors import CaffeError
from pysolver.export.onnx.emit import dims, emit, generalise
from pysolver.export.onnx.fold import fold
from pysolver.export.onnx.graph import NEWEST, OLDEST
from pysolver.export.onnx.model import assemble
from pysolver.export.preprocess import Preprocessing
from pysolver.export.program import program_of
from pysolver.net.net import Net

OPSET = 21


def to_onnx(
    net: Net,
    *,
    batch: int | Literal["dynamic"] | None = None,
    opset: int = OPSET,
    folded: bool = False,
    preprocessing: Preprocessing | None = None,
    metadata: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """The deploy form of a net as an ONNX model: about one node a layer, named as in Caffe.

    net: a pysolver or pycaffe net, with its weights, as its phase has it; it is not changed. Nodes have the layers'
    names, tensors the blobs', initialisers are LAYER.0, LAYER.1; sources are inputs, losses and accuracies leave (see
    pysolver.export.program). batch: the inputs' first dimension: None the net's own, `dynamic` one called N.
    folded: BatchNorm and Scale become part of the convolution before them, Dropout goes, constants are computed.
    preprocessing: what is done to the pictures in front of the net (see preprocessing_of).
    Errors (CaffeError): a layer that ONNX cannot say, with the reason; nothing left to export; an unknown opset; a
    net whose graph depends on the batch.
    """
    if not OLDEST <= opset <= NEWEST:
        raise CaffeError(f"opset {opset} is not between {OLDEST} and {NEWEST}")
    net = getattr(net, "core", net)
    size = None if batch == "dynamic" else batch
    program = program_of(net, size)
    graph = emit(program, opset)
    shapes = None
    if batch == "dynamic":
        first = next((value.shape[0] for value in program.inputs if value.shape), None)
        if first is None:
            raise CaffeError(f"net '{net.name}' has no input with a batch: --batch dynamic is not possible")
        try:
            other = emit(program_of(net, first + 1), opset)
        except CaffeError as error:
            raise CaffeError(f"{error}: --batch dynamic is not possible") from error
        shapes = generalise(graph, other, first, first + 1)
    if preprocessing is not None:
        preprocessing.put_before(graph)
    if folded:
        fold(graph)
    return assemble(graph, dims(graph, shapes), metadata or {})

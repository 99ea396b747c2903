"""Well-known nets with random weights, out of Caffe: seconds, nodes, file size, and how far the answers are apart.

    python benchmarks/exports.py [FILE.prototxt...]       default: all of examples/nets

Those of the paper: `pysolver data cifar10 experiments/data/cifar10`, then `experiments/nets/*.prototxt`; of a net with
a data layer two pictures are taken.

Weights are those of the fillers, BatchNorm statistics random. CPU seconds: the graph alone; the model with its copy of
the weights. "ONNX Runtime" and "OpenCV" are the largest difference over the largest number: ONNX Runtime against
pysolver, of any output or of what its softmax reads; OpenCV's reading of the ONNX file against its reading of the
caffemodel, of what the softmax reads (random weights make the softmax itself a 1 among zeros) or else of the output.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import onnx.utils
import onnxruntime
import torch

from pysolver.export.check import random_inputs
from pysolver.export.convert import OPSET, to_onnx
from pysolver.export.files import open_net
from pysolver.export.onnx.emit import emit
from pysolver.export.onnx.model import save
from pysolver.export.program import HEADS, Program, leaves, program_of
from pysolver.export.reference import compute
from pysolver.logs.writer import CaffeLog
from pysolver.net import weights
from pysolver.net.filter import filter_net, read_net_for
from pysolver.net.net import Net
from pysolver.proto import caffe_pb2
from pysolver.proto.text import to_text

NETS = sorted((Path(__file__).parents[1] / "examples" / "nets").glob("*.prototxt"))
QUIET = CaffeLog(level=2)


def randomise(net: Net) -> None:
    """BatchNorm statistics as after a training: sums of weight 2.5."""
    torch.manual_seed(0)
    for layer in net.layers:
        if layer.type_name == "BatchNorm":
            mean, variance, weight = layer.blobs
            weight.data.fill_(2.5)
            mean.data.normal_(0, 0.3).mul_(2.5)
            variance.data.uniform_(0.5, 1.5).mul_(2.5)


def watched(program: Program) -> list[str]:
    """The outputs, and what the softmaxes among them read."""
    ends = {value for step in program.steps for value in step.inputs if set(step.outputs) & set(program.outputs)
            and step.layer.type_name in (*HEADS, "Softmax")}  # fmt: skip
    program.outputs += [value for value in ends if value not in program.outputs and value.producer]
    return [value.name for value in program.outputs]


def apart(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max()) if found.shape == expected.shape else np.inf


def deploy_prototxt(path: Path, net: Net, program: Program) -> str:
    """What a user of OpenCV has: the TEST net without labels and heads, with Input layers; no Softmax."""
    param = filter_net(read_net_for(str(path), caffe_pb2.TEST, emit=QUIET), QUIET)
    kinds = {layer.name: layer for layer in net.layers}
    layers = []
    for value in program.inputs:
        layers.append(caffe_pb2.LayerParameter(name=value.name, type="Input", top=[value.name]))
        layers[-1].input_param.shape.add(dim=value.shape)
    for layer in param.layer:
        if not layer.bottom:
            continue
        if layer.type not in (*HEADS, "Softmax") and not leaves(kinds[layer.name]):
            layers.append(layer)
    return to_text(caffe_pb2.NetParameter(name=net.name, layer=layers))


def opencv(
    path: Path, net: Net, program: Program, folder: Path, model: onnx.ModelProto, data: np.ndarray, last: str
) -> str:
    """How far OpenCV's two readings are apart in the blob `last`; why not, if it cannot read one."""
    cut = onnx.utils.Extractor(model).extract_model([program.inputs[0].name], [last])
    onnx.save(cut, folder / "cut.onnx")
    (folder / "deploy.prototxt").write_text(deploy_prototxt(path, net, program))
    weights.save(net, str(folder / "net.caffemodel"))
    answers = []
    for name, read in (
        ("Caffe", lambda: cv2.dnn.readNetFromCaffe(str(folder / "deploy.prototxt"), str(folder / "net.caffemodel"))),
        ("ONNX", lambda: cv2.dnn.readNetFromONNX(str(folder / "cut.onnx"))),
    ):
        try:
            reader = read()
            reader.setInput(data)
            answers.append(reader.forward())
        except cv2.error as error:
            print(f"{path.stem}: OpenCV does not read the {name} file: {error}", file=sys.stderr)
            return "-"
    return f"{apart(answers[1], answers[0]):.1e}"


def measure(path: Path, folder: Path) -> Iterator[str]:
    net = open_net(str(path))
    randomise(net)
    batch = 2 if any(source.type_name != "Input" for source in net.sources.values()) else None
    begin = time.process_time()
    emit(program_of(net, batch), OPSET)
    graph = time.process_time() - begin
    begin = time.process_time()
    model = to_onnx(net, batch=batch)
    whole = time.process_time() - begin
    folded = to_onnx(net, batch=batch, folded=True)
    (file,) = save(model, folder / "net.onnx")
    program = program_of(net, batch)
    names = watched(program)
    inputs = random_inputs(program)
    expected = compute(program, inputs)
    model_outputs = {output.name for output in model.graph.output}
    for proto in (model, folded):
        infos = {info.name: info for info in proto.graph.value_info}
        proto.graph.output.extend(infos[name] for name in names if name not in model_outputs)
    worst = []
    for proto in (model, folded):
        session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        found = dict(zip(names, session.run(names, inputs)))
        worst.append(max(apart(found[name], expected[name]) for name in names))
    yield path.stem
    yield str(len(net.layers))
    yield f"{len(model.graph.node)}"
    yield f"{len(folded.graph.node)}"
    yield f"{graph:.2f}, {whole:.2f}"
    yield f"{file.stat().st_size / 1e6:.1f}"
    yield f"{worst[0]:.1e}, {worst[1]:.1e}"
    single = len(program.inputs) == 1 and len(model_outputs) == 1
    yield opencv(path, net, program, folder, model, inputs[program.inputs[0].name], names[-1]) if single else "-"


def main() -> None:
    os.environ["GLOG_minloglevel"] = "2"
    columns = ("net", "layers", "nodes", "folded", "CPU seconds", "MB", "ONNX Runtime: plain, folded", "OpenCV")
    print(f"| {' | '.join(columns)} |\n{'| --- ' * len(columns)}|")
    for path in map(Path, sys.argv[1:]) if sys.argv[1:] else NETS:
        with tempfile.TemporaryDirectory() as folder:
            print(f"| {' | '.join(measure(path, Path(folder)))} |", flush=True)


if __name__ == "__main__":
    main()

"""Exporting from files to files: what `pysolver export` does."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

from google.protobuf.message import Message

from pysolver.context import Context
from pysolver.errors import CaffeError, about
from pysolver.export.program import Program, program_of
from pysolver.logs import notices
from pysolver.logs.events import Event
from pysolver.logs.writer import CaffeLog
from pysolver.net.filter import read_net_for
from pysolver.net.net import Net
from pysolver.proto import caffe_pb2
from pysolver.proto.text import to_text
from pysolver.proto.upgrade import read_solver

_LOG = CaffeLog(level=1)


def _tell(event: Event) -> None:
    """An export is no run: of the net's construction only warnings are told. A file without any weights is an error."""
    if not isinstance(event, notices.NothingLoaded):
        _LOG(event)


def open_net(
    model: str,
    weights: str | None = None,
    *,
    phase: int = caffe_pb2.TEST,
    level: int = 0,
    stages: Sequence[str] = (),
    allow_python_layers: bool = False,
) -> Net:
    """The net of a prototxt with its weights, FILE[,FILE], the later ones win.

    Errors: a layer of the deploy form with parameters that are in none of the files.
    """
    param = read_net_for(model, phase, level, stages, _tell)
    context = Context(listener=_tell, allow_python_layers=allow_python_layers, unfilled=[] if weights else None)
    net = Net(param, context, model)
    if weights:
        for layer in net.layers:
            for blob in layer.blobs if not layer.param.blobs else []:
                blob.data.fill_(math.nan)  # until a file says otherwise
    for path in weights.split(",") if weights else []:
        net.copy_trained_layers_from(path)
    if weights:
        with about(model):
            program = program_of(net)
        _check_all_loaded(program, model, weights)
    return net


def _check_all_loaded(program: Program, model: str, weights: str) -> None:
    for step in program.steps:
        if any(blob.numel() and bool(blob.isnan().all()) for blob in step.layer.blobs):
            raise CaffeError(
                f"{weights}: no weights for layer '{step.layer.name}' ({step.layer.type_name}) of {model}: "
                "the layers' names must be those of the training"
            )


def metadata_of(model: str, weights: str | None, solver: str | None, dropped: list[str]) -> dict[str, str]:
    """Where a model came from: files with their SHA-256, the solver's fields, the layers that left."""
    found = {"caffe.model": model, "caffe.model.sha256": sha256(model)}
    for index, path in enumerate(weights.split(",") if weights else []):
        key = f"caffe.weights.{index}" if index else "caffe.weights"
        found |= {key: path, f"{key}.sha256": sha256(path)}
    if solver:
        found |= {"caffe.solver": solver, "caffe.solver.sha256": sha256(solver)}
        found |= {f"caffe.solver.{name}": text for name, text in _fields(read_solver(solver))}
    if dropped:
        found["caffe.layers_left_out"] = ", ".join(dropped)
    return found


def _fields(message: Message) -> list[tuple[str, str]]:
    """(name, value as in the prototxt) of the fields that are plain values."""
    lines = [line.split(": ", 1) for line in to_text(message).splitlines() if ": " in line and line[0] != " "]
    values: dict[str, list[str]] = {}
    for name, value in lines:
        values.setdefault(name, []).append(value)
    return [(name, " ".join(parts)) for name, parts in values.items()]


def sha256(path: str | Path) -> str:
    """The checksum of a file, in hexadecimal."""
    try:
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
        return digest.hexdigest()
    except OSError as error:
        raise CaffeError(f"{path}: cannot be read: {error.strerror}") from error

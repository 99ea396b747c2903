"""Weights of a net: as a NetParameter, from a caffemodel by layer name, shared between nets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import nn

from pysolver.blob import Shape
from pysolver.component import Component, format_shape
from pysolver.context import Context
from pysolver.errors import CaffeError, about
from pysolver.files import looked_for, write_atomic
from pysolver.logs import events as e
from pysolver.logs import notices
from pysolver.net.origin import Origin
from pysolver.net.parameters import Parameters
from pysolver.proto import blobproto, caffe_pb2
from pysolver.proto.binary import read_binary
from pysolver.proto.caffe_pb2 import BlobProto, NetParameter, NetState
from pysolver.proto.payloads import Payloads
from pysolver.proto.seal import seal
from pysolver.proto.upgrade import read_split_weights


class Weighted(Protocol):
    """What is asked of a net here."""

    name: str
    origin: Origin
    state: NetState
    context: Context
    parameters: Parameters

    @property
    def layers(self) -> Sequence[Component]:
        """All layers, in their order."""

    @property
    def layer_names(self) -> Sequence[str]:
        """Their names."""

    def flush_params(self) -> None:
        """Bring what was written through numpy into the parameters."""


def to_proto(net: Weighted, with_diff: bool = False) -> NetParameter:
    """NetParameter with every layer as it is used, and its blobs (Net::ToProto)."""
    net.flush_params()
    proto = caffe_pb2.NetParameter(name=net.name)
    for layer in net.layers:
        entry = proto.layer.add()
        entry.CopyFrom(layer.param)
        del entry.blobs[:]
        for blob in layer.blobs:
            diff = blob.grad.cpu().numpy() if with_diff else None
            entry.blobs.append(blobproto.from_array(blob.detach().cpu().numpy(), diff))
    return proto


def save(net: Weighted, path: str, with_diff: bool = False) -> None:
    """Write a .caffemodel, whole or not at all."""
    write_atomic(path, to_bytes(net, with_diff))


def to_bytes(net: Weighted, with_diff: bool = False) -> bytes:
    """The content of a .caffemodel, with a checksum where Caffe does not look."""
    return seal(to_proto(net, with_diff).SerializeToString())


def load(net: Weighted, path: str) -> list[nn.Parameter]:
    """Load a .caffemodel by layer name; the parameters that it has."""
    try:
        proto, payloads = read_split_weights(path, net.context.emit)
    except CaffeError:
        if _is_solver_state(path):
            raise solver_state_given(path) from None
        raise
    return copy_from_proto(net, proto, path, payloads)


def is_hdf5(path: str) -> bool:
    """Whether the file's content, not its name, is HDF5."""
    try:
        with open(path, "rb") as file:
            return file.read(8) == b"\x89HDF\r\n\x1a\n"
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        where = looked_for(path) if isinstance(error, FileNotFoundError) else ""
        raise CaffeError(f"{path}: cannot read weights: {reason}{where}") from error


def _is_solver_state(path: str) -> bool:
    """Whether the file has a field `iter`, as a binary state does and no model."""
    try:
        return read_binary(path, caffe_pb2.SolverState).HasField("iter")
    except CaffeError:
        return False


def solver_state_given(path: str) -> CaffeError:
    """The error for a solver state where a model is needed."""
    return CaffeError(
        f"{path}: this is a solver state, not a model: give it to --snapshot to go on with its run, "
        "or the .caffemodel beside it to --weights to start a new training from its weights"
    )


def copy_from_proto(
    net: Weighted, proto: NetParameter, path: str, payloads: Payloads | None = None
) -> list[nn.Parameter]:
    """Copy the blobs of each source layer into the first layer of its name, all checks before the first copy.

    payloads: of read_weights. Gives the parameters that were found.
    """
    copies: list[tuple[nn.Parameter, BlobProto]] = []
    targets = first_by_name(net.layers)
    for source in proto.layer:
        layer = targets.get(source.name)
        if layer is None:
            net.context.emit(e.IgnoringSourceLayer(source.name))
            continue
        check_count(layer, len(source.blobs), path)
        for index, (blob, given) in enumerate(zip(layer.blobs, source.blobs)):
            with about(f"{path}: damaged: layer '{layer.name}', blob {index}"):
                blobproto.check(given, payloads)
            if not blobproto.shapes_equal(tuple(blob.shape), given):
                raise shape_mismatch(layer, index, blobproto.shape_of(given), tuple(blob.shape), path)
            copies.append((blob, given))
    net.flush_params()
    for blob, given in copies:
        assign(blob, blobproto.to_array(given, payloads))
        diff = blobproto.diff_to_array(given)
        if diff is not None:
            with torch.no_grad():
                blob.grad.copy_(torch.from_numpy(diff).reshape(blob.shape))
    tell_unloaded(net, path, [source.name for source in proto.layer if source.blobs])
    return [blob for blob, _ in copies]


def tell_unloaded(net: Weighted, path: str, given: Sequence[str]) -> None:
    """Say which layers of the net got no weights: without a word, a wrong file would train from scratch, as in Caffe.

    given: the names of the file's layers that hold weights.
    """
    learning = list(dict.fromkeys(layer.name for layer in net.layers if len(layer.blobs)))
    missing = [name for name in learning if name not in given]
    if learning and missing == learning:
        net.context.emit(notices.NothingLoaded(path, _first(learning), _first(given)))
    elif missing:
        net.context.emit(notices.PartlyLoaded(path, len(missing), len(learning), _first(missing)))


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") if names else "none"


def assign(blob: nn.Parameter, values: np.ndarray) -> None:
    """Copy an array of the same count into a parameter, in place."""
    if blob.device.type == "cpu":
        np.copyto(blob.detach().numpy(), values.reshape(tuple(blob.shape)))
        return
    with torch.no_grad():
        blob.copy_(torch.from_numpy(np.require(values, requirements="W")).reshape(blob.shape))


def share_trained_layers_with(net: Weighted, other: Weighted) -> None:
    """Net::ShareTrainedLayersWith: from now on the parameters' data is the other net's memory."""
    targets = first_by_name(net.layers)
    net.flush_params()
    other.flush_params()
    for source in other.layers:
        layer = targets.get(source.name)
        if layer is None:
            net.context.emit(e.IgnoringSourceLayer(source.name))
            continue
        _check_one_name(other, source.name)
        check_count(layer, len(source.blobs), _nets(other, net))
        for index, (blob, given) in enumerate(zip(layer.blobs, source.blobs)):
            if blob.shape != given.shape:
                raise CaffeError(
                    f"{_nets(other, net)}: Cannot share param {index} weights from layer '{source.name}'; shape "
                    f"mismatch.  Source param shape is {format_shape(tuple(given.shape))}; target param shape is "
                    f"{format_shape(tuple(blob.shape))}. The layer and its data must have one shape in both."
                )
            blob.data = given.data


def _nets(source: Weighted, target: Weighted) -> str:
    """The two nets as an error names them: their files, or one file with both phases."""
    first, second = (net.origin.name or "a net" for net in (source, target))
    phases = [caffe_pb2.Phase.Name(net.state.phase) for net in (source, target)]
    return f"{first} ({phases[0]} to {phases[1]})" if first == second else f"{first} to {second}"


def _check_one_name(net: Weighted, name: str) -> None:
    """Layers of one name are legal, but if their blobs differ nobody can tell which are meant."""
    shapes = [[tuple(blob.shape) for blob in layer.blobs] for layer in net.layers if layer.name == name]
    if any(other != shapes[0] for other in shapes):
        where = f"{net.origin.name}: " if net.origin.name else ""
        raise CaffeError(
            f"{where}{len(shapes)} layers are called '{name}', with blobs of different shapes: test nets and files of "
            "weights find a layer by its name, so rename all but one"
        )


def first_by_name(layers: Sequence[Component]) -> dict[str, Component]:
    """Duplicate layer names are legal; loading finds the first."""
    found: dict[str, Component] = {}
    for layer in layers:
        found.setdefault(layer.name, layer)
    return found


def check_count(layer: Component, given: int, where: str) -> None:
    """Caffe demands equal numbers of blobs, zero included."""
    if given != len(layer.blobs):
        raise CaffeError(
            f"{where}: Incompatible number of blobs for layer {layer.name} "
            f"({layer.type_name}): the source has {given}, the net {len(layer.blobs)}"
        )


def shape_mismatch(layer: Component, index: int, source: Shape, target: Shape, where: str) -> CaffeError:
    """The error for a parameter of another shape, in Caffe's words."""
    return CaffeError(
        f"{where}: Cannot copy param {index} weights from layer '{layer.name}'; shape mismatch.  "
        f"Source param shape is {format_shape(source)}; target param shape is {format_shape(target)}. "
        "To learn this layer's parameters from scratch rather than copying from a saved net, rename the layer."
    )

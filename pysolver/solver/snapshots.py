"""The snapshots of a prefix: <prefix>_iter_<N>.caffemodel and .solverstate, or the same with .h5.

A snapshot is complete when its state is there, since the model is written first; both appear whole or not at all.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import zlib
from typing import NamedTuple

from pysolver.errors import CaffeError
from pysolver.logs import glog
from pysolver.net import weights
from pysolver.net.net import Net
from pysolver.proto import caffe_pb2
from pysolver.proto.binary import read_binary, read_bytes
from pysolver.proto.hdf5 import LARGEST_HDF5, open_sealed
from pysolver.solver import state_file
from pysolver.solver.state_file import State

_NAME = re.compile(r"_iter_(\d+)\.(caffemodel|solverstate)(\.h5)?")


class Names(NamedTuple):
    """The two files of one snapshot."""

    model: str
    state: str


def names(prefix: str, iteration: int, hdf5: bool) -> Names:
    """File names as Caffe builds them, without padding."""
    end = ".h5" if hdf5 else ""
    return Names(*(f"{prefix}_iter_{iteration}.{kind}{end}" for kind in ("caffemodel", "solverstate")))


def probe(prefix: str) -> None:
    """Find out now, not after days of training, that nothing can be written there; remove what killed runs left."""
    message = f"Cannot write to snapshot prefix '{prefix}'.  Make sure that the directory exists and is writable."
    file = f"{prefix}.probe_{secrets.token_hex(4)}"
    try:
        with open(file, "xb"):
            pass
        os.unlink(file)
    except (OSError, ValueError) as error:
        raise CaffeError(f"{message} ({getattr(error, 'strerror', None) or error})") from None
    folder, stem = os.path.split(prefix)
    leftover = re.compile(rf"\.{re.escape(stem)}_iter_\d+\.\w+(\.h5)?\.[0-9a-f]{{8}}\.tmp")
    for entry in os.listdir(folder or "."):
        if leftover.fullmatch(entry):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(folder, entry))


# ---- looking at what is there -------------------------------------------------------------------------------------


def prefix_of(state_path: str) -> str:
    """The prefix that a state's name was built from; its whole name if it is none of Caffe's."""
    match = re.fullmatch(r"(.*)_iter_\d+\.solverstate(\.h5)?", state_path, re.DOTALL)
    return match[1] if match else state_path


def states(prefix: str) -> list[tuple[int, str]]:
    """(iteration, path) of the prefix's states, oldest first."""
    return [(iteration, path) for iteration, kind, path in _files(prefix) if kind == "solverstate"]


def _files(prefix: str) -> list[tuple[int, str, str]]:
    folder, stem = os.path.split(prefix)
    try:
        entries = os.listdir(folder or ".")
    except OSError:
        return []
    found = []
    for entry in entries:
        match = _NAME.fullmatch(entry, len(stem)) if entry.startswith(stem) else None
        if match:
            found.append((int(match[1]), match[2], os.path.join(folder, entry)))
    return sorted(found)


def newest(prefix: str) -> str | None:
    """The state of the newest snapshot that is intact, None if there is none; says what it passes over."""
    for _, path in reversed(states(prefix)):
        try:
            check_model(state_file.read(path), path)
        except CaffeError as error:
            glog.warning("solver.cpp:1", f"Passing over a snapshot: {error}")
        else:
            return path
    return None


def has_newer(path: str, state: State) -> bool:
    """Whether the run that wrote this state has written later ones of the same prefix."""
    for iteration, other in states(prefix_of(path)):
        if iteration > state.iteration:
            with contextlib.suppress(CaffeError):
                note = state_file.read(other).note
                if note and state.note and note.get("run") == state.note.get("run"):
                    return True
    return False


# ---- a state and its model ----------------------------------------------------------------------------------------


def fingerprint(model: bytes) -> dict[str, int]:
    """What a state remembers of its model."""
    return {"bytes": len(model), "crc32": zlib.crc32(model)}


def check_model(state: State, path: str) -> None:
    """CaffeError unless the model that the state names is there, whole, and the one it was written with."""
    model = state.learned_net
    if not os.path.exists(model):
        beside = os.path.join(os.path.dirname(path), os.path.basename(model))
        hint = f"; there is {beside}: run from the folder where the training began" if os.path.exists(beside) else ""
        raise CaffeError(
            f"{path}: its model '{model}' is not there (the name is relative to the working directory){hint}"
        )
    known = (state.note or {}).get("model")
    if known is not None:
        if fingerprint(read_bytes(model, LARGEST_HDF5)) != known:
            raise CaffeError(
                f"{path}: its model '{model}' is not the file that was written with it: damaged or replaced. "
                f"To start a new training from that file, give it to --weights"
            )
    elif not state_file.is_named_hdf5(model):
        read_binary(model, caffe_pb2.NetParameter)


def check_belongs(net: Net, model: str, path: str) -> None:
    """CaffeError if the model lacks a layer of the net that has parameters: resumed, it would start from its filler."""
    given = _layer_names(model)
    missing = [layer.name for layer in net.layers if len(layer.blobs) and layer.name not in given]
    if missing:
        raise CaffeError(
            f"{path}: a snapshot of another net: its model '{model}' has no layer '{missing[0]}'; "
            "to start a new training from the layers that fit, give the model to --weights"
        )


def _layer_names(model: str) -> set[str]:
    if weights.is_hdf5(model):
        names: set[str] = set()
        with open_sealed(model) as file:
            data = file.group("data")
            if data is not None:
                data.visit(names.add)  # layers, parts of names with slashes, datasets
        return names
    proto = read_binary(model, caffe_pb2.NetParameter)
    return {layer.name for layer in proto.layer} | {layer.name or layer.layer.name for layer in proto.layers}


def prune(prefix: str, current: int, keep: int) -> None:
    """Of the complete snapshots up to iteration `current` remove all but the newest `keep`; states before models."""
    past = [(iteration, kind, path) for iteration, kind, path in _files(prefix) if iteration <= current]
    complete = sorted({iteration for iteration, kind, _ in past if kind == "solverstate"})
    old = set(complete[:-keep])
    for iteration, _, path in sorted(past, key=lambda file: (file[0], file[1] == "caffemodel")):
        if iteration in old:
            with contextlib.suppress(OSError):
                os.unlink(path)

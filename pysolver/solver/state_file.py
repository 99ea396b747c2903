"""Solver states on disk: Caffe's .solverstate and .solverstate.h5, with a note and a checksum that Caffe skips.

    binary    a SolverState message; note and checksum in unknown fields (pysolver/proto/seal.py)
    HDF5      /iter, /current_step, /learned_net, /history/<i>; the note in /pysolver, the checksum behind the file

What the note holds: pysolver/solver/note.py.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import h5py
import numpy as np
from google.protobuf.message import DecodeError

from pysolver.errors import CaffeError, about
from pysolver.files import read_bytes, seems_to_be
from pysolver.proto import blobproto, caffe_pb2
from pysolver.proto.binary import LARGEST_MESSAGE
from pysolver.proto.caffe_pb2 import BlobProto
from pysolver.proto.hdf5 import Hdf5File, open_sealed
from pysolver.proto.seal import open_seal, seal, seal_hdf5
from pysolver.solver.note import Note, from_json, to_json
from pysolver.solver.plateau import Plateau

_NOTE = "pysolver"  # name of the note's dataset


@dataclass
class State:
    """The content of a solver state. note: None in files that Caffe wrote. plateau: of that lr_policy alone."""

    iteration: int
    learned_net: str
    current_step: int
    history: list[np.ndarray]
    note: Note | None = None
    plateau: Plateau = Plateau()


def is_named_hdf5(path: str) -> bool:
    """Caffe goes by the name."""
    return path.endswith(".h5")


# ---- writing ------------------------------------------------------------------------------------------------------


def to_bytes(state: State, hdf5: bool) -> bytes:
    """The content of the file."""
    return _to_hdf5(state) if hdf5 else _to_binary(state)


def _to_binary(state: State) -> bytes:
    message = caffe_pb2.SolverState(
        iter=state.iteration, learned_net=state.learned_net, current_step=state.current_step
    )
    if state.plateau != Plateau():
        message.minimum_loss = float(state.plateau.minimum_loss)
        message.iter_last_event = state.plateau.iter_last_event
    message.history.extend(blobproto.from_array(blob) for blob in state.history)
    return seal(message.SerializeToString(), to_json(state.note or Note()))


def _to_hdf5(state: State) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver=("earliest", "v108")) as file:
        file["iter"] = np.array([state.iteration], np.int32)
        file["learned_net"] = _c_string(state.learned_net)
        file["current_step"] = np.array([state.current_step], np.int32)
        if state.plateau != Plateau():
            file["minimum_loss"] = np.array([state.plateau.minimum_loss], np.float32)
            file["iter_last_event"] = np.array([state.plateau.iter_last_event], np.int32)
        history = file.create_group("history")
        for index, blob in enumerate(state.history):
            history[str(index)] = blob
        file[_NOTE] = _c_string(to_json(state.note or Note()).decode())
    return seal_hdf5(buffer.getvalue())


def _c_string(text: str) -> np.ndarray:
    """A scalar with the NUL at its end that C readers rely on."""
    data = text.encode()
    return np.array(data, dtype=f"S{len(data) + 1}")


# ---- reading ------------------------------------------------------------------------------------------------------


def read(path: str) -> State:
    """The state in a file; CaffeError if there is none, if it is damaged, or if it is something else."""
    state = _from_hdf5(path) if is_named_hdf5(path) else _from_binary(path)
    if state.iteration < 0 or state.current_step < 0:
        raise CaffeError(f"{path}: damaged: iter {state.iteration}, current_step {state.current_step}")
    return state


def _from_binary(path: str) -> State:
    data = read_bytes(path, LARGEST_MESSAGE)
    if not data:
        raise CaffeError(f"{path}: damaged: the file is empty")
    if data.startswith(b"\x89HDF"):
        raise CaffeError(f"{path}: this is HDF5: Caffe reads such a state only under a name that ends in .h5")
    note = open_seal(data, path)
    try:
        message = caffe_pb2.SolverState.FromString(data)
    except DecodeError:
        seems = seems_to_be(data, "a text")
        raise CaffeError(f"{path}: not a solver state, or damaged ({len(data)} bytes){seems}") from None
    if not message.HasField("iter"):
        _refuse_model(_is_model(data), path)
    for field in ("iter", "learned_net", "current_step"):  # Caffe writes all of them, current_step last
        if not message.HasField(field):
            raise CaffeError(f"{path}: not a solver state, or damaged (cut off?): it has no {field}")
    history = [_blob(blob, index, path) for index, blob in enumerate(message.history)]
    plateau = Plateau()
    if message.HasField("minimum_loss"):
        plateau = Plateau(np.float32(message.minimum_loss), message.iter_last_event)
    return State(message.iter, message.learned_net, message.current_step, history, _load(note, path), plateau)


def _blob(blob: BlobProto, index: int, path: str) -> np.ndarray:
    with about(f"{path}: damaged: history blob {index}"):
        return blobproto.to_array(blob)


def _from_hdf5(path: str) -> State:
    with open_sealed(path) as file:
        if "iter" not in file.root:
            _refuse_model("data" in file.root, path)
        history = file.group("history")
        blobs = [_hdf5_blob(file, history, index) for index in range(len(history or ()))]
        note = file.one(_NOTE) if _NOTE in file.root else None
        learned_net = file.one("learned_net").rstrip(b"\0").decode()
        plateau = Plateau()
        if "minimum_loss" in file.root:
            plateau = Plateau(np.float32(file.one("minimum_loss")), int(file.one("iter_last_event")))
        step = int(file.one("current_step"))
        return State(int(file.one("iter")), learned_net, step, blobs, _load(note, path), plateau)


def _hdf5_blob(file: Hdf5File, history: h5py.Group, index: int) -> np.ndarray:
    dataset = file.dataset(history, str(index))
    if dataset is None:
        raise CaffeError(f"{file.path}: damaged: no history blob {index}")
    return file.numbers(dataset)


def _load(note: bytes | None, path: str) -> Note | None:
    with about(path):
        return from_json(note)


def _is_model(data: bytes) -> bool:
    try:
        net = caffe_pb2.NetParameter.FromString(data)
    except DecodeError:
        return False
    return bool(net.layer or net.layers)


def _refuse_model(is_model: bool, path: str) -> None:
    if is_model:
        raise CaffeError(
            f"{path}: this is a model, not a solver state: give the .solverstate beside it to --snapshot, "
            "or this file to --weights to start a new training from its weights"
        )

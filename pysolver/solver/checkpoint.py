"""A snapshot out of a solver and back into one: what Caffe calls Snapshot and Restore (src/caffe/solver.cpp)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from pysolver.errors import CaffeError
from pysolver.files import write_atomic
from pysolver.logs import events as e
from pysolver.net import weights, weights_hdf5
from pysolver.net.net import Net
from pysolver.proto import caffe_pb2
from pysolver.proto.caffe_pb2 import SolverParameter
from pysolver.solver import snapshots, state_file
from pysolver.solver.nets import Emit
from pysolver.solver.note import Note
from pysolver.solver.state_file import State


def save(param: SolverParameter, net: Net, state: State, emit: Emit) -> str:
    """Write the model and the state of an iteration, each whole or not at all, the model first; the state's path.

    state: all but learned_net and the model's fingerprint in the note, which are filled in here.
    """
    hdf5 = param.snapshot_format == caffe_pb2.SolverParameter.HDF5
    kind = "HDF5" if hdf5 else "binary proto"
    files = snapshots.names(param.snapshot_prefix, state.iteration, hdf5)
    try:
        emit(e.Snapshot("model", kind, files.model))
        model = (weights_hdf5 if hdf5 else weights).to_bytes(net, param.snapshot_diff)
        write_atomic(files.model, model)
        emit(e.Snapshot("state", kind, files.state))
        note = replace(state.note or Note(), model=snapshots.fingerprint(model))
        write_atomic(files.state, state_file.to_bytes(replace(state, learned_net=files.model, note=note), hdf5))
    except CaffeError as error:
        raise CaffeError(
            f"No snapshot at iteration {state.iteration}: {error}. Earlier snapshots are intact."
        ) from error
    return files.state


def read(file: str, net: Net, history: list[Tensor], kind: str) -> State:
    """The state in a file, once it and its model are seen to be of this net and solver type; nothing is changed."""
    state = state_file.read(file)
    snapshots.check_model(state, file)
    _check_history(state, history, kind, file)
    snapshots.check_belongs(net, state.learned_net, file)
    return state


def _check_history(state: State, history: list[Tensor], kind: str, file: str) -> None:
    written_by = state.note.type if state.note and state.note.type else kind
    fix = "; to start a new training from its weights, give the .caffemodel to --weights"
    if written_by != kind:
        raise CaffeError(f"{file}: a state of solver type {written_by}, this solver is {kind}{fix}")
    if len(state.history) != len(history):
        raise CaffeError(
            f"{file}: Incorrect length of history blobs. The state has {len(state.history)}, a {kind} solver "
            f"of this net {len(history)}: a state of another solver type or net{fix}"
        )
    for index, (blob, values) in enumerate(zip(history, state.history)):
        if tuple(blob.shape) != values.shape:
            raise CaffeError(
                f"{file}: history blob {index} has shape {list(values.shape)}, its parameter {list(blob.shape)}: "
                f"a state of another net{fix}"
            )


def take(state: State, file: str, net: Net, history: list[Tensor], emit: Emit) -> None:
    """Fill the net's weights and the history from a state that read() gave."""
    net.copy_trained_layers_from(state.learned_net)
    if not state_file.is_named_hdf5(file):
        emit(e.RestoringHistory())
    for blob, values in zip(history, state.history):
        blob.copy_(torch.from_numpy(values))

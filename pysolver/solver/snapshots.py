"""The snapshots of a prefix: <prefix>_iter_<N>.caffemodel and .solverstate, or the same with .h5.

A snapshot is complete when its state is there, since the model is written first; both appear whole or not at all.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from pysolver.errors import CaffeError
from pysolver.files import TEMPORARY, read_bytes
from pysolver.logs import notices
from pysolver.logs.events import Emit
from pysolver.logs.writer import to_stderr
from pysolver.net import weights
from pysolver.net.net import Net
from pysolver.proto import caffe_pb2
from pysolver.proto.binary import read_binary
from pysolver.proto.hdf5 import LARGEST_HDF5, open_sealed
from pysolver.solver import state_file
from pysolver.solver.note import Fingerprint
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
    """Find out now, not after days of training, that nothing can be written there."""
    message = f"Cannot write to snapshot prefix '{prefix}'.  Make sure that the directory exists and is writable."
    file = f"{prefix}.probe_{secrets.token_hex(4)}"
    try:
        with open(file, "xb"):
            pass
        os.unlink(file)
    except (OSError, ValueError) as error:
        raise CaffeError(f"{message} ({getattr(error, 'strerror', None) or error})") from None


@contextlib.contextmanager
def claim(prefix: str) -> Iterator[None]:
    """Have the prefix alone while the block runs: CaffeError if another run has it. Removes what killed runs left.

    The lock is the kernel's (flock on a hidden file), so it ends with its process, however that ends. A folder that
    cannot be written is left to probe(), and a file system without locks has none.
    """
    folder, stem = os.path.split(prefix)
    path = os.path.join(folder, f".{stem}.lock")
    try:
        handle = _lock(path)
    except BlockingIOError:
        holder = _holder(path)
        raise CaffeError(
            f"snapshot prefix '{prefix}' is in use by another run{holder}: their snapshots would replace each other. "
            "Give this one another snapshot_prefix"
        ) from None
    except (OSError, ValueError):
        yield
        return
    try:
        os.ftruncate(handle, 0)
        os.write(handle, str(os.getpid()).encode())
        _remove_leftovers(folder, stem)
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)
        os.close(handle)


def _lock(path: str) -> int:
    """An open file that holds the lock, and that still bears the name: its last holder may just have removed it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), os.stat(path)):
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _holder(path: str) -> str:
    with contextlib.suppress(OSError, ValueError):
        return f" (process {int(Path(path).read_text())})"
    return ""


def _remove_leftovers(folder: str, stem: str) -> None:
    leftover = re.compile(rf"{TEMPORARY}{re.escape(stem)}_iter_\d+\.\w+(\.h5)?")
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


def newest(prefix: str, emit: Emit = to_stderr) -> str | None:
    """The state of the newest snapshot that is intact, None if there is none; says what it passes over."""
    for _, path in reversed(states(prefix)):
        try:
            check_model(state_file.read(path), path)
        except CaffeError as error:
            emit(notices.PassingOver(str(error)))
        else:
            return path
    return None


def has_newer(path: str, state: State) -> bool:
    """Whether the run that wrote this state has written later ones of the same prefix."""
    for iteration, other in states(prefix_of(path)):
        if iteration > state.iteration:
            with contextlib.suppress(CaffeError):
                note = state_file.read(other).note
                if note and state.note and note.run == state.note.run:
                    return True
    return False


# ---- a state and its model ----------------------------------------------------------------------------------------


def fingerprint(model: bytes) -> Fingerprint:
    """What a state remembers of its model."""
    return Fingerprint(len(model), zlib.crc32(model))


def check_model(state: State, path: str) -> None:
    """CaffeError unless the model that the state names is there, whole, and the one it was written with."""
    model = state.learned_net
    if not os.path.exists(model):
        beside = os.path.join(os.path.dirname(path), os.path.basename(model))
        hint = f"; there is {beside}: run from the folder where the training began" if os.path.exists(beside) else ""
        raise CaffeError(
            f"{path}: its model '{model}' is not there (the name is relative to the working directory){hint}"
        )
    known = state.note.model if state.note else None
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


def prune(prefix: str, current: int, keep: int, ours: Callable[[int], bool]) -> None:
    """Of the complete snapshots up to iteration `current` remove all but the newest `keep`; states before models.

    ours: whether this run wrote or found intact the snapshot of an iteration. Others do not count among the `keep`: a
    damaged one that a resume passed over must not stand in for one that can be read.
    """
    past = [(iteration, kind, path) for iteration, kind, path in _files(prefix) if iteration <= current]
    complete = sorted({iteration for iteration, kind, _ in past if kind == "solverstate"})
    kept = [iteration for iteration in complete if ours(iteration)][-keep:]
    for iteration, _, path in sorted(past, key=lambda file: (file[0], file[1] == "caffemodel")):
        if iteration in complete and iteration not in kept:
            with contextlib.suppress(OSError):
                os.unlink(path)

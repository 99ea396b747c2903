"""Weights, solver states and their checksums."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pysolver.context import Context
from pysolver.errors import CaffeError
from pysolver.proto import blobproto, caffe_pb2
from pysolver.proto.text import parse_text
from tests.fuzz.targets.target import TARGETS, message, target, written

NET = """
name: "n" layer { name: "d" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 4 } }
layer { name: "a/b" type: "InnerProduct" bottom: "y" top: "z" loss_weight: 1 inner_product_param { num_output: 2 } }
"""


@functools.cache
def small_net() -> Any:
    from pysolver.net.net import Net

    return Net(parse_text(NET, caffe_pb2.NetParameter), Context(seed=1))


def caffemodels() -> list[bytes]:
    """Ours, and the same without the seal, as Caffe writes it."""
    from pysolver.net import weights

    net = small_net()
    return [weights.to_bytes(net), weights.to_bytes(net, with_diff=True), weights.to_proto(net).SerializeToString()]


@target("caffemodel", caffemodels, message(caffe_pb2.NetParameter))
def _caffemodel(data: bytes) -> None:
    Path("w.caffemodel").write_bytes(data)
    small_net().copy_trained_layers_from("w.caffemodel")


def _unsealed_hdf5(data: bytes) -> bytes:
    return data[:-19]


def _caffemodels_h5() -> list[bytes]:
    from pysolver.net import weights_hdf5

    sealed = written(lambda path: weights_hdf5.save(small_net(), path))
    return [_unsealed_hdf5(sealed), sealed]


@target("caffemodel HDF5", _caffemodels_h5)
def _caffemodel_h5(data: bytes) -> None:
    Path("w.caffemodel.h5").write_bytes(data)
    small_net().copy_trained_layers_from("w.caffemodel.h5")


def state(hdf5: bool) -> bytes:
    from pysolver.solver import state_file

    history = [np.ones((4, 3), np.float32), np.ones(4, np.float32)]
    return state_file.to_bytes(state_file.State(7, "w.caffemodel", 1, history), hdf5)


def _states() -> list[bytes]:
    plain = caffe_pb2.SolverState(iter=7, learned_net="w.caffemodel", current_step=1)
    plain.history.append(blobproto.from_array(np.ones((4, 3), np.float32)))
    return [state(hdf5=False), plain.SerializeToString()]


@target("solverstate", _states, message(caffe_pb2.SolverState))
def _solverstate(data: bytes) -> None:
    from pysolver.solver import state_file

    Path("s.solverstate").write_bytes(data)
    state_file.read("s.solverstate")


@target("solverstate HDF5", lambda: [_unsealed_hdf5(state(hdf5=True)), state(hdf5=True)])
def _solverstate_h5(data: bytes) -> None:
    from pysolver.solver import state_file

    Path("s.solverstate.h5").write_bytes(data)
    state_file.read("s.solverstate.h5")


class Undetected(AssertionError):
    """A sealed file was changed, and read all the same."""


def _sealed() -> list[bytes]:
    from pysolver.net import weights, weights_hdf5

    net = small_net()
    return [weights.to_bytes(net), written(lambda path: weights_hdf5.save(net, path)), state(False), state(True)]


def _damage(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """What a disk does: bits, a block of zeros, an end cut off."""
    changed = bytearray(data)
    kind = rng.randrange(3)
    if kind == 0:
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        start = rng.randrange(len(changed))
        end = min(start + rng.choice((1, 4, 16, 512)), len(changed))
        changed[start:end] = bytes(end - start)
    else:
        del changed[rng.randrange(len(changed)) :]
    return bytes(changed)


@target("checksums", _sealed, _damage)
def _checksums(data: bytes) -> None:
    from pysolver.solver import state_file

    if data in TARGETS["checksums"].seeds():
        raise CaffeError("not changed at all")
    hdf5 = max(TARGETS["checksums"].seeds()[1::2], key=lambda seed: sum(a == b for a, b in zip(seed, data)))
    is_hdf5 = sum(a == b for a, b in zip(hdf5, data)) > 0.9 * len(data) and len(data) > 16
    names = ("w.h5", "s.solverstate.h5") if is_hdf5 else ("w.caffemodel", "s.solverstate")
    before = [blob.detach().clone() for layer in small_net().layers for blob in layer.blobs]
    errors = 0
    for name, read in zip(names, (small_net().copy_trained_layers_from, state_file.read)):
        Path(name).write_bytes(data)
        try:
            read(name)
        except CaffeError:
            errors += 1
    after = [blob.detach().clone() for layer in small_net().layers for blob in layer.blobs]
    if errors < 2 and not (errors == 1 and all((a == b).all() for a, b in zip(before, after)) and not data):
        raise Undetected(names[0])
    raise CaffeError("noticed")

"""What a solver state says beside Caffe's fields, under a checksum that fits."""

from __future__ import annotations

import functools
from pathlib import Path

from pysolver.context import Context
from pysolver.net.net import Net
from pysolver.proto import caffe_pb2
from pysolver.proto.seal import seal
from pysolver.proto.text import parse_text
from pysolver.solver import note, resume, state_file
from tests.fuzz.mutation import mutate_text
from tests.fuzz.targets.databases import color_lmdb
from tests.fuzz.targets.target import target


@functools.cache
def _net() -> Net:
    text = f"""layer {{ name: "d" type: "Data" top: "x" top: "l"
        data_param {{ source: "{color_lmdb()}" batch_size: 2 backend: LMDB }} }}"""
    return Net(parse_text(text, caffe_pb2.NetParameter), Context(seed=1))


def _notes() -> list[bytes]:
    point = resume.capture(_net(), [_net()], note.Window(0, (1.5, 1.25), 1.375))
    older = b'{"run": "abc", "point": {"train": [["d", "Data", {"batches": 3, "seed": 4}]]}}'
    return [note.to_json(note.Note("abc", "SGD", note.Fingerprint(7, 8), (point,))), older]


@target("note of a state", _notes, mutate_text)
def _note(data: bytes) -> None:
    """Read, and gone on from."""
    message = caffe_pb2.SolverState(iter=7, learned_net="w.caffemodel", current_step=1)
    Path("s.solverstate").write_bytes(seal(message.SerializeToString(), data))
    start = resume.choose(state_file.read("s.solverstate"), 1, True)
    for point in start.points:
        resume.check(point, _net(), [_net()])
        resume.restore(point, _net(), [_net()])
        _net().close()

"""The note of a state: through JSON and back, older versions, and anything else behind an intact checksum."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from short_runs import make_solver

from pysolver.errors import CaffeError
from pysolver.solver import note as notes
from pysolver.solver import state_file
from pysolver.solver.note import Fingerprint, Note, Point, Position, Window

NOTE = Note(
    "a run",
    "Adam",
    Fingerprint(7, 99),
    (
        Point(
            (Position("data", "Data", {"batches": 3, "seed": 5}),),
            ((), (Position("lstm", "LSTM", {"carried": [torch.tensor([[1.5, -2.0]])]}),)),
            torch.arange(5, dtype=torch.uint8),
            None,
            Window(4, (0.1, float("nan")), 2.5),
        ),
        Point(),
    ),
)


def plain() -> dict:
    return json.loads(notes.to_json(NOTE))


def test_round_trip():
    got = notes.from_json(notes.to_json(NOTE))
    assert (got.run, got.type, got.model, len(got.points)) == ("a run", "Adam", Fingerprint(7, 99), 2)
    first = got.points[0]
    assert first.train == NOTE.points[0].train and first.test[0] == ()
    assert first.test[1][0].state["carried"][0].tolist() == [[1.5, -2.0]]
    assert first.rng.tolist() == [0, 1, 2, 3, 4] and first.cuda_rng is None
    assert (first.smoothing.start, first.smoothing.losses[0], first.smoothing.value) == (4, 0.1, 2.5)
    assert got.points[1] == Point()


def test_what_an_older_version_did_not_write_takes_its_default():
    """Before there were ranks a note had one `point`."""
    old = plain()
    old["point"] = old.pop("points")[0]
    del old["model"], old["point"]["smoothing"], old["point"]["cuda_rng"]
    got = notes.from_json(json.dumps(old).encode())
    assert got.model is None and len(got.points) == 1 and got.points[0].smoothing == Window()
    assert notes.from_json(b"{}") == Note() and notes.from_json(b"") is None and notes.from_json(b"null") is None


ODD = [None, True, -1, 3, 0.5, 10**400, "x", [], ["x"], {}, {"x": 1}, [[["x"]]],
       {"dtype": "O", "shape": [1], "base64": ""},
       {"dtype": "<f4", "shape": [1 << 60], "base64": ""}, {"dtype": "<f4", "shape": [0], "base64": ""}]  # fmt: skip


def places(value, path=()):
    """The path of every value within a JSON object."""
    yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, key))


def test_anything_anywhere_is_read_or_refused():
    cases = refused = 0
    for path in places(plain()):
        for odd in ODD:
            value = plain()
            if path:
                *way, last = path
                at = value
                for key in way:
                    at = at[key]
                at[last] = copy.deepcopy(odd)
            else:
                value = odd
            cases += 1
            try:
                notes.from_json(json.dumps(value).encode())
            except CaffeError as error:
                refused += 1
                assert str(error).startswith("damaged: ") and len(str(error)) < 200
    assert cases > 400 and refused > cases / 3
    for text in (b"{", b"\xff", b"[" * 100_000, b'{"run": 1e999}'):
        with pytest.raises(CaffeError, match="damaged"):
            notes.from_json(text)


def test_a_solver_refuses_odd_positions_and_stays_as_it_was(folder):
    """An intact checksum over a note that no solver of this net can use."""
    folder("max_iter: 6 snapshot: 0")
    solver, _ = make_solver()
    solver.solve()
    state = state_file.read("snap_iter_6.solverstate")
    for path in places(plain()["points"][0]["train"][0][2]):
        for odd in ODD:
            if not path or (type(odd) is int and odd >= 0):
                continue
            point = copy.deepcopy(state.note.points[0])
            point.train[0].state[path[0]] = odd
            state.note = Note(state.note.run, state.note.type, state.note.model, (point,))
            with open("odd.solverstate", "wb") as file:
                file.write(state_file.to_bytes(state, False))
            target, _ = make_solver()
            with pytest.raises(CaffeError, match="damaged"):
                target.restore("odd.solverstate")
            assert target.iter == 0

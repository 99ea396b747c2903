"""A checksum in the file: every flipped bit and every cut is noticed, and plain protobuf readers see nothing of it."""

from __future__ import annotations

import io

import h5py
import numpy as np
import pytest

from pysolver.errors import CaffeError
from pysolver.proto import caffe_pb2
from pysolver.proto.seal import check_hdf5, open_seal, seal, seal_hdf5

STATE = caffe_pb2.SolverState(iter=7, learned_net="model_iter_7.caffemodel", current_step=2)
PLAIN = STATE.SerializeToString()


@pytest.mark.parametrize("note", [b"", b'{"run": 1}', b"n" * 300])
def test_note_and_message_come_back(note):
    sealed = seal(PLAIN, note)
    assert open_seal(sealed, "f") == note
    read = caffe_pb2.SolverState.FromString(sealed)
    assert (read.iter, read.learned_net, read.current_step) == (7, "model_iter_7.caffemodel", 2)


@pytest.mark.parametrize("note", [b"", b"note"])
def test_every_flipped_bit_is_noticed(note):
    sealed = seal(PLAIN, note)
    for bit in range(8 * len(sealed)):
        damaged = bytearray(sealed)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CaffeError, match="f: damaged"):
            open_seal(bytes(damaged), "f")


def test_flips_in_both_marks_are_noticed():
    """Without its marks it would be a file of another Caffe, which has no checksum."""
    for first in range(24):
        for last in range(24):
            damaged = bytearray(seal(PLAIN, b"note"))
            damaged[first // 8] ^= 1 << first % 8
            damaged[-7 + last // 8] ^= 1 << last % 8
            with pytest.raises(CaffeError, match="^f: damaged: "):
                open_seal(bytes(damaged), "f")


def test_every_cut_is_noticed():
    sealed = seal(PLAIN, b"note")
    for length in range(3, len(sealed)):
        with pytest.raises(CaffeError, match="damaged"):
            open_seal(sealed[:length], "f")


def test_files_of_others_have_no_seal():
    assert open_seal(PLAIN, "f") is None
    assert open_seal(b"", "f") is None


@pytest.mark.parametrize("note", [b"", b"note"])
def test_a_message_that_another_program_wrote_again_has_no_seal(note):
    again = caffe_pb2.SolverState.FromString(seal(PLAIN, note))
    again.iter = 8
    assert open_seal(again.SerializeToString(), "f") is None


def test_hdf5_reads_a_sealed_file_and_flips_are_noticed():
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["x"] = np.arange(5)
    sealed = seal_hdf5(buffer.getvalue())
    with h5py.File(io.BytesIO(sealed)) as file:
        assert file["x"][:].tolist() == [0, 1, 2, 3, 4]
    check_hdf5(sealed, "f")
    check_hdf5(buffer.getvalue(), "f")
    for bit in range(0, 8 * len(buffer.getvalue()), 37):
        damaged = bytearray(sealed)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CaffeError, match="f: damaged"):
            check_hdf5(bytes(damaged), "f")

"""Where a log comes from: files, packed files, standard input, a file that grows; and what is no log."""

from __future__ import annotations

import gzip
import io
import math
import os
import threading

import pytest
from log_texts import check_plain, lines

from pysolver.errors import CaffeError
from pysolver.logs import read_log, reader
from pysolver.logs.reader import Reader
from pysolver.logs.source import pieces


def test_gz_standard_input_and_damaged_gz(log_file, monkeypatch):
    packed = gzip.compress(lines(0, 50).encode())
    check_plain(read_log(log_file(packed, "a.gz")))
    check_plain(read_log(log_file(packed, "a.log")))
    assert len(read_log(log_file(packed[:-9], "cut.gz")).train) >= 1

    class Stdin:
        buffer = io.BytesIO(lines(0, 50).encode())

    monkeypatch.setattr("sys.stdin", Stdin)
    check_plain(read_log("-"))
    Stdin.buffer = io.BufferedReader(io.BytesIO(packed))
    check_plain(read_log("-"))


def test_a_file_that_grows(log_file):
    path = log_file(lines(0, 20))
    runs = reader.follow_log(path, every=0.02)
    assert len(next(runs).train) == 2

    def append() -> None:
        with path.open("a") as file:
            text = lines(20, 50)
            file.write(text[:100])
            file.flush()
            file.write(text[100:])

    threading.Timer(0.05, append).start()
    while len((run := next(runs)).test) < 5 or math.isnan(run.train.lr[-1]) or len(run.train) < 5:
        pass
    check_plain(run)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "empty"),
        (b"\x7fELF\0\0\0\1\2", "binary"),
        (b"hello\nworld\n", "no iteration"),
        (b"I0321 09:01:36.326753  7379 solver.cpp:44] Solving x\n", "no iteration"),
    ],
)
def test_bad_files(log_file, content, message):
    with pytest.raises(CaffeError, match=f"a.log: .*{message}") as error:
        read_log(log_file(content))
    assert "\n" not in str(error.value)


def test_a_folder_and_a_missing_file(tmp_path):
    with pytest.raises(CaffeError, match="is a directory"):
        read_log(tmp_path)
    with pytest.raises(CaffeError, match="No such file"):
        read_log(tmp_path / "none.log")


def test_a_packed_log_that_is_damaged(tmp_path):
    packed = bytearray(gzip.compress(lines(0, 500).encode()))
    packed[200:220] = bytes(20)
    (tmp_path / "log.gz").write_bytes(packed)
    with pytest.raises(CaffeError, match=r"log.gz: (Error|.*CRC|no iteration)"):
        read_log(tmp_path / "log.gz")


def test_memory_stays_flat():
    """Twenty times the text, but only the values' memory."""
    import tracemalloc

    def peak(times: int) -> int:
        text = lines(0, 2000).encode()
        made = Reader("text")
        tracemalloc.start()
        for _ in range(times):
            for piece in pieces(io.BytesIO(text), "text"):
                made.feed(piece)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    values_each = 200 * (5 * 8 * 2 + 3 * 16 + 5 * 8)  # rows, outputs, rates of one more time
    assert peak(20) - peak(2) < 18 * values_each * 3


@pytest.mark.parametrize("packed", [False, True])
def test_a_pipe(packed):
    """`plot_log <(ssh host cat log)`: there is no way back to its first bytes."""
    text = lines(0, 100).encode()
    read_end, write_end = os.pipe()
    os.write(write_end, gzip.compress(text) if packed else text)
    os.close(write_end)
    assert read_log(f"/dev/fd/{read_end}").train.iteration[-1] == 90
    os.close(read_end)

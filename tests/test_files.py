"""Reading no more than allowed; writing all or nothing."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from pysolver.errors import CaffeError
from pysolver.files import looked_for, read_bytes, read_text, seems_to_be, write_atomic, write_together


def test_more_than_the_limit_is_not_read(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(bytes(11))
    assert len(read_bytes(path, 11)) == 11
    with pytest.raises(CaffeError, match="larger than 10 bytes"):
        read_bytes(path, 10)


def test_writing_replaces_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "model"
    path.write_bytes(b"old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["model"]


def test_new_files_have_the_usual_rights(tmp_path):
    mask = os.umask(0o027)
    try:
        write_atomic(tmp_path / "model", b"")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == 0o640


@pytest.mark.parametrize("at", ["fsync", "replace"])
def test_a_failure_keeps_the_old_file_and_removes_the_new(tmp_path, monkeypatch, at):
    path = tmp_path / "model"
    path.write_bytes(b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, at, full)
    with pytest.raises(CaffeError) as caught:
        write_atomic(path, b"new")
    assert str(caught.value) == f"{path}: cannot be written: No space left on device"
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model"]


def test_an_interrupt_keeps_the_old_file_too(tmp_path, monkeypatch):
    path = tmp_path / "model"
    path.write_bytes(b"old")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("order", [1, -1])
def test_of_files_that_belong_together_all_are_written_or_none(order, tmp_path):
    (tmp_path / "good").write_bytes(b"old")
    (tmp_path / "folder").mkdir()
    names = ["good", "folder"][::order]
    with pytest.raises(CaffeError, match="folder: cannot be written: Is a directory"):
        write_together({tmp_path / name: b"new" for name in names})
    assert (tmp_path / "good").read_bytes() == b"old" and len(os.listdir(tmp_path)) == 2
    write_together({tmp_path / "good": b"new", tmp_path / "better": b"new"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == dict.fromkeys(
        ("good", "better"), b"new"
    )


def test_errors_of_writing_name_path_and_reason(tmp_path):
    for path, reason in (
        (tmp_path / "no" / "such" / "model", "No such file or directory"),
        (tmp_path, "Is a directory"),
        (Path("/dev/full"), "No space left on device"),
    ):
        with pytest.raises(CaffeError, match=f"^{path}: cannot be written: {reason}$"):
            write_atomic(path, b"x" * 10)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_not_writable(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(CaffeError, match="Permission denied"):
        write_atomic(tmp_path / "model", b"")


def test_a_pipe_is_written_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_atomic(pipe, b"through")
        assert os.read(reader, 100) == b"through"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize(
    "data, what",
    [
        (b"\x89HDF\r\n\x1a\n..", "; this is an HDF5 file"),
        ("name".encode("utf-16"), "; this is a text in UTF-16: save it as UTF-8"),
        (b"PK\x03\x04", "; this is a zip archive, as PyTorch's own files are"),
        (b"<html>", "; this is a web page, perhaps of a download that failed"),
        (b"version https://git-lfs.github.com/spec/v1\n", "; this is a pointer of git-lfs: `git lfs pull` fetches the "
         "file itself"),
        (b"name: 'x'\n", ""),
        (b"\x0a\x03net", ""),
    ],
)  # fmt: skip
def test_what_a_file_seems_to_be(data, what):
    assert seems_to_be(data) == what


def test_a_text_where_a_binary_file_is_wanted():
    assert seems_to_be(b"name: 'x'\n", "a text") == "; this is a text"
    assert seems_to_be(b"\x08\x03net", "a text") == ""


def test_from_where_a_path_was_followed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert looked_for("/nowhere") == ""
    assert looked_for("nowhere") == f" (looked for from {tmp_path})"
    assert (
        looked_for("~/a")
        == looked_for("$HOME/a")
        == looked_for("*.a")
        == f" (looked for from {tmp_path}; nobody replaces ~, $NAME or * in it)"
    )
    with pytest.raises(CaffeError) as caught:
        read_bytes("nowhere", 1)
    assert str(caught.value) == f"nowhere: file not found (looked for from {tmp_path})"


def test_a_list_that_is_no_text(tmp_path):
    (tmp_path / "l").write_text("a.png 1", encoding="utf-16")
    with pytest.raises(CaffeError, match="l: not a text; this is a text in UTF-16"):
        read_text(tmp_path / "l")


@pytest.mark.timeout(60)
def test_a_device_has_no_end_and_a_pipe_may_have_none(tmp_path, monkeypatch):
    """Whatever the caller's limit, which for HDF5 is a terabyte."""
    monkeypatch.setattr("pysolver.files.LARGEST_LIST", 1 << 16)
    with pytest.raises(CaffeError, match="/dev/zero: larger than 65536 bytes"):
        read_bytes("/dev/zero", 1 << 40)
    read, write = os.pipe()
    os.write(write, b"through a pipe")
    os.close(write)
    assert read_bytes(f"/dev/fd/{read}", 1 << 40) == b"through a pipe"
    os.close(read)


def test_what_may_have_been_meant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("net.prototxt", "x_iter_3.caffemodel", "x_iter_3.solverstate", "x_iter_30.solverstate"):
        (tmp_path / name).write_text("")
    for path, near in (
        ("nett.prototxt", "net.prototxt"),
        ("net.prototxt ", "net.prototxt"),
        ("x_iter_3", "x_iter_3.caffemodel or x_iter_3.solverstate"),
        (f"{tmp_path}/nett.prototxt", f"{tmp_path}/net.prototxt"),
    ):
        assert looked_for(path).endswith(f"; did you mean {near}?")
    assert "did you mean" not in looked_for("solver.txt") + looked_for("no/net.prototxt") + looked_for("")
    for number in range(200):
        (tmp_path / str(number)).write_text("")
    assert "did you mean" not in looked_for("nett.prototxt")  # too many to look through each time
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert looked_for("net.prototxt") == " (looked for from a folder that has been removed)"

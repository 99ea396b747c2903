"""What archives of strangers may claim, and what they may unfold to."""

from __future__ import annotations

import gzip

import pytest

from pysolver.data.prepare import prepare
from pysolver.data.prepare.cifar_pickle import NotABatch, read_batch
from pysolver.errors import CaffeError


def header(name: str, size: int, kind: bytes = b"0") -> bytes:
    """One of a tar, whose size is written in base 256 if it must be, as GNU does."""
    number = b"%011o\0" % size if 0 <= size < 1 << 33 else (b"\xff" if size < 0 else b"\x80") + (
        size.to_bytes(11, "big", signed=True)
    )  # fmt: skip
    block = bytearray(512)
    block[: len(name)], block[124:136], block[156:157] = name.encode(), number, kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax(fields: str) -> bytes:
    data = fields.encode()
    return header("p", len(data), b"x") + data.ljust(-(-len(data) // 512) * 512, b"\0")


TARS = {
    "backwards": header("a", 0) + header("b", -1024),
    "beyond any file": header("a", 1 << 80) + bytes(1024),
    "a PAX header of an exabyte": header("p", 1 << 60, b"x") + bytes(1024),
    "a name of an exabyte": header("p", 1 << 60, b"L") + bytes(1024),
    "backwards by PAX": pax("14 size=-1536\n") + header("a", 0),
    "digits in PAX": pax("1" * 60_000 + " hdrcharset"),
    "a few thousand digits in PAX": pax("1" * 8_000 + " hdrcharset"),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", TARS)
def test_headers_that_claim_anything(tmp_path, kind, packed) -> None:
    """Python's tarfile goes in circles over the first, and takes what memory the others name."""
    data = gzip.compress(TARS[kind]) if packed else TARS[kind]
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(data)
    with pytest.raises(CaffeError, match="cifar-10-binary.tar.gz: not a complete archive|data_batch_1.bin is missing"):
        prepare("cifar10", tmp_path / "out", tmp_path)
    (tmp_path / "VOCtest.tar").write_bytes(TARS[kind])
    with pytest.raises(CaffeError, match="VOCtest.tar: cannot be read|no trainval set|neither VOC"):
        prepare("voc", tmp_path / "out", tmp_path)


def test_what_unfolds_to_gigabytes(tmp_path, monkeypatch) -> None:
    """The limits are those of a hundredth here."""
    for module in ("archives.MOST", "mnist._LARGEST"):
        monkeypatch.setattr(f"pysolver.data.prepare.{module}", 1 << 20)
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(gzip.compress(header("a", 1 << 21) + bytes(1 << 21)))
    with pytest.raises(CaffeError, match="cifar-10-binary.tar.gz: more than 1048576 bytes in it"):
        prepare("cifar10", tmp_path / "out", tmp_path)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (tmp_path / f"{name}-ubyte.gz").write_bytes(gzip.compress(bytes(1 << 21)))
    with pytest.raises(CaffeError, match="train-images-idx3-ubyte.gz: more than 1048576 bytes in it"):
        prepare("mnist", tmp_path / "out", tmp_path)


def test_a_pickle_of_millions_of_nothings(monkeypatch) -> None:
    """256 KB of an archive held 256 million of them: 2 GB, and five minutes."""
    monkeypatch.setattr("pysolver.data.prepare.cifar_pickle._MOST", 1000)
    with pytest.raises(NotABatch, match="more than 1000 opcodes"):
        read_batch(b"\x80\x02" + b"N" * 1000)

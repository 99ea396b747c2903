"""Batches that a real Caffe's data layers handed out, bit for bit."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from pysolver.component import create
from pysolver.context import Context
from pysolver.proto import caffe_pb2
from pysolver.proto.text import parse_text

from .conftest import GOLDEN

CASES = sorted(path.stem for path in GOLDEN.glob("*.npz"))


def batches(case: np.lib.npyio.NpzFile, **context) -> list[dict[str, np.ndarray]]:
    param = parse_text(str(case["prototxt"]), caffe_pb2.NetParameter).layer[0]
    param.phase = caffe_pb2.TEST
    source = create(param, Context(seed=1, **context))
    source.set_up()
    try:
        found = [dict(zip(param.top, source.next_batch())) for _ in range(int(case["batches"]))]
    finally:
        source.close()
    return [{name: top.numpy() for name, top in batch.items()} for batch in found]


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
@pytest.mark.parametrize("name", CASES)
def test_batches_are_those_of_caffe(name: str, cache_bytes: int, golden_folder) -> None:
    case = np.load(f"{name}.npz")
    for index, batch in enumerate(batches(case, cache_bytes=cache_bytes)):
        for top, value in batch.items():
            wanted = case[f"{top}{index}"]
            assert value.dtype == np.float32
            assert value.shape[1:] == wanted.shape[1:]
            np.testing.assert_array_equal(value[: len(wanted)], wanted)


def test_there_are_cases() -> None:
    assert len(CASES) == 14


@pytest.mark.parametrize("name", ["gray_leveldb", "color_leveldb", "encoded_png_lmdb"])
def test_a_database_is_read_without_writing_to_it(name: str, tmp_path, monkeypatch) -> None:
    """Also twice at once, which LevelDB's lock would forbid."""
    shutil.copytree(GOLDEN / name, tmp_path / name)
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in (tmp_path / name).iterdir()}
    for path in (tmp_path / name).iterdir():
        path.chmod(0o444)
    (tmp_path / name).chmod(0o555)
    monkeypatch.chdir(tmp_path)
    case = np.load(GOLDEN / f"{name}.npz")
    param = parse_text(str(case["prototxt"]), caffe_pb2.NetParameter).layer[0]
    param.phase = caffe_pb2.TEST
    pair = [create(param, Context(seed=1)) for _ in range(2)]
    for source in pair:
        source.set_up()
    for source in pair:
        np.testing.assert_array_equal(source.next_batch()[0].numpy(), case["data0"])
        source.close()
    (tmp_path / name).chmod(0o755)
    assert before == {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in (tmp_path / name).iterdir()}

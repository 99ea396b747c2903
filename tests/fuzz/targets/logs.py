"""Logs, plain and gzipped."""

from __future__ import annotations

import gzip
from pathlib import Path

from tests.fuzz.mutation import mutate_text
from tests.fuzz.targets.target import GOLDEN, target

TEXT_OF_A_LOG = 40_000  # bytes of a golden log that are changed


def golden_logs() -> list[bytes]:
    made = []
    for path in sorted((GOLDEN / "logs").glob("*.log.gz")):
        text = gzip.decompress(path.read_bytes())
        made += [text[:TEXT_OF_A_LOG], text[-TEXT_OF_A_LOG:]]
    return made


def _read_log(path: str) -> None:
    from pysolver.logs.export import to_json, write_csv
    from pysolver.logs.reader import read_log

    run = read_log(path)
    run.summary()
    to_json(run)
    write_csv(run, ".", ",")


@target("log", golden_logs, mutate_text)
def _log(data: bytes) -> None:
    Path("caffe.log").write_bytes(data)
    _read_log("caffe.log")


@target("log, gzipped", lambda: [gzip.compress(text) for text in golden_logs()])
def _log_gz(data: bytes) -> None:
    Path("caffe.log.gz").write_bytes(data)
    _read_log("caffe.log.gz")

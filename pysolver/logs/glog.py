"""Lines in glog's form on stderr: `I20261123 12:43:56.417379 11184 solver.cpp:239] text`."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TextIO

SEVERITIES = "IWEF"

stream: TextIO | None = None  # None: whatever sys.stderr is at that moment


def record(severity: str, where: str, text: str, to: TextIO | None = None) -> None:
    """One record; severity is a letter of SEVERITIES.

    where: Caffe's own file:line, the tag that log readers know; for what Caffe does not say, line 1 of the file that
    would. to: another stream than the process's.
    """
    if SEVERITIES.index(severity) < int(os.environ.get("GLOG_minloglevel", "0") or 0):  # noqa: SIM112
        return
    now = time.time()
    stamp = time.strftime("%Y%m%d %H:%M:%S", time.localtime(now))
    line = f"{severity}{stamp}.{int(now % 1 * 1e6):06d} {threading.get_native_id():>5} {where}] {text}"
    line += "" if line.endswith("\n") else "\n"
    (to or stream or sys.stderr).write(line)  # one write a record, so that threads do not mix inside a line


def info(where: str, text: str) -> None:
    """An I record."""
    record("I", where, text)


def warning(where: str, text: str) -> None:
    """A W record."""
    record("W", where, text)


def error(where: str, text: str) -> None:
    """An E record."""
    record("E", where, text)

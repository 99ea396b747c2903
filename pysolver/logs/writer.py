"""Events as a Caffe log, in glog's form: `I20261123 12:43:56.417379 11184 solver.cpp:239] text`."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TextIO

from pysolver.logs import grammar
from pysolver.logs.events import Event

SEVERITIES = "IWEF"


class CaffeLog:
    """A subscriber: call it with an event and the line is written, if a log has one for it.

    stream: None is whatever sys.stderr is at that moment. level: 0 all lines, 1 from warnings on, 2 errors only.
    lost: why a line could not be written (its reader has gone, the disk is full); no further one is tried then.
    """

    def __init__(self, stream: TextIO | None = None, level: int = 0) -> None:
        self.stream, self.level = stream, level
        self.lost: OSError | None = None

    def __call__(self, event: Event) -> None:
        if self.lost is not None or not grammar.is_written(event):
            return
        form = grammar.form_of(event)
        if SEVERITIES.index(form.severity) < self.level:
            return
        now = time.time()
        stamp = time.strftime("%Y%m%d %H:%M:%S", time.localtime(now))
        head = f"{form.severity}{stamp}.{int(now % 1 * 1e6):06d} {threading.get_native_id():>5} {form.where}] "
        line = head + form.write(event)
        line += "" if line.endswith("\n") else "\n"
        self._put(line)

    def _put(self, line: str) -> None:
        stream = self.stream or sys.stderr
        if stream is None:  # closed by whoever started the process
            return
        try:
            stream.write(line)  # one write a record, so that threads do not mix inside a line
            stream.flush()
        except OSError as error:
            self.lost = error


def to_stderr(event: Event) -> None:
    """Who is told where nobody else is named: the Caffe log on stderr."""
    CaffeLog()(event)


def level_wanted() -> int:
    """The level that GLOG_minloglevel, glog's own variable, asks for."""
    word = os.environ.get("GLOG_minloglevel", "")  # noqa: SIM112
    return int(word) if word.isdigit() else 0

"""Events as a Caffe log."""

from __future__ import annotations

from typing import TextIO

from pysolver.logs import glog, grammar
from pysolver.logs.events import Event


class CaffeLog:
    """A subscriber: call it with an event and the line is written, if a log has one for it.

    stream: where to; by default the process's stderr.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream

    def __call__(self, event: Event) -> None:
        if not grammar.is_written(event):
            return
        form = grammar.form_of(event)
        glog.record(form.severity, form.where, form.write(event), self.stream)

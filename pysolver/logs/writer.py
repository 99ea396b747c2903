"""Events as a Caffe log on stderr."""

from __future__ import annotations

from pysolver.logs import glog, grammar
from pysolver.logs.events import Event


class CaffeLog:
    """A subscriber: call it with an event and the line is written, if a log has one for it."""

    def __call__(self, event: Event) -> None:
        if not grammar.is_written(event):
            return
        form = grammar.form_of(event)
        glog.record(form.severity, form.where, form.write(event))

"""Who listens to a run."""

from __future__ import annotations

from pysolver.logs.events import Event


class Channel(list):
    """The subscribers of a run, as one: whoever holds it can tell them, without holding the run."""

    def __call__(self, event: Event) -> None:
        for subscriber in self:
            subscriber(event)

"""Who hears the events of a run."""

from __future__ import annotations

from pysolver.logs import events as e

Subscriber = e.Emit


class Channel(list[Subscriber]):
    """The subscribers of a run; the nets' context tells them through it, without holding the solver."""

    def __call__(self, event: e.Event) -> None:
        for subscriber in self:
            subscriber(event)

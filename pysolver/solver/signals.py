"""What a running solver is asked to do from outside: by a signal, or by any function that returns an Action."""

from __future__ import annotations

import enum
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from pysolver.errors import CaffeError


class Action(enum.Enum):
    """Caffe's SolverAction, and one more."""

    NONE = "none"
    STOP = "stop"
    SNAPSHOT = "snapshot"
    PREEMPT = "snapshot and stop"  # SIGTERM, sent by clusters before they take the machine away


ActionFunction = Callable[[], Action]

_EFFECTS = {"stop": Action.STOP, "snapshot": Action.SNAPSHOT, "none": Action.NONE}


def parse_effect(word: str) -> Action:
    """The action that --sigint_effect and --sighup_effect name."""
    if word not in _EFFECTS:
        raise CaffeError(f'Invalid signal effect "{word}" was specified (stop, snapshot or none)')
    return _EFFECTS[word]


class SignalHandler:
    """Turns SIGTERM, SIGHUP and SIGINT into actions while it is entered (src/caffe/util/signal_handler.cpp).

    Calling it returns at most one action and forgets that signal; several of one kind between two calls count once.
    """

    def __init__(self, sigint: Action = Action.STOP, sighup: Action = Action.SNAPSHOT) -> None:
        self._effects = {signal.SIGTERM: Action.PREEMPT, signal.SIGHUP: sighup, signal.SIGINT: sigint}  # in this order
        self._received: set[int] = set()
        self._before: dict[int, Any] = {}  # what signal.signal gives and takes

    def __enter__(self) -> SignalHandler:
        if threading.current_thread() is threading.main_thread():  # others cannot have handlers
            for number in self._effects:
                self._before[number] = signal.signal(number, self._note)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self._effects)  # a starter has them wait until now
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received.add(number)

    def __call__(self) -> Action:
        for number, action in self._effects.items():
            if number in self._received:
                self._received.discard(number)
                return action
        return Action.NONE

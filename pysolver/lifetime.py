"""Processes that do not outlive who started them."""

from __future__ import annotations

import ctypes
import os
import signal

_SET_PARENT_DEATH_SIGNAL = 1  # of prctl (linux/prctl.h)
try:
    _prctl = ctypes.CDLL(None).prctl  # looked up here: between fork and exec nothing may be loaded
except (AttributeError, OSError, TypeError):  # only Linux has it
    _prctl = None


def end_with_parent() -> None:
    """From now on the kernel kills this process when the thread that started it ends, however that ends.

    It outlasts an exec, and so may be called between fork and exec. Nothing happens where the system is not Linux.
    """
    if _prctl is not None:
        _prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def is_alive(process: int) -> bool:
    """Whether there is a process of this id; of a zombie, too, that is so."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True

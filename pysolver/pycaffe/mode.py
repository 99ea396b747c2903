"""Mode, device, seed and rank as pycaffe knows them: settings of the calling thread for the nets it makes next."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING

from pysolver.logs import notices
from pysolver.logs.writer import CaffeLog, level_wanted

if TYPE_CHECKING:
    from pysolver.context import Context


class _Settings(threading.local):
    gpu = False
    device = 0
    seed: int | None = None
    count = 1
    rank = 0
    python_layers = False


_settings = _Settings()
_level: int | None = None  # of the log, for all threads; None: as GLOG_minloglevel says


def log() -> CaffeLog:
    """The log of what is made now, on stderr."""
    return CaffeLog(level=level_wanted() if _level is None else _level)


def set_log_level(level: int) -> None:
    """Log records of this level and above only: 0 info, 1 warning, 2 error."""
    global _level
    _level = level


def set_mode_cpu() -> None:
    """Nets made from now on compute on the CPU."""
    _settings.gpu = False


def set_mode_gpu() -> None:
    """Nets made from now on compute on the device of set_device; without CUDA on the CPU, with a warning."""
    import torch

    _settings.gpu = torch.cuda.is_available()
    if not _settings.gpu:
        log()(notices.NoCudaDevice())


def set_device(device_id: int) -> None:
    """The GPU that set_mode_gpu means."""
    _settings.device = int(device_id)


def set_random_seed(seed: int) -> None:
    """Seed for all that follows: parameters filled, dropout, augmentation."""
    import torch

    _settings.seed = int(seed)
    torch.manual_seed(_settings.seed)


def solver_count() -> int:
    """How many solvers train together."""
    return _settings.count


def set_solver_count(count: int) -> None:
    """Data sources deal their records to this many solvers."""
    _settings.count = int(count)


def solver_rank() -> int:
    """Which of them this is; rank 0 tests, snapshots and logs."""
    return _settings.rank


def set_solver_rank(rank: int) -> None:
    """See solver_rank."""
    _settings.rank = int(rank)


def set_multiprocess(multiprocess: bool) -> None:
    """Caffe asks whether its solvers are processes or threads; here they are always processes."""


def allow_python_layers(allowed: bool = True) -> None:
    """Nets made from now on import any module that their Python layers name; pycaffe always does.

    Classes that the script has, and modules beside it, need no permission.
    """
    _settings.python_layers = bool(allowed)


def context() -> Context:
    """The thread's settings, for a net that is made now."""
    import torch

    from pysolver.context import Context

    device = torch.device("cuda", _settings.device) if _settings.gpu else torch.device("cpu")
    return Context(
        device=device,
        seed=_settings.seed,
        rank=_settings.rank,
        world_size=_settings.count,
        listener=log(),
        allow_python_layers=_settings.python_layers,
        own_code=(os.path.dirname(os.path.abspath(getattr(sys.modules["__main__"], "__file__", None) or "_")),),
    )

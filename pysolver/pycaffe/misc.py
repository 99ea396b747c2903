"""The small functions of pycaffe: phases, logging, a timer, what this build can do."""

from __future__ import annotations

import time

from pysolver.errors import CaffeError
from pysolver.logs import notices
from pysolver.proto import caffe_pb2
from pysolver.pycaffe import mode

TRAIN: int = caffe_pb2.TRAIN
TEST: int = caffe_pb2.TEST

_ERRORS_ONLY = 2  # glog's level of E records


def layer_type_list() -> list[str]:
    """All layer types, in byte order."""
    import pysolver.data
    import pysolver.layers  # noqa: F401  these two register them
    from pysolver.component import layer_types

    return list(layer_types())


def init_log(level: int = 0, stderr: bool = True) -> None:
    """Log only records of this level and above: 0 info, 1 warning, 2 error. stderr False: errors only."""
    mode.set_log_level(level if stderr else max(level, _ERRORS_ONLY))


def log(text: str) -> None:
    """An info record."""
    mode.log()(notices.ScriptLog(text))


def has_nccl() -> bool:
    """Whether caffe.NCCL works: never, see there."""
    return False


class NCCL:
    """Caffe's way to several GPUs, for scripts that connect their solvers themselves; not served."""

    _INSTEAD = "caffe.NCCL does not exist here: a pycaffe script trains on one device (caffe.set_device)"

    def __init__(self, solver: object, uid: bytes) -> None:
        raise CaffeError(self._INSTEAD)

    @classmethod
    def new_uid(cls) -> bytes:
        raise CaffeError(cls._INSTEAD)


class Timer:
    """Wall-clock time between start and stop."""

    def __init__(self) -> None:
        self._start = self._stop = 0.0

    def start(self) -> None:
        self._start = self._now()

    def stop(self) -> None:
        self._stop = self._now()

    @property
    def ms(self) -> float:
        """Milliseconds."""
        return (self._stop - self._start) * 1e3

    @staticmethod
    def _now() -> float:
        """The time when all that was asked of the GPU is done."""
        import torch

        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return time.perf_counter()

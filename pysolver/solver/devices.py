"""Which device a command runs on, and what is known about the GPUs."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch

from pysolver import cores
from pysolver.errors import CaffeError
from pysolver.logs import events as e
from pysolver.logs import notices
from pysolver.logs.events import Emit
from pysolver.logs.writer import to_stderr


def gpu_ids(flag: str) -> list[int]:
    """The ids that --gpu names: `0,2`, `all`, or none for an empty flag. CaffeError if they are not there."""
    if not flag:
        return []
    if flag != "all" and not re.fullmatch(r"\d{1,9}(,\d{1,9})*", flag):
        raise CaffeError(f"--gpu={flag}: give ids separated by commas, 0,2 say, or all")
    count = torch.cuda.device_count()
    if count == 0:
        raise CaffeError(
            f"--gpu={flag}: cannot use GPU: torch finds no CUDA device here; leave the flag out for the CPU"
        )
    if flag == "all":
        return list(range(count))
    ids = [int(word) for word in flag.split(",")]
    for number in ids:
        if number >= count:
            raise CaffeError(f"--gpu={flag}: there is no GPU {number}, ids go from 0 to {count - 1}")
        if ids.count(number) > 1:
            raise CaffeError(f"--gpu={flag}: GPU {number} is named twice; each process needs one of its own")
    return ids


def of_rank(ids: Sequence[int], local_rank: int, wish: str) -> int:
    """The GPU of a process, by its number on its machine; CaffeError if there are too few. wish: who asks for GPUs."""
    if local_rank >= len(ids):
        raise CaffeError(f"{wish}: there is no GPU for process {local_rank} of this machine, each needs one of its own")
    return ids[local_rank]


def named(flag: str, local_rank: int = 0) -> torch.device:
    """The device that --gpu names for a process of this machine; the CPU where the flag is empty."""
    ids = gpu_ids(flag)
    return torch.device("cuda", of_rank(ids, local_rank, f"--gpu={flag}")) if ids else torch.device("cpu")


def cuda_or_cpu(wanted: int, emit: Emit) -> int | None:
    """The GPU that a solver's solver_mode asks for, or None with a warning where there is no CUDA."""
    if wanted < torch.cuda.device_count():
        return wanted
    found = "torch finds no CUDA device" if not torch.cuda.device_count() else f"there is no GPU {wanted}"
    emit(notices.NoGpu(found))
    return None


def take_threads() -> e.Threads:
    """Set how many threads compute on the CPU in this process: see pysolver.cores."""
    count, why = cores.choose_threads()
    torch.set_num_threads(count)
    return e.Threads(count, cores.physical_cores(), why)


def query(flag: str, emit: Emit = to_stderr) -> None:
    """`caffe device_query`: the properties of the GPUs, as log lines (src/caffe/common.cpp)."""
    emit(notices.QueryingGpus(flag))
    for number in gpu_ids(flag):
        device = torch.cuda.get_device_properties(number)
        for label, value in (
            ("Device id", number),
            ("Major revision number", device.major),
            ("Minor revision number", device.minor),
            ("Name", device.name),
            ("Total global memory", device.total_memory),
            ("Warp size", getattr(device, "warp_size", 32)),
            ("Number of multiprocessors", device.multi_processor_count),
        ):
            emit(notices.GpuProperty(label, f"{value:>{30 - len(label) + len(str(value))}}"))

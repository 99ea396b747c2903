"""Which GPU a process gets, and what is said where there is none for it: only counting is faked, nothing runs there."""

from __future__ import annotations

import pytest
import torch

from pysolver.errors import CaffeError
from pysolver.proto import caffe_pb2
from pysolver.solver import devices, train
from pysolver.solver.train import TrainOptions

CPU, GPU = caffe_pb2.SolverParameter.CPU, caffe_pb2.SolverParameter.GPU


@pytest.fixture(autouse=True)
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def be_rank(monkeypatch, local_rank: int, processes: int) -> None:
    for name, value in {"RANK": local_rank, "LOCAL_RANK": local_rank, "WORLD_SIZE": processes}.items():
        monkeypatch.setenv(name, str(value))


def choose(gpu: str = "", **fields: object) -> tuple[str, list[int]]:
    device, ids = train._choose_device(caffe_pb2.SolverParameter(**fields), gpu, lambda event: None)
    return str(device), ids


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("1,1", "--gpu=1,1: GPU 1 is named twice; each process needs one of its own"),
        ("0,2", "--gpu=0,2: there is no GPU 2, ids go from 0 to 1"),
        ("-1", "--gpu=-1: give ids separated by commas, 0,2 say, or all"),
        ("0;1", "--gpu=0;1: give ids separated by commas, 0,2 say, or all"),
    ],
)
def test_ids_that_cannot_be_used(flag, said, monkeypatch):
    with pytest.raises(CaffeError) as error:
        train.main(TrainOptions("not_read.prototxt", gpu=flag))
    assert str(error.value) == said


def test_one_process_a_gpu():
    assert devices.gpu_ids("all") == [0, 1] and devices.gpu_ids("1") == [1]
    assert train._processes(TrainOptions("s", gpu="all")) == 2
    assert train._processes(TrainOptions("s", gpu="0,1", processes=2)) == 2
    with pytest.raises(CaffeError, match=r"--processes=3: --gpu=all names 2 GPUs, one a process"):
        train.main(TrainOptions("not_read.prototxt", gpu="all", processes=3))


def test_the_gpu_of_a_rank(monkeypatch):
    assert choose(solver_mode=GPU, device_id=1) == ("cuda:1", [1])
    be_rank(monkeypatch, 1, 2)
    assert choose("all") == ("cuda:1", [0, 1]) and choose("1,0") == ("cuda:0", [1, 0])
    assert choose(solver_mode=GPU) == ("cuda:1", [0, 1]), "device_id is for one process"
    assert choose() == choose(solver_mode=CPU) == ("cpu", [])


@pytest.mark.parametrize(("gpu", "wish"), [("0,1", "--gpu=0,1"), ("", "solver_mode: GPU")])
def test_more_processes_than_gpus(gpu, wish, monkeypatch):
    """A rank without a GPU does not go on on the CPU: it could not exchange anything with those that have one."""
    be_rank(monkeypatch, 2, 3)
    with pytest.raises(CaffeError, match=f"^{wish}: there is no GPU for process 2 of this machine"):
        choose(gpu, solver_mode=GPU)


def test_no_gpu_at_all_is_the_cpu_for_every_rank(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    be_rank(monkeypatch, 1, 2)
    assert choose(solver_mode=GPU) == ("cpu", [])
    with pytest.raises(CaffeError, match="torch finds no CUDA device here"):
        choose("all")

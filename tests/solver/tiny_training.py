"""A training that is over in a blink and uses all that exact resume must keep: crops, mirrors, dropout, two test nets
on their own data, Adam's histories, multistep, iter_size and a smoothed loss. Run in processes of their own by the
kill test, since one cannot kill a thread."""

from __future__ import annotations

import multiprocessing
import os
import re
import resource
import signal
import sys
import time
from pathlib import Path

NET = """
name: "Tiny"
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TRAIN }
  transform_param { crop_size: 9 mirror: true scale: 0.0039 }
  data_param { source: "DATABASES/mnist640_lmdb" batch_size: 7 backend: LMDB } }
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TEST }
  transform_param { crop_size: 9 mirror: true scale: 0.0039 }
  data_param { source: "DATABASES/mnist200_test_lmdb" batch_size: 9 backend: LMDB } }
layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1"
  inner_product_param { num_output: 8 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "ip1" top: "ip1" }
layer { name: "relu" type: "ReLU" bottom: "ip1" top: "ip1" }
layer { name: "drop" type: "Dropout" bottom: "ip1" top: "ip1" dropout_param { dropout_ratio: 0.3 } }
layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
  param { lr_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
  inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }
"""

SOLVER = """
net: "net.prototxt" test_iter: 2 test_iter: 3 test_interval: 5 base_lr: 0.01 type: "Adam" momentum: 0.9
cyclical_momentum: [0.7, 8] lr_policy: "multistep" gamma: 0.5 stepvalue: [9, 21, 22] weight_decay: 0.001 iter_size: 2
average_loss: 4 display: 3 max_iter: 40 snapshot: 6 snapshot_prefix: "snap" random_seed: 5 solver_mode: CPU
"""


def write(folder: Path, databases: Path, extra: str = "") -> Path:
    """The tiny training in a folder. extra: fields that replace those of the same name; `field: []` removes them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "net.prototxt").write_text(NET.replace("DATABASES", str(databases)))
    from pysolver.proto import caffe_pb2
    from pysolver.proto.text import parse_text, to_text

    solver = parse_text(SOLVER, caffe_pb2.SolverParameter)
    change = parse_text(extra, caffe_pb2.SolverParameter)
    for field, _ in change.ListFields():
        solver.ClearField(field.name)
    for name in re.findall(r"(\w+): \[\]", extra):
        solver.ClearField(name)
    solver.MergeFrom(change)
    (folder / "solver.prototxt").write_text(to_text(solver))
    return folder


# ---- in a process of its own ----------------------------------------------------------------------------------------


def start(
    folder: Path,
    die_at_call: int | None = None,
    die_after: float | None = None,
    largest_file: int | None = None,
    **options: object,
) -> multiprocessing.Process:
    """`pysolver train` of the folder's solver in a new process; its log goes to the file `log`.

    die_at_call: SIGKILL at the n-th write, fsync or rename of snapshot files. die_after: SIGPROF after so many seconds
    of processor time, which ends a process on the spot as SIGKILL does, but does not depend on the machine's load.
    largest_file: bytes that a file may have, the log aside.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pysolver.solver.train", "pysolver.net.net"])
    process = context.Process(target=_train, args=(str(folder), die_at_call, die_after, largest_file, options))
    process.start()
    return process


def _train(
    folder: str, die_at_call: int | None, die_after: float | None, largest_file: int | None, options: dict
) -> None:
    os.chdir(folder)
    if largest_file is None:
        os.dup2(os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    else:  # the limit would hold for the log as well: it goes through a pipe
        os.dup2(os.popen("cat > log", "w").fileno(), 2)
    import torch

    from pysolver.errors import CaffeError
    from pysolver.solver.train import TrainOptions, main

    torch.set_num_threads(1)
    if die_at_call is not None:
        _die_at(die_at_call)
    if die_after is not None:
        signal.setitimer(signal.ITIMER_PROF, die_after)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    begin = time.process_time()
    try:
        main(TrainOptions("solver.prototxt", **options))
        Path("seconds").write_text(str(time.process_time() - begin))
    except CaffeError as error:
        print(f"pysolver: {error}", file=sys.stderr)
        sys.exit(1)


def _die_at(call: int) -> None:
    """SIGKILL before, or in the middle of, the n-th file operation of write_atomic."""
    from pysolver import files

    left = call

    def count(function):
        def wrapped(*args, **kwargs):
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return wrapped

    class Half:
        """A file of which only a part reaches the disk when the process dies in write()."""

        def __init__(self, file):
            self.file = file

        def write(self, data):
            nonlocal left
            left -= 1
            if left == 0:
                self.file.write(data[: len(data) // 2])
                self.file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            return self.file.write(data)

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return self.file.__exit__(*error)

    class Os:
        fsync, replace = staticmethod(count(os.fsync)), staticmethod(count(os.replace))

        def __getattr__(self, name):
            return getattr(os, name)

    files.os = Os()
    files.open = lambda *args: Half(open(*args)) if "x" in args[1] else open(*args)  # noqa: SIM115

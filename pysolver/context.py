"""What a net is built for: passed from hand to hand, so that there is no global state."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from pysolver.logs.events import Emit, Event
from pysolver.logs.writer import to_stderr
from pysolver.proto.caffe_pb2 import FillerParameter
from pysolver.shelf import Shelf


@dataclass(frozen=True)
class Context:
    """Device, seed and place among the ranks of one net.

    seed: None draws from the system's entropy, as Caffe does for random_seed < 0.
    allow_python_layers: import whatever module the net's Python layers name. Without it they may be of classes that the
    running script has, or of modules in own_code, the folders of the user's own Python.
    cache_bytes: data sets up to this size are decoded once and kept in memory.
    shelf: where decoded data waits for the next net of this process; None: each net decodes for itself.
    listener: who is told what happens, by default the Caffe log on stderr, from rank 0 only.
    precision: fp32, or bf16 or fp16 for what is computed between the parameters; see pysolver.net.precision.
    compile: whether torch.compile makes kernels of the net's function; not on a CPU.
    unfilled: takes the parameters whose fillers have not run, since weights are expected; None: fill at once.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seed: int | None = None
    rank: int = 0
    world_size: int = 1
    cache_bytes: int = 2 << 30
    shelf: Shelf | None = field(default=None, compare=False, repr=False)
    listener: Emit | None = field(default=None, compare=False, repr=False)
    allow_python_layers: bool = False
    own_code: tuple[str, ...] = ()
    precision: str = "fp32"
    compile: bool = False
    unfilled: list[tuple[nn.Parameter, FillerParameter]] | None = field(default=None, compare=False, repr=False)

    @property
    def is_root(self) -> bool:
        """Rank 0 tests, snapshots and logs."""
        return self.rank == 0

    def emit(self, event: Event) -> None:
        """Tell the run's listener."""
        if self.listener is not None:
            self.listener(event)
        elif self.is_root:
            to_stderr(event)

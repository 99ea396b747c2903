"""What a Caffe run tells, as typed events: the solver emits them, the log writes them, the parser reads them back.

Texts, tags and number formats are in grammar.py; here is only what is said. The order of events within one
iteration is Caffe's: Testing, Output("Test"), Display, Output("Train"), MultiStep, Rate, Clipping, Snapshot.
Numbers are floats as Caffe prints them (6 digits); None stands for what a form of the line leaves out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """Base of everything a log says."""


Emit = Callable[[Event], None]  # who is told


# Start of `caffe train`


@dataclass(frozen=True, slots=True)
class UseCpu(Event):
    """The run is on the CPU."""


@dataclass(frozen=True, slots=True)
class Threads(Event):
    """How many threads compute on the CPU, and why."""

    count: int
    cores: int
    why: str


@dataclass(frozen=True, slots=True)
class Overflow(Event):
    """An update that was left out, since a gradient in half precision was not finite; the next factor on the loss."""

    iteration: int
    scale: float


@dataclass(frozen=True, slots=True)
class UseGpus(Event):
    """The devices of the run, as one text: `0, 1`."""

    ids: str


@dataclass(frozen=True, slots=True)
class UseGpu(Event):
    """The one device of `caffe test` and `caffe time`."""

    device: int


@dataclass(frozen=True, slots=True)
class GpuName(Event):
    """Name of a device; index is None in `caffe test`, which has only one."""

    name: str
    index: int | None = None


@dataclass(frozen=True, slots=True)
class Processes(Event):
    """How many processes train this net together, on all machines."""

    count: int


@dataclass(frozen=True, slots=True)
class InitializingSolver(Event):
    """The solver's parameters in protobuf text form, with the newline at its end."""

    parameters: str


@dataclass(frozen=True, slots=True)
class CreatingTrainNet(Event):
    """field: `net`, `train_net` (with their file), `net_param` or `train_net_param` (file is None)."""

    field: str
    file: str | None = None


@dataclass(frozen=True, slots=True)
class CreatingTestNet(Event):
    """source: `net file: F`, `test_net file: F`, `net_param` or `test_net_param`."""

    net: int
    source: str


@dataclass(frozen=True, slots=True)
class Finetuning(Event):
    """Weights are taken from a file."""

    file: str


@dataclass(frozen=True, slots=True)
class IgnoringSourceLayer(Event):
    """A layer of the weights' source that this net does not have."""

    name: str


@dataclass(frozen=True, slots=True)
class ScaffoldingDone(Event):
    """All nets are built."""


@dataclass(frozen=True, slots=True)
class Resuming(Event):
    """`caffe train -snapshot`."""

    file: str


@dataclass(frozen=True, slots=True)
class RestoringHistory(Event):
    """The update history comes from a binary solver state."""


@dataclass(frozen=True, slots=True)
class StartingOptimization(Event):
    """The last line before the solver's own."""


# Training


@dataclass(frozen=True, slots=True)
class Solving(Event):
    """Name of the train net."""

    net: str


@dataclass(frozen=True, slots=True)
class Policy(Event):
    """lr_policy."""

    name: str


@dataclass(frozen=True, slots=True)
class RestoringStatus(Event):
    """Solve(file), as pycaffe's `solver.solve(file)` does it."""

    file: str


@dataclass(frozen=True, slots=True)
class Testing(Event):
    """Test net number `net` runs on the weights after `iteration` updates."""

    iteration: int
    net: int


@dataclass(frozen=True, slots=True)
class TestLoss(Event):
    """Mean weighted loss of a test (test_compute_loss)."""

    value: float


@dataclass(frozen=True, slots=True)
class Output(Event):
    """One element of an output blob; phase is `Train` or `Test`, index counts elements over all outputs.

    weight and weighted (their product) are None where the blob has no loss weight.
    """

    phase: str
    index: int
    name: str
    value: float
    weight: float | None = None
    weighted: float | None = None


@dataclass(frozen=True, slots=True)
class TestInterrupted(Event):
    """A stop was asked for while testing."""


@dataclass(frozen=True, slots=True)
class Display(Event):
    """The smoothed loss; iterations per second, seconds for `interval` of them: None at the end and in old Caffes."""

    iteration: int
    loss: float
    speed: float | None = None
    seconds: float | None = None
    interval: int | None = None


@dataclass(frozen=True, slots=True)
class Iteration(Event):
    """The loss of one iteration, as it was computed. No line of a log says it."""

    iteration: int
    loss: float


@dataclass(frozen=True, slots=True)
class MultiStep(Event):
    """The multistep policy passes a stepvalue."""

    iteration: int
    step: int


@dataclass(frozen=True, slots=True)
class Rate(Event):
    """The update's hyper-parameters; plain Caffe prints only the rate."""

    iteration: int
    lr: float
    momentum: float | None = None
    weight_decay: float | None = None


@dataclass(frozen=True, slots=True)
class Clipping(Event):
    """The gradient's norm exceeded clip_gradients; scale is their quotient."""

    norm: float
    clip: float
    scale: float


@dataclass(frozen=True, slots=True)
class GradientNorm(Event):
    """Norm of the whole gradient, printed by the paper's Caffe on every rank; it is only read."""

    norm: float


@dataclass(frozen=True, slots=True)
class Snapshot(Event):
    """kind: `model` or `state`; format: `binary proto` or `HDF5`."""

    kind: str
    format: str
    file: str


@dataclass(frozen=True, slots=True)
class StoppedEarly(Event):
    """The run was asked to stop."""


@dataclass(frozen=True, slots=True)
class GaveUp(Event):
    """Why a run is stopped before its end although nobody asked: it has no prospects."""

    reason: str


@dataclass(frozen=True, slots=True)
class GoOn(Event):
    """The command that takes up a run which was asked to stop."""

    command: str


@dataclass(frozen=True, slots=True)
class Done(Event):
    """by: `solver` or `tool`; a complete run says it twice, a stopped one only by the tool."""

    by: str


@dataclass(frozen=True, slots=True)
class RestartingData(Event):
    """A data base begins again."""


@dataclass(frozen=True, slots=True)
class WaitingForData(Event):
    """A consumer found its queue empty."""


# debug_info


@dataclass(frozen=True, slots=True)
class DebugBlob(Event):
    """Mean absolute value of one blob.

    way: `Forward` or `Backward`; role: `top`, `param` or `bottom`; what: `data` or `diff`.
    """

    way: str
    layer: str
    role: str
    blob: str
    what: str
    value: float


@dataclass(frozen=True, slots=True)
class DebugTotals(Event):
    """Norms over all parameters, data then diff."""

    l1_data: float
    l1_diff: float
    l2_data: float
    l2_diff: float


# `caffe test`


@dataclass(frozen=True, slots=True)
class RunningFor(Event):
    """Number of batches to test."""

    iterations: int


@dataclass(frozen=True, slots=True)
class BatchOutput(Event):
    """One output element of one test batch."""

    batch: int
    name: str
    value: float


@dataclass(frozen=True, slots=True)
class MeanLoss(Event):
    """Mean weighted loss over all batches."""

    value: float


@dataclass(frozen=True, slots=True)
class MeanOutput(Event):
    """Mean of one output element over all batches."""

    name: str
    value: float
    weight: float | None = None
    weighted: float | None = None


# Net construction, as far as readers use it


@dataclass(frozen=True, slots=True)
class InitializingNet(Event):
    """The filtered net in protobuf text form, with the newline at its end."""

    parameters: str


@dataclass(frozen=True, slots=True)
class Top(Event):
    """A layer's top; in_place where it is also the bottom."""

    layer: str
    blob: str
    in_place: bool = False


@dataclass(frozen=True, slots=True)
class SettingUp(Event):
    """The shapes that follow belong to this layer."""

    layer: str


@dataclass(frozen=True, slots=True)
class TopShape(Event):
    """Dimensions as text, `64 8 24 24 `, and their product."""

    dims: str
    count: int


@dataclass(frozen=True, slots=True)
class NetReady(Event):
    """The net is complete."""

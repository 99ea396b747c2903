"""From a plan to a trial: what the paper calls a ramp or a cycle, as a solver and a net."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pysolver.disciplined.data_sets import data_layers, reader, size, tested
from pysolver.disciplined.plan import BESIDE, CYCLE, FINAL, FIXED, OWN, RAMP, SCOUT, SPEED, WHOLE, Facts, Plan
from pysolver.disciplined.trial import Backend, Trial, changed, here, read_pair
from pysolver.errors import CaffeError, about
from pysolver.policies import CYCLICAL
from pysolver.proto.caffe_pb2 import (
    TEST,
    TRAIN,
    FillerParameter,
    LayerParameter,
    NetParameter,
    NetState,
    SolverParameter,
)
from pysolver.schedule import check_schedule
from pysolver.solver_types import TYPES, check_type

TESTS = {SCOUT: 20, RAMP: 40, CYCLE: 5, FIXED: 10, OWN: 5, SPEED: 0}  # how many lie on a trial
WHOLE_TESTS = 12  # on a whole training: enough to read clues from
WHOLE_SNAPSHOTS = 4  # on the way of a whole training, which goes on from them if it broke off
TAIL = 0.1  # of a cycle's run, at far below the lowest rate
FEW = 1000  # test images that do for a point of a ramp
VARIED = (RAMP, CYCLE, FIXED)  # their runs differ in more than the seed
BESIDE_FILLERS = {"msra": "xavier", "xavier": "msra"}
WEIGHTED = ("Convolution", "Deconvolution", "InnerProduct", "Embed", "RNN", "LSTM")  # types of layers with weights
_SCHEDULE = ("lr_policy", "gamma", "power", "stepsize", "stepvalue", "max_lr", "cyclical_momentum", "start_lr_policy")


@dataclass(frozen=True)
class Recipe:
    """Makes the trials of one tuning: the person's solver and net, where trials go, who trains.

    processes: that train a net together, each with the net's whole batch.
    """

    solver: SolverParameter
    net: NetParameter
    facts: Facts
    out: Path
    backend: Backend = here
    apart: NetParameter | None = None  # the net on a training set of which a part was set aside to decide on
    whole: tuple[int, int] | None = None  # images of the whole training set and of the test set, then
    processes: int = 1

    def trial(self, plan: Plan) -> Trial:
        """The trial of a plan, in its folder."""
        net = self.with_batch(self.batch(plan), is_varied(plan), self.net if is_last(plan) else self.apart)
        return Trial.of(self.folder(plan), self.solver_of(plan), net, self.backend, self.start(plan))

    def folder(self, plan: Plan) -> Path:
        """Where the trial of a plan is."""
        return self.out / "trials" / plan.name

    def start(self, plan: Plan) -> Path | None:
        """The solver state that a trial goes on from, None for a new net."""
        if plan.after is None:
            return None
        ending = ".h5" if self.solver.snapshot_format == SolverParameter.HDF5 else ""
        return self.folder(plan.after) / f"snapshot_iter_{self.begin(plan)}.solverstate{ending}"

    def begin(self, plan: Plan) -> int:
        """The iteration at which a trial begins."""
        return self.solver_of(plan.after).max_iter if plan.after else 0

    def sizes(self, plan: Plan) -> tuple[int, int]:
        """Images that a trial trains on, and of the set that it is tested on."""
        return self.whole if self.whole and is_last(plan) else (self.facts.images, self.facts.tests)

    def batch(self, plan: Plan) -> int:
        """Images an update of this run: every second one takes an eighth less (A.1), whole trainings all."""
        return max(1, round(plan.batch * 7 / 8)) if is_varied(plan) else plan.batch

    def solver_of(self, plan: Plan) -> SolverParameter:
        """The solver of a plan. Its run ends with a test."""
        tests = WHOLE_TESTS if plan.stage in WHOLE else TESTS[plan.shape]
        if self.apart and is_last(plan):
            tests = 1  # the test set is touched once
        wanted = max(1, round(plan.epochs * self.sizes(plan)[0] / self.batch(plan)))
        interval = max(1, round(wanted / tests)) if tests else 0
        end = interval * max(1, round(wanted / interval)) if interval else wanted
        fields: dict[str, object] = {
            "max_iter": self.begin(plan) + end,
            "test_interval": interval or end + 1,
            "test_iter": [self.test_iter(plan)],
            "test_state": [tested(self.solver, self.net)] if self.solver.test_state else [],
            "test_initialization": plan.shape in (RAMP, SCOUT),  # where the loss begins
            "display": max(1, end // (12 if plan.shape == SPEED else 60)),
            "average_loss": 1,
            "snapshot": end // WHOLE_SNAPSHOTS if plan.stage in WHOLE else 0,
            "snapshot_after_train": plan.shape == FIXED or plan.stage == FINAL and plan.run == 0,
            "random_seed": plan.run + 1,
        }
        if plan.shape != OWN:
            fields |= {name: None for name in _SCHEDULE} | self._schedule(plan, end)
        return changed(self.solver, **fields)

    def _schedule(self, plan: Plan, end: int) -> dict[str, object]:
        falls = plan.momentum[0] != plan.momentum[1]
        fields: dict[str, object] = {"base_lr": plan.low, "weight_decay": plan.weight_decay}
        if self.facts.takes_momentum:
            fields["momentum"] = plan.momentum[0]
        if plan.shape in (SPEED, FIXED):
            return fields | {"lr_policy": "fixed"}
        if plan.shape == SCOUT:
            return fields | {"lr_policy": "exp", "gamma": (plan.high / plan.low) ** (1 / end)}
        half = end if plan.shape == RAMP else max(1, round(end * (1 - TAIL) / 2))
        if falls and self.facts.takes_momentum:
            fields["cyclical_momentum"] = [plan.momentum[1], half]
        policy = "triangular" if plan.shape == RAMP else "1cycle"
        return fields | {"lr_policy": policy, "max_lr": plan.high, "stepsize": half}

    def test_iter(self, plan: Plan) -> int:
        """Batches that show the whole test set once, or enough of it for a point of a ramp."""
        net = self.with_batch(self.batch(plan))  # one layer may serve both phases
        batch = reader(next(self._data_layers(net, TEST))).batch_size
        tests = self.sizes(plan)[1]
        return math.ceil((min(FEW, tests) if plan.shape in (RAMP, SCOUT) else tests) / batch)

    def with_batch(self, batch: int, swap: bool = False, net: NetParameter | None = None) -> NetParameter:
        """The net with this many images an update, and the other of the two usual fillers if asked for."""
        source, net = net or self.net, NetParameter()
        net.CopyFrom(source)
        for layer in self._data_layers(net, TRAIN):
            reader(layer).batch_size = max(1, round(batch / max(1, self.solver.iter_size) / self.processes))
        for layer in net.layer if swap else ():
            for filler in weight_fillers(layer):
                filler.type = BESIDE_FILLERS.get(filler.type, filler.type)
        return net

    def _data_layers(self, net: NetParameter, phase: int) -> Iterator[LayerParameter]:
        return data_layers(net, phase, states(self.solver, self.net)[phase])


def recipe(solver_file: str | Path, out: Path, *, epochs: float | None = None, runs: int = 2, seeds: int = 4,
           validation: int = 0, backend: Backend = here, processes: int = 1) -> Recipe:  # fmt: skip
    """Read a person's solver and net. CaffeError if they cannot be tuned, with what they would need.

    epochs: length of the final training; unless given, what the solver's max_iter says is where the search for it
    begins. validation: so many training records are set aside to decide on. processes: so many train each net, an
    update takes so many batches.
    """
    if epochs is not None and not 0 < epochs < math.inf:
        raise CaffeError(f"--epochs {epochs:g}: a length above 0")
    solver, net = read_pair(solver_file)
    with about(solver_file):  # else told when the file itself is trained, which is last
        check_type(solver.type, solver)
        check_schedule(changed(solver, max_iter=solver.max_iter or 1))
        known = states(solver, net)
    with about(solver.net):
        images, batch = _size(net, TRAIN, known[TRAIN])
        tests, _ = _size(net, TEST, known[TEST])
    batch *= max(1, solver.iter_size) * processes
    takes_momentum = TYPES[solver.type].takes_momentum
    momentum = solver.momentum if takes_momentum else 0.0
    own = solver.max_iter * batch / images
    own = round(own, 2) if own >= 1 else float(f"{own:.3g}")
    if not (epochs or own):
        raise CaffeError(f"{solver_file}: max_iter is not set: say how long to train with --epochs")
    rate = max(solver.base_lr, solver.max_lr) if solver.lr_policy in CYCLICAL else solver.base_lr
    rate, momentum, decay = (float(f"{value:.6g}") for value in (rate, momentum, solver.weight_decay))
    facts = Facts(images, tests, batch, rate, momentum, decay, depth(net), epochs or own, runs, seeds,
                  epochs is None, takes_momentum)  # fmt: skip
    if not validation:
        return Recipe(solver, net, facts, out, backend, processes=processes)
    from pysolver.disciplined.validation import split

    apart, rest = split(net, known, validation, out / "data")
    facts = replace(facts, images=rest, tests=validation, set_aside=validation)
    return Recipe(solver, net, facts, out, backend, apart, (images, tests), processes)


def states(solver: SolverParameter, net: NetParameter) -> dict[int, NetState]:
    """By phase, the level and stages with which the trials build the net."""
    return {TRAIN: solver.train_state, TEST: tested(solver, net)}


def is_varied(plan: Plan) -> bool:
    """Whether a run differs from others of its kind in filler and batch size, too, not in its seed alone."""
    return plan.run % 2 == 1 and plan.shape in VARIED and plan.stage not in WHOLE


def is_last(plan: Plan) -> bool:
    """Whether a trial shows what the search came to; the first of them may be a part of it, too."""
    return plan.stage in (FINAL, BESIDE)


def depth(net: NetParameter) -> int:
    """Layers with weights, also those that a caffemodel fills and no filler; some that share theirs are one."""
    weighted = [layer for layer in net.layer if layer.type in WEIGHTED or list(weight_fillers(layer))]
    return len({(layer.param[0].name if layer.param else "") or layer.name for layer in weighted})


def weight_fillers(layer: LayerParameter) -> list[FillerParameter]:
    """What fills the weights of a layer, its bias aside."""
    parameters = (layer.convolution_param, layer.inner_product_param)
    return [p.weight_filler for p in parameters if p.HasField("weight_filler")]


def _size(net: NetParameter, phase: int, state: NetState) -> tuple[int, int]:
    """Images and batch size of the one data layer of a phase."""
    word = "TRAIN" if phase == TRAIN else "TEST"
    layers = list(data_layers(net, phase, state))
    if len(layers) != 1:
        raise CaffeError(f"needs one Data, ImageData or HDF5Data layer in phase {word}, has {len(layers)}")
    images = size(layers[0])
    if not images:
        raise CaffeError(
            f"layer '{layers[0].name}': {reader(layers[0]).source} is not there or cannot be counted: "
            "an LMDB, an image list or a list of HDF5 files is needed"
        )
    return images, reader(layers[0]).batch_size

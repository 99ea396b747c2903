"""From a curve of an experiment to a trial: the solver's text and the net's."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from pysolver.disciplined.paper.experiment import Curve, Experiment, folder_name
from pysolver.disciplined.trial import Backend, Command, Trial, changed, here
from pysolver.errors import CaffeError, about
from pysolver.files import read_bytes, write_atomic
from pysolver.proto.caffe_pb2 import TEST, TRAIN, LayerParameter, NetParameter, SolverParameter, SolverState
from pysolver.proto.upgrade import read_net

NUMBER = r"(\d+\.?\d*(?:e-?\d+)?)"
FEWEST_TESTS = 4
FRESH = "fresh.solverstate"
LARGEST_STATE = 1 << 31
RUNS = 4  # of the paper; A.1: with slightly different batch sizes and fillers


@dataclass(frozen=True)
class DataSet:
    """How many images a set has that `pysolver data` prepares, and how many classes."""

    train: int
    test: int
    classes: int


DATA = {
    "mnist": DataSet(60_000, 10_000, 10),
    "cifar10": DataSet(50_000, 10_000, 10),
    "cifar100": DataSet(50_000, 10_000, 100),
    "imagenet": DataSet(1_281_167, 50_000, 1000),
}


@dataclass(frozen=True)
class Variation:
    """One of the runs of a curve: appendix A.1 has them differ a little, so that their spread means something.

    filler: of the layers that have xavier or msra; gaussian ones, as cifar10's of Caffe, stay.
    """

    seed: int
    batch: int
    filler: str

    @staticmethod
    def of(curve: Curve, number: int) -> Variation:
        """Run 1, 2, ...: batch sizes b, b, b - b/128, b + b/128 in turn, fillers xavier and msra in turn."""
        step = max(1, curve.batch // 128)
        change = (0, 0, -step, step)[(number - 1) % RUNS]
        return Variation(number, max(1, curve.batch + change), ("xavier", "msra")[(number - 1) % 2])


def trial_of(
    experiment: Experiment,
    curve: Curve,
    number: int,
    out: Path,
    scale: float = 1,
    data: Path = Path("experiments/data"),
    backend: Backend = here,
    gpu: bool = True,
) -> Trial:
    """Run `number` of a curve, in a folder below out; scale: of the length, 1 is the paper's.

    It writes a snapshot at each test, from which it goes on if it is killed. gpu: whether there is one for a Caffe,
    which ends where it has none; pysolver then takes the CPU.
    """
    solver, net = _messages(experiment, curve, number, out, scale, data)
    solver.snapshot = solver.test_interval
    solver.solver_mode = SolverParameter.GPU if gpu else SolverParameter.CPU
    start = None
    if solver.weights and isinstance(backend, Command) and not backend.is_pysolver:
        start = folder_of(experiment, curve, number, out, scale) / FRESH  # which write_fresh_state makes
        solver.ClearField("weights")
    return Trial.of(folder_of(experiment, curve, number, out, scale), solver, net, backend, start)


def write_fresh_state(path: Path, weights: Path) -> None:
    """A solver state like the one beside the weights, at iteration 0 and without momentum.

    It is how a Caffe begins with the weights: that of the solver's field `weights` came after 1.0, and there are those
    that ignore --weights.
    """
    state = SolverState()
    try:
        state.ParseFromString(read_bytes(weights.with_suffix(".solverstate"), LARGEST_STATE))
    except DecodeError as error:
        raise CaffeError(f"{weights.with_suffix('.solverstate')}: is no solver state: {error}") from None
    state.iter, state.current_step, state.learned_net = 0, 0, str(weights)
    for blob in state.history:
        for column in (blob.data, blob.double_data):
            column[:] = [0.0] * len(column)
    write_atomic(path, state.SerializeToString())


def settings_of(experiment: Experiment, curve: Curve, number: int, scale: float = 1) -> str:
    """What a run is made with, as 12 hexadecimal digits: runs of the same training have the same.

    The digits are of the bytes of its solver and its net, wherever its data and its folder lie, and of what it goes on
    from. How often it writes snapshots and where it computes changes no training: in these bytes it is always once, at
    the end, and on a GPU.
    """
    told = settings_of(experiment, experiment.curve(curve.after), number, scale).encode() if curve.after else b""
    for message in _messages(experiment, curve, number, Path("runs"), scale, Path("data")):
        told += message.SerializeToString(deterministic=True)
    return hashlib.sha256(told).hexdigest()[:12]


def _messages(
    experiment: Experiment, curve: Curve, number: int, out: Path, scale: float, data: Path
) -> tuple[SolverParameter, NetParameter]:
    variation = Variation.of(curve, number)
    solver = solver_of(experiment, curve, variation, scale)
    if curve.after:
        solver.weights.append(str(weights_of(experiment, curve, number, out, scale)))
    net = net_of(curve, variation, data)
    solver.test_iter.append(batches_of_test(net, DATA[curve.data].test))
    return solver, net


def weights_of(experiment: Experiment, curve: Curve, number: int, out: Path, scale: float) -> Path:
    """The caffemodel with which a run of a curve begins that goes on from another."""
    first = experiment.curve(curve.after)
    length = solver_of(experiment, first, Variation.of(first, number), scale).max_iter
    return folder_of(experiment, first, number, out, scale) / f"snapshot_iter_{length}.caffemodel"


def folder_of(experiment: Experiment, curve: Curve, number: int, out: Path, scale: float) -> Path:
    """Where a run is: OUT/EXPERIMENT/CURVE/run_1, or run_1_scale_0.1."""
    run = f"run_{number}" + ("" if scale == 1 else f"_scale_{scale:g}")
    return Path(out) / experiment.name / folder_name(curve.name) / run


def solver_of(experiment: Experiment, curve: Curve, variation: Variation, scale: float) -> SolverParameter:
    """The curve's solver. Its length is a whole number of test intervals, so that the last weights are tested.

    CaffeError for a value that no solver takes, or data that are not known.
    """
    where = f"{experiment.name}: curve '{curve.name}'"
    if curve.data not in DATA:
        raise CaffeError(f"{where}: data '{curve.data}' is not known; there are: {', '.join(DATA)}")
    with about(where):
        try:
            return _solver_of(experiment, curve, variation, scale)
        except (ValueError, TypeError, OverflowError, AttributeError) as error:  # what a message says of a value
            raise CaffeError(str(error)) from None


def _solver_of(experiment: Experiment, curve: Curve, variation: Variation, scale: float) -> SolverParameter:
    images = DATA[curve.data].train
    wanted = curve.epochs * scale * images / variation.batch
    tests = max(FEWEST_TESTS, round(experiment.tests * min(1, scale) ** 0.5))  # fewer in short runs: they cost time
    interval = 3 * max(1, round(wanted / tests / 3))  # with a display at each test, for the generalisation error
    length = interval * max(1, round(wanted / interval))
    fields: dict[str, Any] = {
        "test_interval": interval,
        "max_iter": length,
        "display": interval // 3,
        "weight_decay": curve.weight_decay,
        "random_seed": variation.seed,
        "snapshot": length,
        "solver_mode": SolverParameter.GPU,
    }
    epoch = length / curve.epochs  # iterations, also of a shortened run
    fields |= _rate(curve.rate, length, epoch) | _momentum(curve.momentum, length, epoch)
    if curve.drops:
        fields |= {"lr_policy": "multistep", "stepvalue": [round(part * length) for part in curve.drops]}
    made = changed(SolverParameter(), **{**fields, **curve.solver})
    if made.lr_policy == "inv":  # these two count iterations: in a shortened run each counts for more
        made.gamma /= scale
    if made.lr_policy == "step":
        made.stepsize = max(1, round(made.stepsize * scale))
    return made


def _rate(rate: float | str, length: int, epoch: float) -> dict[str, Any]:
    if not isinstance(rate, str):
        return {"lr_policy": "fixed", "base_lr": rate}
    if cycle := re.fullmatch(f"{NUMBER}-{NUMBER}/{NUMBER}", rate):
        low, high, step = map(float, cycle.groups())
        return {"lr_policy": "1cycle", "base_lr": low, "max_lr": high, "stepsize": round(step * epoch)}
    low, high = _ramp(rate)
    return {"lr_policy": "triangular", "base_lr": low, "max_lr": high, "stepsize": length}


def _momentum(momentum: float | str, length: int, epoch: float) -> dict[str, Any]:
    if not isinstance(momentum, str):
        return {"momentum": momentum}
    if cycle := re.fullmatch(f"{NUMBER}-{NUMBER}/{NUMBER}", momentum):
        first, bound, step = map(float, cycle.groups())
        return {"momentum": first, "cyclical_momentum": [bound, round(step * epoch)]}
    first, bound = _ramp(momentum)
    return {"momentum": first, "cyclical_momentum": [bound, length]}


def _ramp(text: str) -> tuple[float, float]:
    ramp = re.fullmatch(f"{NUMBER} to {NUMBER}", text)
    if not ramp:
        raise CaffeError(f"'{text}' is neither a number, nor `0.01-0.1/5`, nor `0.01 to 0.1`")
    return float(ramp[1]), float(ramp[2])


# -- the net ------------------------------------------------------------------------------------------------------


def net_of(curve: Curve, variation: Variation, data: Path) -> NetParameter:
    """The curve's net with its data, batch size, fillers, width and number of classes."""
    net = read_net(curve.net)
    if any(layer.type == "Input" for layer in net.layer):
        _read_images(net)
    for layer in net.layer:
        if layer.type == "Data":
            _point(layer, curve, variation, data)
        if layer.type == "BatchNorm":
            layer.batch_norm_param.moving_average_fraction = 0.9  # follows the rates; 0.999 lags behind short runs
        for part in (layer.convolution_param, layer.inner_product_param):
            if part.HasField("weight_filler") and part.weight_filler.type in ("xavier", "msra"):
                part.weight_filler.type = variation.filler
    learned = [layer for layer in net.layer if layer.type in ("Convolution", "InnerProduct")]
    for layer in learned[:-1] if curve.width != 1 else []:
        part = layer.convolution_param if layer.type == "Convolution" else layer.inner_product_param
        part.num_output = max(1, round(part.num_output * curve.width))
    if learned and learned[-1].type == "InnerProduct":
        learned[-1].inner_product_param.num_output = DATA[curve.data].classes
    return net


def fillers_of(net: NetParameter) -> str:
    """What fills the weights of its layers: `xavier`, `gaussian`, or several."""
    parts = [part for layer in net.layer for part in (layer.convolution_param, layer.inner_product_param)]
    return ", ".join(sorted({part.weight_filler.type for part in parts if part.HasField("weight_filler")}))


def _point(layer: LayerParameter, curve: Curve, variation: Variation, data: Path) -> None:
    phase = _phase(layer)
    folder = data / curve.data
    layer.data_param.source = str(folder / f"{curve.data}_{'train' if phase == TRAIN else 'test'}_lmdb")
    if phase == TRAIN:
        layer.data_param.batch_size = variation.batch
    if layer.transform_param.mean_file:
        layer.transform_param.mean_file = str(folder / f"{curve.data}_mean.binaryproto")


def _phase(layer: LayerParameter) -> int:
    return next((rule.phase for rule in layer.include if rule.HasField("phase")), TRAIN)


def _read_images(net: NetParameter) -> None:
    """Put Data layers where examples/nets has Input layers of one image size: crop, mirror, mean."""
    side = next(layer.input_param.shape[0].dim[2] for layer in net.layer if len(layer.input_param.shape[0].dim) == 4)
    rest = [layer for layer in net.layer if layer.type != "Input"]
    made = NetParameter()
    for phase in (TRAIN, TEST):
        layer = made.layer.add(name="data", type="Data", top=["data", "label"])
        layer.include.add(phase=phase)
        layer.transform_param.crop_size = side
        layer.transform_param.mirror = phase == TRAIN
        layer.transform_param.mean_file = "mean"
        layer.data_param.batch_size = 50
        layer.data_param.backend = layer.data_param.LMDB
    made.layer.extend(rest)
    del net.layer[:]
    net.layer.extend(made.layer)


def batches_of_test(net: NetParameter, images: int) -> int:
    """How many test batches go through the whole test set."""
    batch = next((x.data_param.batch_size for x in net.layer if x.type == "Data" and _phase(x) == TEST), 0)
    if not batch:
        raise CaffeError(f"{net.name}: has no Data layer for testing")
    return -(-images // batch)


def missing_data(curves: Sequence[Curve], data: Path) -> str | None:
    """What to type first, where a data set is not there."""
    for name in dict.fromkeys(curve.data for curve in curves):
        if not (data / name / f"{name}_train_lmdb").exists():
            return f"{data / name}: no databases there; first: pysolver data {name} {data / name} [--from DIR]"
    return None

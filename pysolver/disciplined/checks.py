"""The checks of a solver file: each looks at a case and yields findings. A new one is one function with @check.

Schedules are not judged by their formulas but by their table (pysolver.schedule).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pysolver import schedule
from pysolver.disciplined.data_sets import data_layers, in_phase, reader, size
from pysolver.disciplined.findings import CYCLES, Case, Finding, check, error, note, warning
from pysolver.disciplined.reading import analyse
from pysolver.errors import CaffeError
from pysolver.logs.header import many
from pysolver.logs.run import Run
from pysolver.proto.caffe_pb2 import TEST, TRAIN, SolverParameter

# -- the cycles


@check
def cycle_lengths(case: Case) -> Iterator[Finding]:
    """Rate and momentum should turn at the same iterations."""
    solver = case.solver
    if case.cyclical and len(solver.cyclical_momentum) == 2 and solver.stepsize:
        half = solver.cyclical_momentum[1]
        if half != solver.stepsize and not case.is_range_test:
            yield warning(
                "cyclical_momentum",
                f"half a cycle of the momentum is {half:.0f} iterations, of the rate {solver.stepsize}: they part",
            )


@check
def bounds(case: Case) -> Iterator[Finding]:
    """max_lr above base_lr, momentum within [0, 1) and lowest where the rate is highest."""
    solver = case.solver
    if case.cyclical and solver.HasField("max_lr") and solver.max_lr <= solver.base_lr:
        words = "is" if solver.max_lr == solver.base_lr else "is below"
        yield warning(
            "max_lr",
            f"{solver.max_lr:g} {words} base_lr {solver.base_lr:g}: the cycle "
            + ("stands still" if words == "is" else "goes down first"),
        )
    if not case.cyclical and solver.HasField("max_lr"):
        yield warning("max_lr", f'lr_policy "{solver.lr_policy}" does not use it')
    values = [solver.momentum, *list(solver.cyclical_momentum)[:1]]
    if max(values) >= 1:
        yield error("momentum", f"reaches {max(values):g}: old gradients are never forgotten, it diverges")
    elif np.float32(max(values)) > np.float32(0.99):
        yield warning("momentum", f"{max(values):g} makes an effective rate of {1 / (1 - max(values)):.0f} x lr")
    if len(solver.cyclical_momentum) == 2 and values[1] > values[0]:
        yield warning(
            "cyclical_momentum",
            f"momentum rises from {values[0]:g} to {values[1]:g} with the rate; the method lowers it",
        )


@check
def cycle_fits(case: Case) -> Iterator[Finding]:
    """A cycle should end within the run, and 1cycle leave iterations at a low rate."""
    solver = case.solver
    step, end = solver.stepsize, solver.max_iter
    if not case.cyclical or step < 1 or end < 1 or case.is_range_test:
        return
    if solver.start_lr_policy >= end and solver.lr_policy in CYCLES:
        yield warning("start_lr_policy", f"{solver.start_lr_policy} is not before max_iter {end}: no cycle")
    elif solver.lr_policy == "1cycle":
        if end < 2 * step:
            yield warning(
                "stepsize",
                f"the cycle of 2 x {step} iterations does not fit into "
                f"max_iter {end}: the run ends at rate {_last_rate(case):.3g}",
            )
        elif end - 2 * step < 0.02 * end:
            yield warning(
                "max_iter",
                f"no tail after the cycle of 2 x {step} iterations: the last part "
                "of a run at base_lr / 1000 (a tenth of it, say) is where the accuracy comes",
            )
    elif (end - solver.start_lr_policy) % (2 * step):
        cycles = (end - solver.start_lr_policy) / (2 * step)
        yield warning(
            "stepsize",
            f"{cycles:.3g} cycles fit into max_iter {end}: the last is cut off at rate {_last_rate(case):.3g}",
        )


def _last_rate(case: Case) -> float:
    return float(schedule.learning_rate(case.solver, case.solver.max_iter - 1))


@check
def effective_rate(case: Case) -> Iterator[Finding]:
    """rate / (1 - momentum) against the break that a range test showed."""
    if case.log is None or case.table is None:
        return
    try:
        found = analyse([case.log])
    except CaffeError as refusal:
        yield note("log", f"no range test to compare with: {refusal}")
        return
    if found.max_lr is None:
        yield note("log", "the range test shows no rate at which training works: there is nothing to compare with")
        return
    if not found.break_seen:
        yield note("log", f"the range test shows no break up to {found.max_lr:g}")
        return
    tested = _momentum_of(case.log)
    limit = found.max_lr / (1 - tested)
    _, lr, momentum = case.table
    effective = lr / np.maximum(1 - momentum, 1e-9)
    worst = int(np.argmax(effective))
    if effective[worst] > 1.02 * limit:
        yield warning(
            "max_lr",
            f"rate / (1 - momentum) reaches {effective[worst]:.3g} (lr {lr[worst]:.3g}, momentum "
            f"{momentum[worst]:.3g}); the range test broke at {limit:.3g} (lr {found.max_lr:.3g}, momentum {tested:g})",
        )


def _momentum_of(log: Run) -> float:
    printed = log.train.momentum[np.isfinite(log.train.momentum)]
    if len(printed):
        return min(float(np.median(printed)), 0.9999)
    return min(float(many(log.solver, "momentum")[0]) if log.solver.get("momentum") else 0.0, 0.9999)


# -- steps


@check
def steps(case: Case) -> Iterator[Finding]:
    """Stepvalues in order and within the run; a gamma that lowers the rate, and not to 0."""
    solver, values = case.solver, list(case.solver.stepvalue)
    if solver.lr_policy == "multistep":
        if not values:
            yield warning("stepvalue", "multistep without any: the rate stays at base_lr")
        for before, after in zip(values, values[1:]):
            if after <= before:
                yield warning(
                    "stepvalue",
                    f"{before}, {after} are out of order: Caffe takes them in file "
                    f"order, so both steps come at {before} and {before + 1}",
                )
        late = [v for v in values if v >= solver.max_iter > 0 and not _is_never(v)]
        if late:
            yield warning("stepvalue", f"{late[0]} is never reached: max_iter is {solver.max_iter}")
    elif values:
        yield warning("stepvalue", f'lr_policy "{solver.lr_policy}" does not use it; "multistep" does')
    if solver.lr_policy == "plateau" and not solver.plateau_winsize:
        yield warning("plateau_winsize", "plateau without any: the rate stays at base_lr")
    if solver.lr_policy == "step" and 0 < solver.max_iter <= solver.stepsize and not _is_never(solver.stepsize):
        yield warning("stepsize", f"{solver.stepsize}: the rate never drops before max_iter {solver.max_iter}")
    if solver.lr_policy in ("step", "multistep", "exp", "exp_range", "plateau"):
        if solver.gamma == 0:
            yield error("gamma", "is not set, which means 0: the rate becomes 0 with the first step")
        elif solver.gamma > 1 and solver.lr_policy != "exp":
            yield warning("gamma", f"{solver.gamma:g} is above 1: the rate grows")


# -- the rest of the solver


@check
def values(case: Case) -> Iterator[Finding]:
    """Fields whose unset or odd values make a run pointless."""
    solver = case.solver
    if solver.max_iter < 1:
        given = f"is {solver.max_iter}" if solver.HasField("max_iter") else "is not set"
        yield warning("max_iter", f"{given}: `train` does nothing; a script that calls step() ends by itself")
    if solver.base_lr == 0 and not case.cyclical:
        given = "is 0" if solver.HasField("base_lr") else "is not set, which means 0"
        yield error("base_lr", f"{given}: nothing is learned")
    if solver.HasField("clip_gradients") and solver.clip_gradients == 0:
        yield error("clip_gradients", "0 turns every gradient into 0; leave it out to clip nothing")
    if solver.iter_size < 1:
        yield error("iter_size", "must be 1 or more")
    if solver.display == 0:
        yield warning("display", "is 0: the log shows neither losses nor rates, and nothing can be plotted")
    if solver.weight_decay == 0:
        yield note("weight_decay", "is not set: no regularisation but that of the rate")


@check
def signs(case: Case) -> Iterator[Finding]:
    """Numbers that Caffe takes without a word and that turn a training around, or into NaN."""
    solver = case.solver
    for field, value in solver.ListFields():
        if field.cpp_type == field.CPPTYPE_FLOAT and not np.isfinite(value).all():
            yield error(field.name, "is not a finite number")
    for name in ("base_lr", "max_lr"):
        if getattr(solver, name) < 0:
            yield error(name, f"{getattr(solver, name):g} is below 0: each update goes up the gradient")
    if solver.weight_decay < 0:
        yield error("weight_decay", f"{solver.weight_decay:g} is below 0: the weights are driven apart")
    for name in ("display", "test_interval", "snapshot"):
        if getattr(solver, name) < 0:
            yield warning(name, f"{getattr(solver, name)} counts as {-getattr(solver, name)}, in Caffe too")
    if solver.type == "Adam" and not 0 <= solver.momentum2 < 1:
        yield error("momentum2", f"{solver.momentum2:g} must lie in [0, 1): Adam corrects by 1 - momentum2")
    if solver.type in ("Adam", "AdaGrad", "AdaDelta", "RMSProp") and solver.delta <= 0:
        yield warning("delta", f"{solver.delta:g} lets {solver.type} divide by 0 where a gradient is 0")


@check
def tests(case: Case) -> Iterator[Finding]:
    """Tests that never happen."""
    solver = case.solver
    if not solver.test_iter:
        yield note("test_iter", "there is no test: overfitting will not be seen")
    elif _is_never(solver.test_interval):
        return
    elif 0 < solver.max_iter < solver.test_interval and not solver.test_initialization:
        yield warning("test_interval", f"{solver.test_interval} is beyond max_iter {solver.max_iter}: no test")
    elif solver.test_interval and solver.max_iter % solver.test_interval:
        yield note(
            "test_interval",
            f"max_iter {solver.max_iter} is no multiple of it: the last weights, at "
            f"the lowest rate, are not tested (last test at {_multiple(solver)})",
        )


def _is_never(iterations: int) -> bool:
    """A number that people write to switch something off."""
    return iterations >= 1_000_000


def _multiple(solver: SolverParameter) -> int:
    return solver.max_iter // solver.test_interval * solver.test_interval


@check
def snapshots(case: Case) -> Iterator[Finding]:
    """Weights that are never written, or cannot be."""
    solver = case.solver
    late = solver.snapshot == 0 or solver.snapshot > solver.max_iter > 0
    if late and not solver.snapshot_after_train and not case.is_range_test:
        yield warning("snapshot", "no snapshot is ever written, not even at the end")
    elif late and solver.max_iter > 20_000:
        yield note("snapshot", "the only snapshot is at the end: a crash loses the whole run")
    if late and not solver.snapshot_after_train:
        return
    folder = Path(solver.snapshot_prefix).parent if solver.HasField("snapshot_prefix") else None
    if folder is not None and not folder.is_dir():
        yield warning("snapshot_prefix", f"there is no folder {folder} (seen from the working directory)")


# -- the net


@check
def test_set(case: Case) -> Iterator[Finding]:
    """test_iter x batch size against the number of test images, where they can be counted."""
    if case.net is None or len(case.solver.test_iter) != 1:
        return
    for layer in data_layers(case.net, TEST):
        batch, images = reader(layer).batch_size, size(layer)
        if batch and images:
            seen = case.solver.test_iter[0] * batch
            if seen != images:
                right = math.ceil(images / batch)
                exact = "" if images % batch == 0 else f" (a batch size that divides {images} would be exact)"
                yield warning(
                    "test_iter",
                    f"{case.solver.test_iter[0]} x batch {batch} = {seen} images; "
                    f"the test set '{reader(layer).source}' has {images}: test_iter {right}{exact}",
                )


@check
def batch_norm(case: Case) -> Iterator[Finding]:
    """Running averages with a memory too long for the run."""
    if case.net is None or case.solver.max_iter < 1:
        return
    norms = [layer for layer in case.net.layer if layer.type == "BatchNorm" and in_phase(layer, TRAIN)]
    slow = [norm for norm in norms if norm.batch_norm_param.moving_average_fraction < 1]
    if not slow:
        if norms:
            yield error(norms[0].name, "moving_average_fraction of 1 never forgets")
        return
    layer = max(slow, key=lambda norm: norm.batch_norm_param.moving_average_fraction)
    fraction = layer.batch_norm_param.moving_average_fraction
    memory = 1 / (1 - fraction)
    if 5 * memory > case.solver.max_iter:
        yield warning(
            layer.name,
            f"moving_average_fraction {fraction:g} averages over some {memory:.0f} "
            f"iterations, too many for a run of {case.solver.max_iter}: test results will lag far behind; "
            "try 0.95",
        )

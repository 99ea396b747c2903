"""The solver: Caffe's loop of test, pass, display, update and snapshot (src/caffe/solver.cpp).

It says what happens as events (pysolver/logs/events.py) to its subscribers, by default the Caffe log on stderr.
"""

from __future__ import annotations

import dataclasses
import math
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pysolver import schedule
from pysolver.context import Context
from pysolver.errors import CaffeError
from pysolver.logs import events as e
from pysolver.logs import glog
from pysolver.logs.writer import CaffeLog
from pysolver.net import weights, weights_hdf5
from pysolver.proto import caffe_pb2
from pysolver.proto.binary import write_atomic
from pysolver.proto.text import to_text
from pysolver.solver import debug_info, nets, resume, snapshots, state_file, testing, updates
from pysolver.solver.signals import Action, ActionFunction
from pysolver.solver.smoothing import Smoothing

Subscriber = Callable[[e.Event], None]


class Solver:
    """Trains a net as a SolverParameter says. A subclass is a fixed type, this class goes by `param.type`.

    param: upgraded SolverParameter (pysolver.proto.upgrade.read_solver).
    keep: how many snapshots to leave on disk, None for all. stop_on_nan: a loss that is not finite is an error.
    action: asked once per iteration and before each test batch what is wanted from outside.

    iter: updates applied so far. history: one blob for each learnable parameter, or two (AdaDelta, Adam).
    """

    type_name: ClassVar[str] = ""

    def __init__(
        self,
        param: Any,
        context: Context | None = None,
        subscribers: Sequence[Subscriber] | None = None,
        *,
        keep: int | None = None,
        stop_on_nan: bool = False,
        action: ActionFunction = lambda: Action.NONE,
    ) -> None:
        self.param = param
        self.context = _seeded(context or Context(), param.random_seed)
        self.subscribers: list[Subscriber] = [CaffeLog()] if subscribers is None else list(subscribers)
        self.type = self.type_name or param.type
        self.keep, self.stop_on_nan, self.action = keep, stop_on_nan, action
        self.iter = 0
        self.current_step = 0  # stepvalues that multistep has passed
        self.run = uuid.uuid4().hex  # told to the snapshots, so that they know their siblings
        self._callbacks: list[tuple[Callable[[], None], Callable[[], None]]] = []
        self._stop = False
        self._saved_at: int | None = None  # the iteration of the last snapshot
        self._resume_point: dict[str, Any] | None = None  # taken before a test or the end move data and generators on
        self._continues = False  # the next step() goes on with the smoothed loss of the snapshot
        self._losses: list[tuple[int, Tensor]] = []  # not yet smoothed: reading them waits for the device
        self._nan_told = False
        self._last_display: int | None = None
        self._timer = time.perf_counter()

        self._emit(e.InitializingSolver(to_text(param)))
        check_parameters(param, self.type)
        if param.snapshot and self.context.is_root:
            snapshots.probe(param.snapshot_prefix)
        self.smoothing = Smoothing(param.average_loss)
        if self.context.seed is not None and param.random_seed >= 0:
            torch.manual_seed(self.context.seed)
        self.net = nets.build_train_net(param, self.context, self._emit)
        self._decays = [np.float32(param.weight_decay) * np.float32(mult) for mult in self.net.decay_mults]
        if any(self._decays):
            updates.check_regularization(param.regularization_type)
        self.test_nets = nets.build_test_nets(param, self.context, self._emit)
        self._emit(e.ScaffoldingDone())
        blobs = self.net.learnable_params * self._rule.histories
        self.history: list[Tensor] = [torch.zeros_like(blob, requires_grad=False) for blob in blobs]

    @property
    def _rule(self) -> updates.Rule:
        return updates.RULES[self.type]

    # ---- training --------------------------------------------------------------------------------------------

    def solve(self, resume_file: str | None = None) -> None:
        """Train until max_iter, then snapshot, display and test as Caffe does at the end."""
        param = self.param
        self._emit(e.Solving(self.net.name))
        self._emit(e.Policy(param.lr_policy))
        self._stop = False
        if resume_file:
            self._emit(e.RestoringStatus(resume_file))
            self.restore(resume_file)
        if param.snapshot_after_train and self.context.is_root:
            snapshots.probe(param.snapshot_prefix)
        self.step(param.max_iter - self.iter)
        saved = self._stop and self._saved_at == self.iter  # by the signal that stopped it
        if param.snapshot_after_train and (not param.snapshot or self.iter % param.snapshot) and not saved:
            self.snapshot()
        if self._stop:
            self._emit(e.StoppedEarly())
            return
        self._resume_point = self._point()
        if param.display and self.iter % param.display == 0:
            self._note_loss(self._last_forward(), now=True)
            self._emit(e.Display(self.iter, float(self.smoothing.value)))
        if param.test_interval and self.iter % param.test_interval == 0:
            self.test_all()
        self._emit(e.Done("solver"))

    def step(self, iterations: int) -> None:
        """So many iterations, fewer if a stop is asked for."""
        param, end = self.param, self.iter + iterations
        if not self._continues:
            self.smoothing = Smoothing(param.average_loss, self.iter)
        self._continues = False
        self._timer = time.perf_counter()
        while self.iter < end:
            self.net.clear_param_diffs()
            if self._is_test_due():
                self._resume_point = None
                self._resume_point = self._point()
                self.test_all()
                if self._stop:  # a snapshot after this begins with the same test again
                    break
            self._resume_point = None
            for on_start, _ in self._callbacks:
                on_start()
            display = self._is_display_due()
            self._note_loss(self._passes(display and param.debug_info), now=display)
            if display:
                self._display()
            for _, on_gradients_ready in self._callbacks:
                on_gradients_ready()
            self.apply_update()
            action = self.action()
            if (param.snapshot and self.iter % param.snapshot == 0) or action in (Action.SNAPSHOT, Action.PREEMPT):
                self.snapshot()
            if action in (Action.STOP, Action.PREEMPT):
                self._stop = True
                break
        self._settle_losses()

    def _passes(self, debug: bool) -> Tensor:
        """iter_size times forward and backward: gradients add up in the diffs, the mean loss is returned."""
        loss: Tensor | float = 0.0
        for _ in range(self.param.iter_size):
            if debug:
                loss = loss + debug_info.forward(self.net, self._emit)
                debug_info.backward(self.net, self._emit)
            else:
                loss = loss + self.net.forward_backward()
        return loss / self.param.iter_size

    def _last_forward(self) -> Tensor:
        """One pass more for the last display; the last iteration's debug_info still holds."""
        with torch.no_grad():
            if self.param.debug_info and self.param.display == 1:
                return debug_info.forward(self.net, self._emit)
            return self.net.run()

    def apply_update(self) -> None:
        """One update from the diffs as they are; afterwards they hold the applied step, and iter is one higher."""
        param = self.param
        step = schedule.next_step(param, self.iter, self.current_step)
        if param.lr_policy == "multistep" and step != self.current_step:
            self._emit(e.MultiStep(self.iter, step))
        self.current_step = step
        rate, momentum = schedule.learning_rate(param, self.iter, step), self.momentum
        if self._is_display_due():
            self._emit(e.Rate(self.iter, float(rate), float(momentum), param.weight_decay))
        self.net.flush_params()
        values = [parameter.data for parameter in self.net.learnable_params]
        diffs = [parameter.grad for parameter in self.net.learnable_params]
        if values:
            clipped = updates.clip(diffs, param.clip_gradients)
            if clipped:
                self._emit(e.Clipping(*clipped))
            updates.normalise(diffs, param.iter_size)
            updates.regularise(diffs, values, self._decays, param.regularization_type)
            self._rule.update(diffs, self.history, self._hyper(rate, momentum))
            updates.apply(values, diffs)
        self.iter += 1

    def _hyper(self, rate: np.float32, momentum: np.float32) -> updates.Hyper:
        param = self.param
        return updates.Hyper(
            [rate * np.float32(mult) for mult in self.net.lr_mults],
            momentum,
            self.iter,
            np.float32(param.momentum2),
            np.float32(param.delta),
            np.float32(param.rms_decay),
        )

    @property
    def lr(self) -> np.float32:
        """The rate of the next update; reading it changes nothing."""
        step = schedule.next_step(self.param, self.iter, self.current_step)
        return schedule.learning_rate(self.param, self.iter, step)

    @property
    def momentum(self) -> np.float32:
        """The momentum of the next update."""
        return schedule.momentum(self.param, self.iter)

    def add_callback(self, on_start: Callable[[], None], on_gradients_ready: Callable[[], None]) -> None:
        """Call on_start before the passes of each iteration and on_gradients_ready before its update."""
        self._callbacks.append((on_start, on_gradients_ready))

    # ---- loss and display ------------------------------------------------------------------------------------

    def _is_display_due(self) -> bool:
        return self.param.display != 0 and self.iter % self.param.display == 0

    def _display(self) -> None:
        now = time.perf_counter()
        seconds = now - self._timer
        speed = 0.0 if self._last_display is None else (self.iter - self._last_display) / (seconds or 1)
        self._emit(e.Display(self.iter, float(self.smoothing.value), speed, seconds, self.param.display))
        for output in testing.output_events("Train", testing.elements(self.net.output_values())):
            self._emit(output)
        self._timer, self._last_display = now, self.iter

    def _note_loss(self, loss: Tensor, now: bool) -> None:
        """Take in the loss of this iteration; on a GPU only when somebody looks, since reading it stalls the device."""
        self._losses.append((self.iter, loss))
        if now or self.stop_on_nan or self.context.device.type == "cpu" or len(self._losses) >= 100:
            self._settle_losses()

    def _settle_losses(self) -> None:
        if not self._losses:
            return
        iterations, losses = zip(*self._losses)
        self._losses = []
        for iteration, loss in zip(iterations, torch.stack(losses).tolist()):
            self.smoothing.add(iteration, loss)
            if not math.isfinite(loss):
                self._report_nan(iteration, loss)

    def _report_nan(self, iteration: int, loss: float) -> None:
        message = f"Iteration {iteration}: the loss is {loss}"
        if self.stop_on_nan:
            raise CaffeError(f"{message}; stopped, as --stop_on_nan says. A lower base_lr or max_lr may help.")
        if not self._nan_told:
            glog.warning("solver.cpp:1", f"{message}; training goes on (--stop_on_nan ends it)")
            self._nan_told = True

    # ---- testing ---------------------------------------------------------------------------------------------

    def _is_test_due(self) -> bool:
        due = self.param.test_interval != 0 and self.iter % self.param.test_interval == 0
        return due and (self.iter > 0 or self.param.test_initialization) and self.context.is_root

    def test_all(self) -> None:
        """Test every test net, until a stop is asked for."""
        for number in range(len(self.test_nets)):
            if self._stop:
                return
            self.test(number)

    def test(self, number: int) -> None:
        """Test one net with the train net's weights, and tell its mean outputs."""
        net = self.test_nets[number]
        self._emit(e.Testing(self.iter, number))
        net.share_trained_layers_with(self.net)
        forward = (lambda: debug_info.forward(net, self._emit)) if self.param.debug_info else net.run
        result = testing.run_batches(net, self.param.test_iter[number], forward, self._serve_actions)
        if result is None:
            self._emit(e.TestInterrupted())
            return
        if self.param.test_compute_loss:
            self._emit(e.TestLoss(result.loss))
        for output in testing.output_events("Test", result.outputs):
            self._emit(output)

    def _serve_actions(self) -> bool:
        """Serve all that is asked for during a test; True if that includes a stop."""
        while (action := self.action()) is not Action.NONE:
            if action in (Action.SNAPSHOT, Action.PREEMPT):
                self.snapshot()
            if action in (Action.STOP, Action.PREEMPT):
                self._stop = True
        return self._stop

    # ---- snapshots -------------------------------------------------------------------------------------------

    def snapshot(self) -> None:
        """Write model and state of this iteration, each whole or not at all, the model first."""
        if not self.context.is_root:
            return
        self._settle_losses()
        hdf5 = self.param.snapshot_format == caffe_pb2.SolverParameter.HDF5
        kind = "HDF5" if hdf5 else "binary proto"
        files = snapshots.names(self.param.snapshot_prefix, self.iter, hdf5)
        try:
            self._emit(e.Snapshot("model", kind, files.model))
            model = self._model_bytes(hdf5)
            write_atomic(files.model, model)
            self._emit(e.Snapshot("state", kind, files.state))
            write_atomic(files.state, state_file.to_bytes(self._state(files.model, model), hdf5))
        except CaffeError as error:
            raise CaffeError(f"No snapshot at iteration {self.iter}: {error}. Earlier snapshots are intact.") from error
        self._saved_at = self.iter
        if self.keep:
            snapshots.prune(self.param.snapshot_prefix, self.iter, self.keep)

    def _model_bytes(self, hdf5: bool) -> bytes:
        if hdf5:
            return weights_hdf5.to_bytes(self.net, self.param.snapshot_diff)
        return weights.to_bytes(self.net, self.param.snapshot_diff)

    def _state(self, model_file: str, model: bytes) -> state_file.State:
        note = {
            "run": self.run,
            "type": self.type,
            "model": snapshots.fingerprint(model),
            "point": self._point(),
        }
        history = [blob.cpu().numpy() for blob in self.history]
        return state_file.State(self.iter, model_file, self.current_step, history, note)

    def _point(self) -> dict[str, Any]:
        """Where a run that is resumed from a snapshot of this moment goes on."""
        if self._resume_point is not None:
            return self._resume_point
        self._settle_losses()
        return resume.capture(self)

    def restore(self, file: str, always_continue: bool = False) -> None:
        """Take weights, history, iteration and step from a solver state, Caffe's or ours.

        The newest state of a run is *continued*: data positions, random generators and the smoothed loss come from
        it as well, and the run goes on as if it had never stopped. A state that its run has left behind, with later
        snapshots of the same prefix, is a *return to an earlier point*, and so is any state that Caffe wrote: as in
        Caffe, the data are then read from the start. always_continue: continue even then (--snapshot=auto).
        """
        state = state_file.read(file)
        snapshots.check_model(state, file)
        self._check_history(state, file)
        snapshots.check_belongs(self.net, state.learned_net, file)
        self.net.copy_trained_layers_from(state.learned_net)
        if not state_file.is_named_hdf5(file):
            self._emit(e.RestoringHistory())
        for blob, values in zip(self.history, state.history):
            blob.copy_(torch.from_numpy(values))
        self.iter, self.current_step = state.iteration, state.current_step
        self._resume_point, self._losses = None, []
        self._continues = state.note is not None and (always_continue or not snapshots.has_newer(file, state))
        if self._continues:
            resume.restore(self, state.note["point"])
            self.run = state.note["run"]
            how = "Continuing exactly: data, random numbers and smoothed loss go on where the snapshot was taken."
        elif state.note is None:
            how = "A snapshot without data positions, as Caffe writes them: the data start over."
        else:
            how = "Returning to an earlier point, since newer snapshots of this run exist: the data start over."
        self.context.info("solver.cpp:1", how)

    def _check_history(self, state: state_file.State, file: str) -> None:
        """The state must be of this solver type and net, before anything is taken from it."""
        kind = (state.note or {}).get("type", self.type)
        fix = "; to start a new training from its weights, give the .caffemodel to --weights"
        if kind != self.type:
            raise CaffeError(f"{file}: a state of solver type {kind}, this solver is {self.type}{fix}")
        if len(state.history) != len(self.history):
            raise CaffeError(
                f"{file}: Incorrect length of history blobs. The state has {len(state.history)}, a {self.type} solver "
                f"of this net {len(self.history)}: a state of another solver type or net{fix}"
            )
        for index, (blob, values) in enumerate(zip(self.history, state.history)):
            if tuple(blob.shape) != values.shape:
                raise CaffeError(
                    f"{file}: history blob {index} has shape {list(values.shape)}, its parameter {list(blob.shape)}: "
                    f"a state of another net{fix}"
                )

    def close(self) -> None:
        """Stop the threads of the nets' sources and close their files."""
        for net in (self.net, *self.test_nets):
            net.close()

    def _emit(self, event: e.Event) -> None:
        if self.context.is_root:
            for subscriber in self.subscribers:
                subscriber(event)


def check_parameters(param: Any, type_name: str) -> None:
    """Refuse, before anything is built or written, a SolverParameter that cannot work. CaffeError names the field."""
    updates.check_type(type_name, param)
    nets.check_nets(param)
    schedule.check_schedule(param)
    if param.average_loss < 1:
        raise CaffeError(
            f"Check failed: param_.average_loss() >= 1 ({param.average_loss} vs. 1) "
            "average_loss should be non-negative. (it is a number of iterations, 1 or more)"
        )
    if param.iter_size < 1:
        raise CaffeError(f"iter_size is {param.iter_size}: an update needs at least 1 pass")
    if param.snapshot and not param.snapshot_prefix:
        raise CaffeError("In solver params, snapshot is specified but snapshot_prefix is not.")


def _seeded(context: Context, random_seed: int) -> Context:
    return dataclasses.replace(context, seed=random_seed + context.rank) if random_seed >= 0 else context


def _of_type(name: str) -> type[Solver]:
    doc = f"A solver of type {name}, whatever the parameter's `type` says."
    return type(f"{name}Solver", (Solver,), {"type_name": name, "__doc__": doc, "__module__": __name__})


SGDSolver = _of_type("SGD")
NesterovSolver = _of_type("Nesterov")
AdaGradSolver = _of_type("AdaGrad")
RMSPropSolver = _of_type("RMSProp")
AdaDeltaSolver = _of_type("AdaDelta")
AdamSolver = _of_type("Adam")

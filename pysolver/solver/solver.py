"""The solver: Caffe's loop of test, pass, display, update and snapshot (src/caffe/solver.cpp).

It says what happens as events (pysolver/logs/events.py) to its subscribers, by default those of its context.
"""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from pysolver import schedule
from pysolver.context import Context
from pysolver.errors import about
from pysolver.logs import events as e
from pysolver.logs.channel import Channel
from pysolver.proto.caffe_pb2 import SolverParameter
from pysolver.proto.text import to_text
from pysolver.solver import checkpoint, debug_info, detection_eval, nets, resume, snapshots, testing, updates
from pysolver.solver import note as notes
from pysolver.solver.layer_rates import adaptation
from pysolver.solver.losses import Losses
from pysolver.solver.note import Note, Point
from pysolver.solver.parameters import check_parameters
from pysolver.solver.plateau import Plateau
from pysolver.solver.ranks import Alone
from pysolver.solver.readings import Readings
from pysolver.solver.signals import Action, ActionFunction
from pysolver.solver.smoothing import Smoothing
from pysolver.solver.state_file import State
from pysolver.solver_types import TYPES

Subscriber = Callable[[e.Event], None]


class Solver:
    """Trains a net as a SolverParameter says.

    param: upgraded SolverParameter (pysolver.proto.upgrade.read_solver). type: the solver type, if not `param.type`.
    keep: how many snapshots to leave on disk, None for all. stop_on_nan: a loss that is not finite is an error.
    action: asked once per iteration and before each test batch what is wanted from outside.
    ranks: the processes that train this net together, each with a Solver of its own. Rank 0 writes, and tests unless
    distributed_test divides the batches of each test over all of them.

    iter: updates applied so far. history: one blob for each learnable parameter, or two (AdaDelta, Adam).
    is_stopped: the last solve() ended because it was asked to. last_state: the state that was written last.
    """

    def __init__(
        self,
        param: SolverParameter,
        context: Context | None = None,
        subscribers: Sequence[Subscriber] | None = None,
        *,
        type: str = "",
        keep: int | None = None,
        stop_on_nan: bool = False,
        action: ActionFunction = lambda: Action.NONE,
        ranks: Alone | None = None,
        distributed_test: bool = False,
    ) -> None:
        self.param = param
        given = context or Context()
        self._channel = Channel([given.emit] if subscribers is None else subscribers)
        self.context = _seeded(dataclasses.replace(given, listener=self._channel), param.random_seed)
        self.ranks = ranks or Alone()
        self.type = type or param.type
        self.keep, self.action = keep, action
        self.iter = 0
        self.current_step = 0  # stepvalues that multistep has passed, or steps that plateau has taken
        self.plateau, self._loss = Plateau(), np.float32(0)
        self.run = uuid.uuid4().hex  # told to the snapshots, so that they know their siblings
        self._callbacks: list[tuple[Callable[[], None], Callable[[], None]]] = []
        self.is_stopped = False
        self.last_state: str | None = None
        self._saved: set[int] = set()  # iterations of the snapshots that were written here
        self._found_intact = -1  # the iteration of the snapshot that was restored
        self._resume_point: Point | None = None  # taken before a test or the end move data and generators on
        self._continues = False  # the next step() goes on with the smoothed loss of the snapshot
        self._last_display: int | None = None
        self._timer = time.perf_counter()
        self._readings = Readings(stop_on_nan or self.context.device.type == "cpu")

        self._emit(e.InitializingSolver(to_text(param)))
        check_parameters(param, self.type, self._emit)
        if param.snapshot and self.context.is_root:
            snapshots.probe(param.snapshot_prefix)
        if self.context.seed is not None and param.random_seed >= 0:
            torch.manual_seed(self.context.seed)
        self.net = nets.build_train_net(param, self.context, self._emit)
        self.losses = Losses(self.net, Smoothing(param.average_loss), self._emit, stop_on_nan)
        self._divides_tests = distributed_test and self.ranks.size > 1 and param.eval_type != "detection"
        self.test_nets = nets.test_nets_of_rank(param, self.context, self._emit, self.ranks, self._divides_tests)
        self._emit(e.ScaffoldingDone())
        self.ranks.share(self._weights())
        self.ranks.watch(self.net.parameters)
        self._adapt = adaptation(param, self.type, self.net.lr_mults)
        blobs = self.net.learnable_params * TYPES[self.type].histories
        self.history: list[Tensor] = [torch.zeros_like(blob, requires_grad=False) for blob in blobs]

    # ---- training --------------------------------------------------------------------------------------------

    def solve(self, resume_file: str | None = None) -> None:
        """Train until max_iter, then snapshot, display and test as Caffe does at the end."""
        param = self.param
        self._emit(e.Solving(self.net.name))
        self._emit(e.Policy(param.lr_policy))
        self.is_stopped = False
        if resume_file:
            self._emit(e.RestoringStatus(resume_file))
            self.restore(resume_file)
        if param.snapshot_after_train and self.context.is_root:
            snapshots.probe(param.snapshot_prefix)
        self.step(param.max_iter - self.iter)
        saved = self.is_stopped and self.iter in self._saved  # by the signal that stopped it
        if param.snapshot_after_train and (not param.snapshot or self.iter % param.snapshot) and not saved:
            self.snapshot()
        if self.is_stopped:
            self._emit(e.StoppedEarly())
            return
        self._resume_point = self._point()
        if param.display and self.iter % param.display == 0 and self.ranks.is_root:
            self.losses.add(self.iter, float(self._last_forward()))
            self._emit(e.Display(self.iter, float(self.losses.smoothing.value)))
        if param.test_interval and self.iter % param.test_interval == 0:
            self.test_all()
        self._emit(e.Done("solver"))

    def step(self, iterations: int) -> None:
        """So many iterations, fewer if a stop is asked for."""
        if not self._continues:
            self.losses.smoothing = Smoothing(self.param.average_loss, self.iter)
        self._continues = False
        self._timer = time.perf_counter()
        try:
            self._iterate(self.iter + iterations)
        finally:
            self._readings.settle()  # after an error too

    def _iterate(self, end: int) -> None:
        param = self.param
        while self.iter < end:
            self.net.clear_param_diffs()
            if self._is_test_due():
                self._resume_point = None
                self._resume_point = self._point()
                self.test_all()
                if self.is_stopped:  # a snapshot after this begins with the same test again
                    break
            self._resume_point = None
            for on_start, _ in self._callbacks:
                on_start()
            display = self._is_display_due()
            self._take_loss(self._passes(display and param.debug_info))
            if display:
                self._display()
            for _, on_gradients_ready in self._callbacks:
                on_gradients_ready()
            self.apply_update()
            action = self.ranks.agree(self.action())
            if (param.snapshot and self.iter % param.snapshot == 0) or action in (Action.SNAPSHOT, Action.PREEMPT):
                self.snapshot()
            if action in (Action.STOP, Action.PREEMPT):
                self.is_stopped = True
                break

    def _passes(self, debug: bool) -> Tensor:
        """iter_size times forward and backward: gradients add up in the diffs, the mean loss is returned."""
        loss = torch.zeros((), device=self.context.device)
        for number in range(self.param.iter_size):
            if number == self.param.iter_size - 1 and not self.net.layer_by_layer and not debug:
                self.ranks.last_pass()
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
        param, net = self.param, self.net
        row, step, self.plateau = self._row()
        for event in self.plateau.told(param, self.iter, self.current_step, step):
            self._emit(event)
        self.current_step = step
        if self._is_display_due():
            self._emit(e.Rate(self.iter, float(row.lr), float(row.momentum), float(row.weight_decay)))
        net.flush_params()
        values = [parameter.data for parameter in net.learnable_params]
        diffs = [parameter.grad for parameter in net.learnable_params]
        hyper = updates.hyper_of(param, row, net.lr_mults, net.decay_mults)
        links: dict[str, Callable] = {"unscale": self._unscale} if net.loss_scale else {}
        links |= {"average": self.ranks.average, "adapt": self._adapt(row.lr)}
        norm = updates.step(self.type, values, diffs, self.history, hyper, **links)
        if norm is not None:
            self._readings.put(norm, self._tell_clipping)
        self.iter += 1

    def _tell_clipping(self, norm: float) -> None:
        limit = self.param.clip_gradients
        if norm > limit:
            self._emit(e.Clipping(norm, limit, float(np.float32(limit) / np.float32(norm))))

    def _unscale(self, gradients: list[Tensor]) -> Tensor:
        scale = self.net.loss_scale
        overflow = scale.unscale(gradients)
        self._readings.put(overflow * scale.factor, partial(self._tell_overflow, self.iter))
        return overflow

    def _tell_overflow(self, iteration: int, factor: float) -> None:
        if factor:
            self._emit(e.Overflow(iteration, factor))

    def _row(self) -> tuple[schedule.Row, int, Plateau]:
        """The hyper-parameters of the next update, the current_step that goes with them, and what is remembered."""
        step, plateau = self.plateau.next(self.param, self.iter, self.current_step, self._loss)
        return schedule.at(self.param, self.iter, step), step, plateau

    @property
    def lr(self) -> np.float32:
        """The rate of the next update; reading it changes nothing."""
        return self._row()[0].lr

    @property
    def momentum(self) -> np.float32:
        """The momentum of the next update."""
        return self._row()[0].momentum

    def add_callback(self, on_start: Callable[[], None], on_gradients_ready: Callable[[], None]) -> None:
        """Call on_start before the passes of each iteration and on_gradients_ready before its update."""
        self._callbacks.append((on_start, on_gradients_ready))

    # ---- loss and display ------------------------------------------------------------------------------------

    def _is_display_due(self) -> bool:
        return self.param.display != 0 and self.iter % self.param.display == 0

    def _display(self) -> None:
        self._readings.settle()
        now = time.perf_counter()
        seconds = now - self._timer
        speed = 0.0 if self._last_display is None else (self.iter - self._last_display) / (seconds or 1)
        self._emit(e.Display(self.iter, float(self.losses.smoothing.value), speed, seconds, self.param.display))
        for output in testing.output_events("Train", testing.elements(self.net.output_values())):
            self._emit(output)
        self._timer, self._last_display = now, self.iter

    def _take_loss(self, loss: Tensor) -> None:
        self._readings.put(loss, partial(self.losses.take, self.iter))
        if self.param.lr_policy == "plateau":  # one rate for all ranks: by the loss of rank 0
            self._readings.settle()
            self._loss = np.frombuffer(self.ranks.spread(self.losses.smoothing.value.tobytes()), np.float32)[0]

    # ---- testing ---------------------------------------------------------------------------------------------

    def _is_test_due(self) -> bool:
        due = self.param.test_interval != 0 and self.iter % self.param.test_interval == 0
        return due and (self.iter > 0 or self.param.test_initialization)

    def test_all(self) -> None:
        """Test every test net, until a stop is asked for."""
        if self._divides_tests:  # with rank 0's statistics of BatchNorm, as if it tested alone
            frozen = [p.data for p, rate in zip(self.net.learnable_params, self.net.lr_mults) if not rate]
            self.ranks.share(frozen)
        for number, batches in enumerate(self.param.test_iter):
            if self.is_stopped:
                return
            if self.test_nets:
                self.test(number)
            else:
                testing.keep_step(batches, self._serve_actions)

    def test(self, number: int) -> None:
        """Test one net with the train net's weights, and tell its mean outputs."""
        net, batches = self.test_nets[number], self.param.test_iter[number]
        self._emit(e.Testing(self.iter, number))
        net.share_trained_layers_with(self.net)
        forward = (lambda: debug_info.forward(net, self._emit)) if self.param.debug_info else net.run
        if self.param.eval_type == "detection":
            stop, tell = self._serve_actions, self._emit
            result = detection_eval.run_detection(net, batches, forward, stop, self.param, tell)
        elif self._divides_tests:
            result = testing.run_divided(net, batches, forward, self._serve_actions, self.ranks)
        else:
            result = testing.run_batches(net, batches, forward, self._serve_actions)
        if self.is_stopped:
            self._emit(e.TestInterrupted())
        if result is None:
            return
        if self.param.test_compute_loss:
            self._emit(e.TestLoss(result.loss))
        for output in testing.output_events("Test", result.outputs):
            self._emit(output)

    def _serve_actions(self) -> bool:
        """Serve all that is asked for during a test; True if that includes a stop."""
        while (action := self.ranks.agree(self.action())) is not Action.NONE:
            if action in (Action.SNAPSHOT, Action.PREEMPT):
                self.snapshot()
            if action in (Action.STOP, Action.PREEMPT):
                self.is_stopped = True
        return self.is_stopped

    # ---- snapshots -------------------------------------------------------------------------------------------

    def snapshot(self) -> None:
        """Write model and state of this iteration, each whole or not at all, the model first."""
        self._readings.settle()
        points = self.ranks.gather(notes.point_to_json(self._point()))
        self._saved.add(self.iter)
        if not self.context.is_root:
            return
        note = Note(self.run, self.type, points=tuple(map(notes.point_from_json, points)))
        history = [blob.cpu().numpy() for blob in self.history]
        state = State(self.iter, "", self.current_step, history, note, self.plateau)
        self.last_state = checkpoint.save(self.param, self.net, state, self._emit)
        if self.keep:
            snapshots.prune(
                self.param.snapshot_prefix, self.iter, self.keep, lambda i: i in self._saved or i <= self._found_intact
            )

    def _point(self) -> Point:
        """Where a run that is resumed from a snapshot of this moment goes on."""
        if self._resume_point is not None:
            return self._resume_point
        self._readings.settle()
        return resume.capture(self.net, self.test_nets, self.losses.smoothing.state())

    def restore(self, file: str, always_continue: bool = False) -> None:
        """Take weights, history, iteration and step from a solver state, Caffe's or ours.

        The newest state of a run is *continued*: data positions, random generators and the smoothed loss come from
        it as well, and the run goes on as if it had never stopped. A state that its run has left behind, with later
        snapshots of the same prefix, is a *return to an earlier point*, and so is any state that Caffe wrote: as in
        Caffe, the data are then read from the start. always_continue: continue even then (--snapshot=auto).

        Rank 0 alone reads the file.
        """
        told = b""
        if self.ranks.is_root:
            state = checkpoint.read(file, self.net, self.history, self.type)
            start = resume.choose(state, self.ranks.size, always_continue or not snapshots.has_newer(file, state))
            told = start.to_json()
        start = resume.Start.from_json(self.ranks.spread(told))
        point = start.points[self.ranks.rank] if start.points else None
        if point:
            with about(file):
                resume.check(point, self.net, self.test_nets)
        if self.ranks.is_root:
            checkpoint.take(state, file, self.net, self.history, self._emit)
        self.ranks.share([*self._weights(), *self.history])
        self.iter, self.current_step, self.plateau = start.iteration, start.step, start.plateau
        self._resume_point = None
        self._readings.forget()
        self._found_intact, self._continues = start.iteration, point is not None
        if point:
            resume.restore(point, self.net, self.test_nets)
            self.losses.smoothing = Smoothing.from_state(self.param.average_loss, point.smoothing)
            self.run = start.run or self.run
        self._emit(start.how)

    def _weights(self) -> list[Tensor]:
        return [parameter.data for parameter in self.net.learnable_params]

    def close(self) -> None:
        """Stop the threads of the nets' sources and close their files."""
        for net in (self.net, *self.test_nets):
            net.close()

    def _emit(self, event: e.Event) -> None:
        self._readings.settle()  # what has been on its way comes first
        self._channel(event)

    @property
    def subscribers(self) -> list[Subscriber]:
        """Who is told what this solver and its nets say."""
        return self._channel

    @subscribers.setter
    def subscribers(self, subscribers: Sequence[Subscriber]) -> None:
        self._channel[:] = subscribers


def _seeded(context: Context, random_seed: int) -> Context:
    return dataclasses.replace(context, seed=random_seed + context.rank) if random_seed >= 0 else context

"""caffe.SGDSolver and its kin: pycaffe's view of a solver (_caffe.cpp)."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable
from typing import ClassVar

from pysolver.proto.caffe_pb2 import SolverParameter
from pysolver.proto.upgrade import read_solver
from pysolver.pycaffe import mode
from pysolver.pycaffe.net import Net
from pysolver.solver import solver as core
from pysolver.solver_types import TYPES


class Solver:
    """Trains the net of a solver file. A subclass is of its own type, whatever the file's `type` says.

    net, test_nets: caffe.Net, which outlive the solver. The mode of the thread decides where they compute, not the
    file's solver_mode.
    """

    _type: ClassVar[str] = ""

    def __init__(self, solver_file: str) -> None:
        self._begin(read_solver(os.fspath(solver_file), mode.log()))

    def _begin(self, param: SolverParameter) -> None:
        self._solver = core.Solver(param, mode.context(), type=self._type)
        self._solver.net.layer_by_layer = True  # scripts read the diffs of any blob after a step
        self.net = Net.over(self._solver.net)
        self.test_nets = [Net.over(net) for net in self._solver.test_nets]

    @property
    def iter(self) -> int:
        """Updates applied so far."""
        return self._solver.iter

    @property
    def lr(self) -> float:
        """The rate of the next update."""
        return float(self._solver.lr)

    @property
    def param(self) -> SolverParameter:
        """The SolverParameter; a new base_lr counts from the next update on."""
        return self._solver.param

    def solve(self, resume_file: str | None = None) -> None:
        """Train to max_iter, from a .solverstate if given; then snapshot and test as the solver file says."""
        self._solver.solve(None if resume_file is None else os.fspath(resume_file))

    def step(self, iterations: int) -> None:
        """Train for so many iterations."""
        self._solver.step(operator.index(iterations))

    def restore(self, state_file: str) -> None:
        """Take weights, history and iteration from a .solverstate."""
        self._solver.restore(os.fspath(state_file))

    def snapshot(self) -> None:
        """Write .caffemodel and .solverstate of this iteration."""
        self._solver.snapshot()

    def apply_update(self) -> None:
        """One update from the parameters' diffs as they are; iter goes up by one."""
        self._solver.apply_update()

    def share_weights(self, net: Net) -> None:
        """Let another net use the parameters of this solver's."""
        net.share_with(self.net)

    def add_callback(self, on_start: Callable[[], None], on_gradients_ready: Callable[[], None]) -> None:
        """Call on_start before each iteration's passes and on_gradients_ready before its update."""
        self._solver.add_callback(on_start, on_gradients_ready)


class SGDSolver(Solver):
    """Stochastic gradient descent with momentum; in pycaffe the base of all others."""

    _type = "SGD"


def _of_type(name: str) -> type[Solver]:
    if name == "SGD":
        return SGDSolver
    doc = f"A solver of type {name}, whatever the file's `type` says."
    return type(f"{name}Solver", (SGDSolver,), {"_type": name, "__doc__": doc, "__module__": __name__})


BY_TYPE = {name: _of_type(name) for name in TYPES}
globals().update({cls.__name__: cls for cls in BY_TYPE.values()})  # caffe.AdamSolver and the others


def get_solver(solver_file: str) -> Solver:
    """The solver of the type that the file names."""
    param = read_solver(os.fspath(solver_file), mode.log())
    cls = BY_TYPE.get(param.type, Solver)  # Solver refuses a type that nobody knows
    solver = cls.__new__(cls)
    solver._begin(param)
    return solver

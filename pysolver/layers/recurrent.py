"""RNN, LSTM and the one step LSTMUnit. Blobs are time-major: (T steps, N streams, ...)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from pysolver.blob import Shape
from pysolver.context import Context
from pysolver.layers.base import Layer, between, exactly, register
from pysolver.logs import notices
from pysolver.proto.caffe_pb2 import LayerParameter


class Carrying(Layer):
    """A layer whose state goes on from one forward to the next, if it has the same shape and type there."""

    carried: tuple[Tensor, ...] | None = None

    def goes_on_from(self, first: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """What the last forward left, or else `first`."""
        fits = self.carried and [(s.shape, s.dtype) for s in self.carried] == [(s.shape, s.dtype) for s in first]
        return tuple(part.clone() for part in self.carried) if fits else first  # autograd takes none of a test pass

    def state(self) -> dict[str, list[Tensor]]:
        """What an exact resume must know: the carried state, if there is one."""
        return {"carried": list(self.carried or ())}

    def load_state(self, state: dict[str, list[Tensor]]) -> None:
        """Continue from what state() returned."""
        self.carried = tuple(part.to(self.context.device) for part in state["carried"]) or None


class Recurrent(Carrying):
    """What RNN and LSTM share (recurrent_layer.cpp).

    Bottoms: x (T, N, ...), cont (T, N), with 0 where a sequence starts and 1 where it goes on, then, if given,
    x_static (N, ...), then, with expose_hidden, the first states (1, N, D). Tops: (T, N, D), then, with
    expose_hidden, the last states (1, N, D). D = num_output; T is fixed at set-up.
    Without expose_hidden the state is carried from one forward to the next; cont is what clears it.
    No gradient to cont, nor through exposed or carried states.
    Errors: num_output 0; x of less than 2 axes; cont other than (T, N); another T later.
    """

    states: ClassVar[int]  # how many tensors the state has
    deviations = "the log does not list the unrolled net"

    def __init__(self, param: LayerParameter, context: Context) -> None:
        super().__init__(param, context)
        p = param.recurrent_param
        exposed = self.states if p.expose_hidden else 0
        self.bottoms, self.tops = between(2 + exposed, 3 + exposed), exactly(1 + exposed)
        self.no_gradient_bottoms = frozenset({1})
        self.exposed, self.keeps_tensors = exposed, not exposed

    def set_up(self, x: Shape, cont: Shape, *others: Shape) -> None:
        p = self.param.recurrent_param
        self.check(p.num_output > 0, "num_output must be positive")
        self.check(len(x) >= 2, f"bottom[0] must have at least 2 axes -- (#timesteps, #streams, ...), not {list(x)}")
        self.steps, self.outputs = x[0], p.num_output
        self.has_static = len(others) > self.exposed
        self.context.emit(notices.RecurrentInput(x[0], x[1]))
        inputs = torch.Size(x[2:]).numel()
        static = torch.Size(others[0][1:]).numel() if self.has_static else None
        for index, (name, shape) in enumerate(self.parameter_shapes(inputs, static).items()):
            self.context.emit(notices.RecurrentParameter(index, name))
            self.add_blob(shape, p.weight_filler if len(shape) > 1 else p.bias_filler)

    def parameter_shapes(self, inputs: int, static: int | None) -> dict[str, Shape]:
        """Caffe's name -> shape of every parameter, in order. static: size of x_static, if there is one."""
        raise NotImplementedError

    def top_shapes(self, x: Shape, cont: Shape, *others: Shape) -> list[Shape]:
        if x[0] != self.steps:
            self.fail(f"the number of time steps may not change: it was {self.steps}, now {x[0]}")
        if cont != x[:2]:
            self.fail(
                f"bottom[1] must have exactly 2 axes -- (#timesteps, #streams), here {list(x[:2])}, not {list(cont)}"
            )
        if self.has_static and others[0][:1] != x[1:2]:
            self.fail(f"the static input {list(others[0])} must have {x[1]} streams")
        state = (1, x[1], self.outputs)
        for shape in others[len(others) - self.exposed :]:
            if shape != state:
                self.fail(f"a state must have the shape {list(state)}, not {list(shape)}")
        return [(*x[:2], self.outputs), *[state] * self.exposed]

    def forward(self, x: Tensor, cont: Tensor, *others: Tensor) -> Tensor | tuple[Tensor, ...]:
        cont = cont.detach().unsqueeze(2)
        static = others[0].flatten(1) if self.has_static else None
        first = self._first_state(x, others)
        y, state = self.unroll(x.flatten(2) if x.dim() > 2 else x.unsqueeze(2), cont, static, first)
        if self.exposed:
            return y, *(part.unsqueeze(0) for part in state)
        self.carried = tuple(part.detach() for part in state)
        return y

    def _first_state(self, x: Tensor, others: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if self.exposed:
            return tuple(state.detach()[0] for state in others[len(others) - self.exposed :])
        return self.goes_on_from((x.new_zeros(x.shape[1], self.outputs),) * self.states)

    def unroll(
        self, x: Tensor, cont: Tensor, static: Tensor | None, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """x (T, N, I), cont (T, N, 1), static (N, S), state (N, D) each -> all outputs (T, N, D), last state."""
        raise NotImplementedError


@register("RNN")
class RNN(Recurrent):
    """h = tanh(W_hh (cont h) + W_xh x + b_h [+ W_xh_static s]); y = tanh(W_ho h + b_o) (rnn_layer.cpp).

    Bottoms, tops, errors: see Recurrent; the state is h.
    """

    bottoms, tops = between(2, 4), between(1, 2)  # the instance knows exactly
    states = 1

    def parameter_shapes(self, inputs: int, static: int | None) -> dict[str, Shape]:
        d = self.outputs
        static_part = {} if static is None else {"W_xh_static": (d, static)}
        return {"W_xh": (d, inputs), "b_h": (d,), **static_part, "W_hh": (d, d), "W_ho": (d, d), "b_o": (d,)}

    def unroll(
        self, x: Tensor, cont: Tensor, static: Tensor | None, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        w_hh, w_ho, b_o = list(self.blobs)[-3:]
        from_input = _project(x, static, self.blobs)
        (h,) = state
        hidden = []
        for outside, goes_on in zip(from_input.unbind(), cont.unbind(), strict=True):
            h = torch.tanh(torch.addmm(outside, goes_on * h, w_hh.t()))
            hidden.append(h)
        return torch.tanh(F.linear(torch.stack(hidden), w_ho, b_o)), (h,)


@register("LSTM")
class LSTM(Recurrent):
    """Gates i, f, o, g = W_hc (cont h) + W_xc x + b_c [+ W_xc_static s] (lstm_layer.cpp).

    c = cont sig(f) c + sig(i) tanh(g); y = h = sig(o) tanh(c). Bottoms, tops, errors: see Recurrent; the state is h, c.
    """

    bottoms, tops = between(2, 5), between(1, 3)
    states = 2

    def parameter_shapes(self, inputs: int, static: int | None) -> dict[str, Shape]:
        d = self.outputs
        static_part = {} if static is None else {"W_xc_static": (4 * d, static)}
        return {"W_xc": (4 * d, inputs), "b_c": (4 * d,), **static_part, "W_hc": (4 * d, d)}

    def unroll(
        self, x: Tensor, cont: Tensor, static: Tensor | None, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        from_input = _project(x, static, self.blobs)
        h, c = state
        hidden = []
        w_hc = self.blobs[-1].t()
        for outside, goes_on in zip(from_input.unbind(), cont.unbind(), strict=True):
            c, h = _lstm_step(c, torch.addmm(outside, goes_on * h, w_hc), goes_on)
            hidden.append(h)
        return torch.stack(hidden), (h, c)


def _project(x: Tensor, static: Tensor | None, blobs: Any) -> Tensor:
    """What every step gets from outside: W x + b [+ W_static s], for all steps at once."""
    y = F.linear(x, blobs[0], blobs[1])
    return y if static is None else y + F.linear(static, blobs[2])


def _lstm_step(c: Tensor, gates: Tensor, cont: Tensor) -> tuple[Tensor, Tensor]:
    """One step of the cell: the next c and h. gates: i, f, o, g side by side on the last axis."""
    sigmoids, g = gates.split((3 * c.shape[-1], c.shape[-1]), -1)
    i, f, o = sigmoids.sigmoid().chunk(3, -1)
    c = cont * f * c + i * torch.tanh(g)
    return c, o * torch.tanh(c)


@register("LSTMUnit")
class LSTMUnit(Layer):
    """One step of LSTM (lstm_unit_layer.cpp): bottoms c (1, N, D), gates (1, N, 4 D), cont (1, N); tops c and h.

    No gradient to cont. Errors: other shapes.
    """

    bottoms = exactly(3)
    tops = exactly(2)
    no_gradient_bottoms = frozenset({2})

    def top_shapes(self, c: Shape, gates: Shape, cont: Shape) -> list[Shape]:
        if len(c) != 3 or c[0] != 1 or gates != (1, c[1], 4 * c[2]) or cont != (1, c[1]):
            self.fail(f"needs bottoms (1, N, D), (1, N, 4 D), (1, N), not {list(c)}, {list(gates)}, {list(cont)}")
        return [c, c]

    def forward(self, c: Tensor, gates: Tensor, cont: Tensor) -> tuple[Tensor, Tensor]:
        return _lstm_step(c, gates, cont.detach().unsqueeze(2))

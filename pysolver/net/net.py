"""Net: sources, and a pure function from their batches to all blobs, with Caffe's forward and backward.

Two ways to compute, on the same layers:

- `forward` and `backward` go layer by layer. Each layer differentiates on its own, from the diffs of its tops
  to the diffs of its bottoms, so that every blob and diff can be read, and set, in between. This is Caffe's way
  and what pycaffe scripts see.
- `run` and `forward_backward` compute the whole net as one function, with one autograd graph. They give the same
  parameter gradients and are what a solver uses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import pysolver.data  # noqa: F401  registers the data layers
import pysolver.layers  # noqa: F401  registers the others
from pysolver.blob import Blob
from pysolver.context import Context
from pysolver.layers.base import Layer, Source
from pysolver.net import weights
from pysolver.net.build import Node, build_graph

Callback = Callable[[int], None]  # told a layer's index
MOMENTS = ("before_forward", "after_forward", "before_backward", "after_backward")


class Net:
    """A net of Caffe (src/caffe/net.cpp).

    param: an upgraded NetParameter with its state set (see pysolver.net.state.read_net_for).
    blobs: all named blobs in the order of their creation. outputs: names of the blobs nobody reads, in byte order.
    learnable_params: the owners among the parameters; `p.data` is a parameter's data and `p.grad` its diff.
    layer_by_layer: `run` and `forward_backward` go through forward and backward, so that all diffs can be read.
    """

    def __init__(self, param: Any, context: Context | None = None) -> None:
        self.context = context or Context()
        graph = build_graph(param, self.context)
        self.name = graph.name
        self.nodes: list[Node] = graph.nodes
        self.blobs: dict[str, Blob] = graph.blobs
        self.outputs: list[str] = graph.outputs
        self.parameters = graph.parameters
        self.layers: list[Layer] = [node.layer for node in self.nodes]
        self.layer_names: list[str] = [layer.name for layer in self.layers]
        self.inputs = [name for node in self.nodes if node.layer.type_name == "Input" for name in node.top_names]
        self.sources: dict[str, Source] = {layer.name: layer for layer in self.layers if isinstance(layer, Source)}
        self.layer_by_layer = False
        self._callbacks: dict[str, list[Callback]] = {moment: [] for moment in MOMENTS}
        self._tapes: dict[int, tuple[list[Tensor], tuple[Tensor, ...]]] = {}  # by node: (bottoms, tops)
        self._param_blobs: dict[int, Blob] = {}
        for node in self.nodes:
            node.layer.train(node.layer.is_training)
            for buffer in node.layer.buffers():
                buffer.data = buffer.data.to(self.context.device)
            self._seed_losses(node)

    # ---- parameters --------------------------------------------------------------------------------------

    @property
    def learnable_params(self) -> list[torch.nn.Parameter]:
        return self.parameters.learnable

    @property
    def lr_mults(self) -> list[float]:
        return self.parameters.lr_mults

    @property
    def decay_mults(self) -> list[float]:
        return self.parameters.decay_mults

    def param_blob(self, parameter: torch.nn.Parameter) -> Blob:
        """The Blob over a parameter and its diff, always the same object."""
        blob = self._param_blobs.get(id(parameter))
        if blob is None:
            blob = self._param_blobs[id(parameter)] = Blob.over(parameter.data, parameter.grad)
        elif blob.value.data_ptr() != parameter.data.data_ptr():  # share_trained_layers_with
            blob.share(parameter.data, parameter.grad)
        return blob

    def clear_param_diffs(self) -> None:
        """Zero the diffs of all parameters, in place."""
        self.flush_params()
        if self.learnable_params:
            torch._foreach_zero_([parameter.grad for parameter in self.learnable_params])

    def flush_params(self) -> None:
        """Bring values that were written through numpy onto the device: before anything reads or changes them there."""
        for blob in self._param_blobs.values():
            blob.value, blob.gradient  # noqa: B018  reading uploads what is newer on the host

    # ---- layer by layer ----------------------------------------------------------------------------------

    def forward(self, start: int = 0, end: int | None = None) -> float:
        """Run the layers start..end (inclusive, by index) and return the sum of their weighted losses."""
        self.flush_params()
        loss = 0.0
        for index in range(start, len(self.nodes) if end is None else end + 1):
            self._tell("before_forward", index)
            loss += self._forward_layer(index)
            self._tell("after_forward", index)
        return float(loss)

    def _forward_layer(self, index: int) -> float:
        node = self.nodes[index]
        self._check_if_reshaped(node)
        self._tapes[index] = _, tops = self._record(node)
        for blob, top in zip(node.tops, tops):
            if top is not None:
                blob.value = top.detach()
        self._seed_losses(node)
        return sum(float((b.value * b.gradient).sum()) for b, w in zip(node.tops, node.loss_weights) if w)

    def _record(self, node: Node) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """The layer on its bottoms as they are now, ready to be differentiated: (bottoms, tops)."""
        bottoms = [self._bottom(node, blob, need) for blob, need in zip(node.bottoms, node.bottom_need)]
        with torch.set_grad_enabled(node.needs_backward):
            return bottoms, _as_tuple(node.layer(*bottoms))

    @staticmethod
    def _bottom(node: Node, blob: Blob, need: bool) -> Tensor:
        """A leaf on the blob's memory; of its own memory where an in-place top is about to overwrite a shown array."""
        value = blob.value.detach()
        if blob.is_shown and blob in node.tops:
            value = value.clone()
        return value.requires_grad_(need)

    def _seed_losses(self, node: Node) -> None:
        """A loss top's diff is its weight: filled in once, and again only when the blob changes its shape."""
        for blob, weight in zip(node.tops, node.loss_weights):
            if weight and not blob.has_gradient:
                blob.gradient = torch.full_like(blob.value, weight)

    def backward(self, start: int | None = None, end: int = 0) -> None:
        """Run backward from layer `start` (default the last) down to `end`, from the diffs of the tops.

        Bottom diffs are overwritten, parameter diffs are added to.
        """
        self.flush_params()
        for index in range(len(self.nodes) - 1 if start is None else start, end - 1, -1):
            self._tell("before_backward", index)
            self._backward_layer(index)
            self._tell("after_backward", index)

    def _backward_layer(self, index: int) -> None:
        node = self.nodes[index]
        if not node.needs_backward or node.is_source:
            return
        if index not in self._tapes:  # backward without forward: Caffe takes the blobs as they are
            self._tapes[index] = self._record(node)
        bottoms, tops = self._tapes[index]
        for position, bottom in enumerate(bottoms):
            if bottom.requires_grad and position in node.layer.no_gradient_bottoms and node.layer.is_loss:
                node.layer.fail(f"{node.layer.type_name} Layer cannot backpropagate to label inputs.")
        wanted = [tensor for tensor in (*bottoms, *node.layer.blobs) if tensor.requires_grad]
        roots = [(top, blob.gradient) for top, blob in zip(tops, node.tops) if top.requires_grad]
        for bottom in bottoms:
            bottom.grad = None
        if roots and wanted:
            outputs, seeds = zip(*roots)
            seeds = [seed.to(out.dtype).reshape(out.shape) for out, seed in roots]
            torch.autograd.backward(outputs, seeds, retain_graph=True, inputs=wanted)
        for blob, bottom, need in zip(node.bottoms, bottoms, node.bottom_need):
            if need:
                blob.gradient = torch.zeros_like(bottom) if bottom.grad is None else bottom.grad

    def add_callback(self, moment: str, callback: Callback) -> None:
        """Call it with each layer's index at one of MOMENTS (Net::Callback). From now on all passes go by layer."""
        self._callbacks[moment].append(callback)
        self.layer_by_layer = True

    def _tell(self, moment: str, index: int) -> None:
        for callback in self._callbacks[moment]:
            callback(index)

    def reshape(self) -> None:
        """Propagate the present shapes of the bottoms through all layers, without computing."""
        for node in self.nodes:
            if not node.is_source:
                for blob, shape in zip(node.tops, node.check_shapes()):
                    blob.reshape(*shape)

    # ---- as one function ---------------------------------------------------------------------------------

    def pull(self) -> dict[Blob, Tensor]:
        """Take the next batch from every source into its blobs; the values of all source blobs."""
        values: dict[Blob, Tensor] = {}
        for node in self.nodes:
            if node.is_source:
                for blob, batch in zip(node.tops, node.layer()):
                    if batch is not None:
                        blob.value = batch
                    values[blob] = blob.value
        return values

    def compute(self, values: dict[Blob, Tensor]) -> Tensor:
        """The weighted loss as a function of the source blobs; `values` gains the value of every other blob.

        No blob is read or written. In-place layers rebind their blob's value.
        """
        total = torch.zeros((), device=self.context.device)
        for node in self.nodes:
            if not node.is_source:
                bottoms = [values[b] if need else values[b].detach() for b, need in zip(node.bottoms, node.bottom_need)]
                if node.needs_backward:
                    tops = _as_tuple(node.layer(*bottoms))
                else:
                    with torch.no_grad():
                        tops = _as_tuple(node.layer(*bottoms))
                values.update(zip(node.tops, tops))
            for blob, weight in zip(node.tops, node.loss_weights):
                if weight:
                    total = total + values[blob].sum() * weight
        return total

    def run(self) -> Tensor:
        """The next batch through the whole net: the weighted loss, 0-d; all blobs show the result."""
        if self.layer_by_layer:
            return torch.tensor(self.forward(), device=self.context.device)
        loss, values = self._next()
        self._show(values)
        return loss

    def forward_backward(self) -> Tensor:
        """`run`, and the gradient of its loss added to the parameters' diffs. Returns the 0-d loss."""
        if self.layer_by_layer:
            loss = self.run()
            self.backward()
            return loss
        loss, values = self._next()
        if loss.requires_grad:
            loss.backward()
        self._show(values)
        return loss.detach()

    def _next(self) -> tuple[Tensor, dict[Blob, Tensor]]:
        self.flush_params()
        self._tapes.clear()  # they tell of other values than the blobs will show
        values = self.pull()
        for node in self.nodes:
            self._check_if_reshaped(node)
        return self.compute(values), values

    @staticmethod
    def _show(values: dict[Blob, Tensor]) -> None:
        for blob, value in values.items():
            blob.value = value.detach()

    @staticmethod
    def _check_if_reshaped(node: Node) -> None:
        """Let the layer object to bottoms of a new shape before torch does."""
        if not node.is_source and [blob.shape for blob in node.bottoms] != node.checked_shapes:
            for blob, shape in zip(node.tops, node.check_shapes()):
                blob.reshape(*shape)

    def output_values(self) -> list[tuple[str, Tensor, float]]:
        """(name, value, loss weight) of every output, in byte order of the names."""
        weights_of = self.blob_loss_weights
        return [(name, self.blobs[name].value, weights_of[name]) for name in self.outputs]

    @property
    def blob_loss_weights(self) -> dict[str, float]:
        """The loss weight of every named blob."""
        found = dict.fromkeys(self.blobs, 0.0)
        for node in self.nodes:
            found.update((n, w) for n, w in zip(node.top_names, node.loss_weights) if w and n in found)
        return found

    # ---- weights in, weights out -------------------------------------------------------------------------

    def to_proto(self, with_diff: bool = False) -> Any:
        """The net with its weights, as a caffemodel holds it."""
        return weights.to_proto(self, with_diff)

    def copy_trained_layers_from(self, path: str) -> None:
        """Load a .caffemodel or .caffemodel.h5 by layer name."""
        weights.copy_trained_layers_from(self, path)

    def share_trained_layers_with(self, other: Net) -> None:
        """Use the memory of the other net's parameters in layers of the same name."""
        weights.share_trained_layers_with(self, other)

    def close(self) -> None:
        """Stop the sources' threads and close their files."""
        for source in self.sources.values():
            source.close()


def _as_tuple(tops: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tops if isinstance(tops, tuple) else tuple(tops) if isinstance(tops, list) else (tops,)

"""Net: sources, and a function of their batches, with Caffe's forward and backward.

Two ways to compute, on the same layers:

- `forward` and `backward` go layer by layer (pysolver.net.nodes): every blob and diff can be read, and set, in
  between. This is Caffe's way and what pycaffe scripts see.
- `run` and `forward_backward` compute the whole net as one function (pysolver.net.function), with one autograd graph.
  They give the same parameter gradients and are what a solver uses. Blobs show the outputs, and what was looked at.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

import pysolver.data  # noqa: F401  registers the data layers
import pysolver.layers  # noqa: F401  registers the others
from pysolver.blob import Blob
from pysolver.component import Component
from pysolver.context import Context
from pysolver.logs import notices
from pysolver.net import weights, weights_hdf5
from pysolver.net.build import build_graph
from pysolver.net.function import NetFunction
from pysolver.net.nodes import LayerNode, Node, SourceNode
from pysolver.net.origin import Origin, telling_records
from pysolver.net.precision import LossScale
from pysolver.proto.caffe_pb2 import NetParameter

Callback = Callable[[int], None]  # told a layer's index
MOMENTS = ("before_forward", "after_forward", "before_backward", "after_backward")
_Method = TypeVar("_Method", bound=Callable)


def _telling(method: _Method) -> _Method:
    """The method of a net, whose errors name its file, and the record that they are about."""

    @functools.wraps(method)
    def told(net: Net, *args: Any, **options: Any) -> Any:
        with net.origin.telling(net.state), telling_records(net.sources.values()):
            return method(net, *args, **options)

    return told  # type: ignore[return-value]


class Net:
    """A net of Caffe (src/caffe/net.cpp).

    param: an upgraded NetParameter with its state set (see pysolver.net.filter.read_net_for). origin: its file.
    blobs: all named blobs in the order of their creation. outputs: names of the blobs nobody reads, in byte order.
    learnable_params: the owners among the parameters; `p.data` is a parameter's data and `p.grad` its diff.
    layer_by_layer: `run` and `forward_backward` go through forward and backward, so that all diffs can be read.
    """

    def __init__(self, param: NetParameter, context: Context | None = None, origin: str = "") -> None:
        self.context = context or Context()
        self.origin, self.state = Origin(origin), param.state
        with self.origin.telling(self.state):
            graph = build_graph(param, self.context)
        self.name = graph.name
        self.nodes: list[Node] = graph.nodes
        self.blobs: dict[str, Blob] = graph.blobs
        self.outputs: list[str] = graph.outputs
        self.parameters = graph.parameters
        self.function = NetFunction(self.nodes, [self.blobs[name] for name in self.outputs], self.context)
        self.layers: list[Component] = [node.layer for node in self.nodes]
        self.layer_names: list[str] = [layer.name for layer in self.layers]
        self.inputs = [name for node in self.nodes if node.layer.type_name == "Input" for name in node.top_names]
        self.sources = {node.layer.name: node.layer for node in self.nodes if isinstance(node, SourceNode)}
        self._call: Callable[..., tuple[Tensor, tuple[Tensor, ...]]] = self.function
        self._is_recorded = False  # as CUDA graphs: each pass writes into the same memory
        if self.context.compile and self.context.device.type != "cpu":
            self.compile(graphs=True)
        self.layer_by_layer = False
        self.loss_scale = LossScale(self.context.device) if self.context.precision == "fp16" else None
        self._callbacks: dict[str, list[Callback]] = {moment: [] for moment in MOMENTS}
        self._param_blobs: dict[int, Blob] = {}

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

    @_telling
    def forward(self, start: int = 0, end: int | None = None) -> float:
        """Run the layers start..end (inclusive, by index) and return the sum of their weighted losses."""
        self.flush_params()
        loss = 0.0
        for index in range(start, len(self.nodes) if end is None else end + 1):
            self._tell("before_forward", index)
            loss += self.nodes[index].forward()
            self._tell("after_forward", index)
        return float(loss)

    @_telling
    def backward(self, start: int | None = None, end: int = 0) -> None:
        """Run backward from layer `start` (default the last) down to `end`, from the diffs of the tops.

        Bottom diffs are overwritten, parameter diffs are added to.
        """
        self.flush_params()
        for index in range(len(self.nodes) - 1 if start is None else start, end - 1, -1):
            self._tell("before_backward", index)
            self.nodes[index].backward()
            self._tell("after_backward", index)

    def add_callback(self, moment: str, callback: Callback) -> None:
        """Call it with each layer's index at one of MOMENTS (Net::Callback). From now on all passes go by layer."""
        self._callbacks[moment].append(callback)
        self.layer_by_layer = True

    def _tell(self, moment: str, index: int) -> None:
        for callback in self._callbacks[moment]:
            callback(index)

    @_telling
    def reshape(self) -> None:
        """Propagate the present shapes of the bottoms through all layers, without computing."""
        for node in self.nodes:
            node.reshape()

    # ---- as one function ---------------------------------------------------------------------------------

    @_telling
    def run(self) -> Tensor:
        """The next batch through the whole net: the weighted loss, 0-d; the outputs' blobs show the result."""
        if self.layer_by_layer:
            return torch.tensor(self.forward(), device=self.context.device)
        batch = self._next_batch()
        with torch.inference_mode():
            loss, values = self._compute(batch)
        self._show([value.clone() for value in values])  # which autograd may meet again, unlike those of inference
        return loss.clone()

    @_telling
    def forward_backward(self) -> Tensor:
        """`run`, and its loss (returned, 0-d) differentiated: times loss_scale, added to the parameters' diffs."""
        if self.layer_by_layer:
            loss = self.run()
            self.backward()
            return loss
        loss, values = self._compute(self._next_batch())
        self._show([self._own(value) for value in values])
        if loss.requires_grad:
            (self.loss_scale.scaled(loss) if self.loss_scale else loss).backward()
        return self._own(loss)

    def compile(self, backend: str = "inductor", graphs: bool = False) -> None:
        """Let torch.compile make kernels of the function at its next passes, once for each set of blobs looked at.

        graphs: and record them as CUDA graphs, unless a layer keeps a tensor from one pass to the next, which the next
        would overwrite. Parameters are read, and statistics written, where they lie; inputs are copied.
        """
        for layer in self.function.layers:
            if layer.is_opaque:
                layer.forward = torch.compiler.disable(layer.forward)  # here, since it imports for seconds
        keeping = [layer.name for layer in self.function.layers if layer.keeps_tensors]
        if graphs and keeping:
            self.context.emit(notices.NotRecorded(keeping[0]))
        self._is_recorded = graphs and not keeping
        mode = "reduce-overhead" if self._is_recorded else None
        self._call = torch.compile(self.function, backend=backend, mode=mode, dynamic=False)

    def _compute(self, batch: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The function of the batch; what it returns is to be copied, if it is recorded, before the next one."""
        if self._is_recorded:
            torch.compiler.cudagraph_mark_step_begin()  # nobody needs what the last pass has left
        return self._call(*batch)

    def _own(self, value: Tensor) -> Tensor:
        """A value of the function without its history, and in memory that the next pass leaves alone."""
        return value.detach().clone() if self._is_recorded else value.detach()

    def _next_batch(self) -> list[Tensor]:
        """What the function takes, from the sources; the blobs that nobody looks at are let go."""
        self.flush_params()
        batch = [value for node in self.nodes if isinstance(node, SourceNode) for value in node.batch()]
        for node in self.nodes:
            if isinstance(node, LayerNode):
                node.check_shapes()
                node.forget()
        self._choose_kept()
        return batch

    def _show(self, values: Sequence[Tensor]) -> None:
        """The blobs of the slots that are kept have these values now."""
        for index, value in zip(self.function.kept, values):
            self.function.blobs[index].value = value

    def _choose_kept(self) -> None:
        """Outputs, and whatever somebody looks at; the other blobs would show what is past."""
        function = self.function
        settled = {*function.inputs, *function.outputs}
        shown = [i for i, blob in enumerate(function.blobs) if i not in settled and blob.is_shown]
        kept = (*function.outputs, *shown)
        if kept != function.kept:
            function.keep(kept)
        for index in range(len(function.blobs)):
            if index not in settled and index not in shown:
                function.blobs[index].release()

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

    def to_proto(self, with_diff: bool = False) -> NetParameter:
        """The net with its weights, as a caffemodel holds it."""
        return weights.to_proto(self, with_diff)

    def copy_trained_layers_from(self, path: str) -> list[nn.Parameter]:
        """Load a .caffemodel or .caffemodel.h5, told apart by content, by layer name (Net::CopyTrainedLayersFrom).

        Gives the parameters that the file has.
        """
        return (weights_hdf5 if weights.is_hdf5(path) else weights).load(self, path)

    def share_trained_layers_with(self, other: Net) -> None:
        """Use the memory of the other net's parameters in layers of the same name."""
        weights.share_trained_layers_with(self, other)

    def close(self) -> None:
        """Stop the sources' threads and close their files."""
        for source in self.sources.values():
            source.close()

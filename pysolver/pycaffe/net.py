"""caffe.Net: pycaffe's view of a net (python/caffe/pycaffe.py, _caffe.cpp)."""

from __future__ import annotations

import os
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from pysolver.blob import Blob
from pysolver.component import Component
from pysolver.errors import CaffeError
from pysolver.logs import notices
from pysolver.net import weights, weights_hdf5
from pysolver.net.filter import read_net_for
from pysolver.net.net import Callback
from pysolver.net.net import Net as CoreNet
from pysolver.net.pretrained import pretrained
from pysolver.pycaffe import alias, mode
from pysolver.pycaffe.named import Named, instead

__all__ = ["Blob", "LayerView", "Net"]

alias.offer()  # modules of users' Python layers `import caffe`

Arrays = dict[str, np.ndarray]


def check_file(path: str) -> None:
    """RuntimeError, as pycaffe's, if the file cannot be read."""
    if not os.path.isfile(path) or not os.access(path, os.R_OK):
        raise CaffeError(f"Could not open file {path}")


class LayerView:
    """A layer of a net: its `type` and its parameter `blobs`."""

    def __init__(self, net: CoreNet, layer: Component) -> None:
        self._net = net
        self._layer = layer

    @property
    def type(self) -> str:
        return self._layer.type_name

    @property
    def blobs(self) -> list[Blob]:
        return [self._net.param_blob(parameter) for parameter in self._layer.blobs]

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """A layer is set up when its net is made: this only checks that the bottoms fit."""
        self._layer.top_shapes(*(blob.shape for blob in bottom))

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Give the tops the shapes that follow from the bottoms'."""
        for blob, shape in zip(top, self._layer.top_shapes(*(blob.shape for blob in bottom))):
            blob.reshape(*shape)


class Net:
    """A net, its blobs and its parameters as live arrays.

    Net(network_file, phase, level=0, stages=None, weights=None), or the old Net(network_file, weights_file, phase).
    Raises RuntimeError for a file that is not there, and for whatever Caffe would refuse.
    """

    def __init__(
        self,
        network_file: str,
        phase: int,
        level: int | None = None,
        stages: Sequence[str] | None = None,
        weights: Any = None,
    ) -> None:
        if isinstance(phase, (str, os.PathLike)):
            if phase in ("TRAIN", "TEST"):
                raise TypeError(f"the phase is caffe.{phase}, not '{phase}'")
            if level is None:
                raise TypeError(f"Net({str(network_file)!r}, {str(phase)!r}): the phase is missing: caffe.TEST, say")
            phase, weights, level = level, phase, 0
            mode.log()(notices.DeprecatedNet())
            mode.log()(notices.NetInstead())
            mode.log()(notices.NetCall(str(network_file), phase, str(weights)))
        for file in (network_file, weights):
            if file is not None:
                check_file(file)
        param = read_net_for(network_file, phase, level or 0, stages or (), mode.log())
        files = [] if weights is None else [os.fspath(weights)]
        self._adopt(pretrained(param, mode.context(), files, str(network_file)))

    @classmethod
    def over(cls, net: CoreNet) -> Net:
        """The view of a net that a solver has made."""
        view = cls.__new__(cls)
        view._adopt(net)
        return view

    @property
    def core(self) -> CoreNet:
        """The net behind this view: what pysolver's own functions take."""
        return self._net

    def _adopt(self, net: CoreNet) -> None:
        self._net = net
        self._finalizer = weakref.finalize(self, net.close)
        # A user's own Python layer is shown as it is: scripts call its methods.
        layers: Sequence[Any] = net.layers
        self.layers = [layer.user if layer.type_name == "Python" else LayerView(net, layer) for layer in layers]
        self.blobs: OrderedDict[str, Blob] = Named()
        self.blob_loss_weights: OrderedDict[str, float] = OrderedDict()
        for node in net.nodes:
            for name, blob, weight in zip(node.top_names, node.tops, node.loss_weights):
                self.blobs[name] = blob
                self.blob_loss_weights[name] = weight or self.blob_loss_weights.get(name, 0.0)
        self.inputs: list[str] = list(net.inputs)
        self.outputs: list[str] = list(net.outputs)
        self.top_names = OrderedDict((node.layer.name, list(node.top_names)) for node in net.nodes)
        self.bottom_names = OrderedDict((node.layer.name, list(node.bottom_names)) for node in net.nodes)

    # ---- what is in it ---------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self._net.name

    @property
    def layer_dict(self) -> OrderedDict[str, Any]:
        return Named(zip(self._layer_names, self.layers), "layer")

    @property
    def params(self) -> OrderedDict[str, list[Blob]]:
        """The parameter blobs of each layer that has some."""
        learning = [layer for layer in self._net.layers if layer.blobs]
        blobs = ((layer.name, LayerView(self._net, layer).blobs) for layer in learning)
        return Named(blobs, "layer with parameters")

    @property
    def _layer_names(self) -> list[str]:
        return self._net.layer_names

    @property
    def _blob_names(self) -> list[str]:
        return list(self.blobs)

    def _top_ids(self, layer: int) -> list[int]:
        return [self._blob_names.index(name) for name in self._net.nodes[layer].top_names]

    def _bottom_ids(self, layer: int) -> list[int]:
        return [self._blob_names.index(name) for name in self._net.nodes[layer].bottom_names]

    # ---- forward and backward --------------------------------------------------------------------------------

    def forward(
        self, blobs: Sequence[str] | None = None, start: str | None = None, end: str | None = None, **kwargs: Any
    ) -> Arrays:
        """Run the layers from `start` to `end`, inclusive, and return live arrays: the net's outputs (or the tops of
        `end`), and `blobs` besides.

        kwargs: arrays for all input blobs. Raises Exception if they are others or of another batch size, ValueError for
        an unknown layer, KeyError for an unknown blob.
        """
        first, last = self._index(start, 0), self._index(end, len(self.layers) - 1)
        self._feed("data", kwargs, self.inputs, "inputs")
        self._forward(first, last)
        names = self.outputs if end is None else self._net.nodes[last].top_names
        return {name: self.blobs[name].data for name in (*names, *(blobs or ()))}

    def backward(
        self, diffs: Sequence[str] | None = None, start: str | None = None, end: str | None = None, **kwargs: Any
    ) -> Arrays:
        """Run backward from layer `start` down to `end`, inclusive, and return live arrays: the diffs of the net's
        inputs (or of the bottoms of `end`), and of `diffs` besides.

        kwargs: diffs for all output blobs; errors as forward's.
        """
        first, last = self._index(start, len(self.layers) - 1), self._index(end, 0)
        self._feed("diff", kwargs, self.outputs, "outputs")
        self._backward(first, last)
        names = self.inputs if end is None else self._net.nodes[last].bottom_names
        return {name: self.blobs[name].diff for name in (*names, *(diffs or ()))}

    def _index(self, layer: str | None, default: int) -> int:
        if layer is None:
            return default
        if layer not in self._layer_names:
            raise ValueError(f"the net has no layer '{layer}'{instead(layer, self._layer_names)}")
        return self._layer_names.index(layer)

    def _feed(self, face: str, arrays: Arrays, names: list[str], role: str) -> None:
        """Write the arrays into the blobs' data or diff."""
        if not arrays:
            return
        if set(arrays) != set(names):
            none = "none: data layers feed it" if self._net.sources else "none"
            raise Exception(f"the net's {role} are {', '.join(names) or none}; given were {', '.join(arrays)}")
        for name, array in arrays.items():
            blob = self.blobs[name]
            if np.shape(array)[:1] != blob.shape[:1]:
                raise Exception(f"blob '{name}' has the batch size {blob.shape[:1]}, its array {np.shape(array)[:1]}")
            getattr(blob, face)[...] = array

    def _forward(self, start: int, end: int) -> float:
        """Layers start..end by index; the sum of their weighted losses."""
        return self._net.forward(start, end)

    def _backward(self, start: int, end: int) -> None:
        self._net.backward(start, end)

    # ---- many items ------------------------------------------------------------------------------------------

    def forward_all(self, blobs: Sequence[str] | None = None, **kwargs: Any) -> Arrays:
        """forward for any number of items, in batches of the first blob's size; copies, one row an item."""
        return self._in_batches(kwargs, blobs, (), backward=False)[0]

    def forward_backward_all(
        self, blobs: Sequence[str] | None = None, diffs: Sequence[str] | None = None, **kwargs: Any
    ) -> tuple[Arrays, Arrays]:
        """forward and backward for any number of items: (blobs, diffs) as forward_all's. kwargs: input arrays by the
        names of inputs, output diffs by the names of outputs; what is not given stays as it is in the blobs."""
        return self._in_batches(kwargs, blobs, diffs, backward=True)

    def _in_batches(
        self, arrays: Arrays, blobs: Sequence[str] | None, diffs: Sequence[str] | None, backward: bool
    ) -> tuple[Arrays, Arrays]:
        unknown = set(arrays) - set(self.inputs) - set(self.outputs if backward else ())
        if unknown or not arrays:
            raise Exception(f"arrays are needed for the net's inputs ({', '.join(self.inputs)}), not {list(arrays)}")
        inputs = self._batches({name: arrays[name] for name in self.inputs if name in arrays})
        seeds = self._batches({name: arrays[name] for name in self.outputs if name in arrays})
        values, gradients = [], []
        none: dict[str, np.ndarray] = {}
        for batch, seed in zip_longest(inputs, seeds, fillvalue=none):
            values.append(_copies(self.forward(blobs, **batch)))
            if backward:
                gradients.append(_copies(self.backward(diffs, **seed)))
        count = len(next(iter(arrays.values())))
        return _joined(values, count), _joined(gradients, count)

    def _batches(self, arrays: Arrays) -> Iterator[Arrays]:
        """The arrays in pieces of the first blob's batch size, the last one filled up with zeros."""
        if not arrays:
            return
        size = next(iter(self.blobs.values())).shape[0]
        for start in range(0, len(next(iter(arrays.values()))), size):
            batch = {name: np.asarray(array[start : start + size]) for name, array in arrays.items()}
            yield {
                name: np.concatenate([rows, np.zeros((size - len(rows), *rows.shape[1:]), rows.dtype)])
                for name, rows in batch.items()
            }

    # ---- shapes, weights, callbacks --------------------------------------------------------------------------

    def reshape(self) -> None:
        """Carry the input blobs' shapes through the net."""
        self._net.reshape()

    def clear_param_diffs(self) -> None:
        self._net.clear_param_diffs()

    def set_input_arrays(self, data: np.ndarray, labels: np.ndarray) -> None:
        """The arrays that a MemoryData layer, which must be the first, hands out from now on; see there."""
        layer: Any = self._net.layers[0]
        if layer.type_name != "MemoryData":
            raise CaffeError("set_input_arrays may only be called if the first layer is a MemoryData layer")
        layer.set_input_arrays(data, labels)

    def copy_from(self, file: str) -> None:
        """Load a .caffemodel or .caffemodel.h5 by layer name."""
        self._net.copy_trained_layers_from(os.fspath(file))

    def share_with(self, other: Net) -> None:
        """Use the other net's parameters, as one memory, in layers of the same name."""
        self._net.share_trained_layers_with(other._net)
        self.params  # noqa: B018  leads the Blobs that somebody holds to the shared memory

    def save(self, file: str) -> None:
        """Write a .caffemodel."""
        weights.save(self._net, os.fspath(file))

    def save_hdf5(self, file: str) -> None:
        """Write a .caffemodel.h5."""
        weights_hdf5.save(self._net, os.fspath(file))

    def load_hdf5(self, file: str) -> None:
        weights_hdf5.load(self._net, os.fspath(file))

    def before_forward(self, callback: Callback) -> None:
        """Call it with each layer's index before the layer's forward, also when a solver trains the net."""
        self._net.add_callback("before_forward", callback)

    def after_forward(self, callback: Callback) -> None:
        self._net.add_callback("after_forward", callback)

    def before_backward(self, callback: Callback) -> None:
        self._net.add_callback("before_backward", callback)

    def after_backward(self, callback: Callback) -> None:
        self._net.add_callback("after_backward", callback)


def _copies(arrays: Arrays) -> Arrays:
    return {name: np.array(array) for name, array in arrays.items()}


def _joined(batches: list[Arrays], count: int) -> Arrays:
    """The batches end to end, without the filling: the first `count` rows. A scalar output gives one row a batch."""
    names = batches[0] if batches else ()
    return {name: np.concatenate([np.atleast_1d(batch[name]) for batch in batches])[:count] for name in names}

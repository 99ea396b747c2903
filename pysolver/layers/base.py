"""What a layer is, and how a net finds it by its Caffe type name.

To add a layer, write a class in the file of its family:

    @register("Power")
    class Power(Layer):
        def top_shapes(self, bottom): return [bottom]
        def forward(self, x): ...

Nothing else is touched: the registry, the documentation and the gradient tests find it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, NoReturn

import torch
from torch import Tensor, nn

from pysolver.blob import Shape
from pysolver.context import Context
from pysolver.errors import CaffeError
from pysolver.layers.fillers import fill
from pysolver.proto import blobproto, caffe_pb2


class Arity(NamedTuple):
    """How many bottoms or tops a layer takes; `most` None is without limit."""

    least: int
    most: int | None

    def check(self, count: int, type_name: str, verb: str, noun: str) -> None:
        """Caffe's CheckBlobCounts (include/caffe/layer.hpp)."""
        if self.least == self.most != count:
            raise CaffeError(f"{type_name} Layer {verb} {self.least} {noun} blob(s) as {_ROLE[noun]}, not {count}.")
        if count < self.least:
            raise CaffeError(
                f"{type_name} Layer {verb} at least {self.least} {noun} blob(s) as {_ROLE[noun]}, not {count}."
            )
        if self.most is not None and count > self.most:
            raise CaffeError(
                f"{type_name} Layer {verb} at most {self.most} {noun} blob(s) as {_ROLE[noun]}, not {count}."
            )


_ROLE = {"bottom": "input", "top": "output"}


def exactly(count: int) -> Arity:
    return Arity(count, count)


def at_least(count: int) -> Arity:
    return Arity(count, None)


def between(least: int, most: int) -> Arity:
    return Arity(least, most)


class Layer(nn.Module):
    """A layer of the net: the base class checks what the class declares, the subclass computes.

    Life: __init__ (opens what the layer reads), set_up (once, with the bottoms' shapes: checks and blobs),
    then forward as often as wanted; top_shapes before each, since batch and image sizes may change.

    blobs: the layer's parameters in Caffe's order, which is the order of snapshots.
    """

    type_name: ClassVar[str] = ""
    bottoms: ClassVar[Arity] = exactly(1)
    tops: ClassVar[Arity] = exactly(1)
    is_loss: ClassVar[bool] = False  # missing top is created, default loss_weight 1
    allows_in_place: ClassVar[bool] = True
    no_gradient_bottoms: ClassVar[frozenset[int]] = frozenset()  # labels, indices: never force_backward
    deviations: ClassVar[str] = ""  # where it differs from Caffe, for the table of layers

    def __init__(self, param: Any, context: Context) -> None:
        super().__init__()
        self.param = param
        self.name: str = param.name
        self.phase: int = param.phase
        self.top_count = len(param.top)  # as the prototxt names them: a loss may have one more
        self.context = context
        self.blobs = nn.ParameterList()

    # ---- what a subclass says -----------------------------------------------------------------------------

    def set_up(self, *bottom_shapes: Shape) -> None:
        """Check the parameters against the shapes and add the blobs. Called once."""

    def top_shapes(self, *bottom_shapes: Shape) -> list[Shape]:
        """Shapes of the tops for these bottoms, without data. Raises CaffeError if the bottoms do not fit."""
        raise NotImplementedError

    def forward(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The tops. Differentiable by autograd; never writes into its bottoms."""
        raise NotImplementedError

    # ---- what it can use ----------------------------------------------------------------------------------

    @property
    def is_training(self) -> bool:
        return self.phase == caffe_pb2.TRAIN

    def add_blob(self, shape: Shape, filler: Any = None) -> nn.Parameter:
        """A new parameter, from the prototxt's own `blobs` if it has them, else filled (no filler: zeros)."""
        index = len(self.blobs)
        self.check(math.prod(shape) <= blobproto.LARGEST_COUNT, f"blob size exceeds INT_MAX: {list(shape)}")
        blob = nn.Parameter(torch.zeros(shape))
        if self.param.blobs:
            if index == 0:
                self.context.info("layer.hpp:1", "Skipping parameter initialization")
            if index >= len(self.param.blobs):
                self.fail(f"the definition carries {len(self.param.blobs)} blobs, the layer needs more")
            given = self.param.blobs[index]
            try:
                blobproto.check(given)
            except CaffeError as error:
                self.fail(f"blob {index} given in the definition: {error}")
            if not blobproto.shapes_equal(tuple(shape), given):
                self.fail(f"blob {index} given in the definition has shape {blobproto.shape_of(given)}, not {shape}")
            blob.data.copy_(torch.from_numpy(blobproto.to_array(given)).reshape(shape))
        elif filler is not None:
            self.fill(blob.data, filler)
        self.blobs.append(blob)
        return blob

    def fill(self, tensor: Tensor, filler: Any) -> None:
        """Fill `tensor` by `filler` (FillerParameter); what is wrong with it is said with this layer's name."""
        try:
            fill(tensor, filler)
        except CaffeError as error:
            self.fail(str(error))

    def axis(self, axis: int, shape: Shape) -> int:
        """A canonical axis: negative ones count from the end (Blob::CanonicalAxisIndex)."""
        if not -len(shape) <= axis < len(shape):
            self.fail(f"axis {axis} out of range for {len(shape)}-D Blob with shape {format_shape(shape)}")
        return axis % len(shape) if shape else 0

    def fail(self, message: str) -> NoReturn:
        """Raise a CaffeError that names this layer."""
        raise CaffeError(f"layer '{self.name}' ({self.type_name}): {message}")

    def check(self, condition: bool, message: str) -> None:
        """fail(message) unless the condition holds."""
        if not condition:
            self.fail(message)

    def extra_repr(self) -> str:
        return repr(self.name)


class Source(Layer):
    """A layer that hands out batches: it is not part of the computed graph."""

    bottoms = exactly(0)

    def initial_tops(self) -> list[Tensor]:
        """What the tops hold before the first batch, if not zeros."""
        return []

    def next_batch(self) -> list[Tensor | None]:
        """One tensor for each top, on context.device; None leaves the blob as it is (Input, constants)."""
        raise NotImplementedError

    def forward(self) -> tuple[Tensor | None, ...]:
        return tuple(self.next_batch())

    def state(self) -> dict[str, int]:
        """All that a resumed run needs to hand out the same batches: the position after the last batch taken."""
        return {}

    def load_state(self, state: dict[str, int]) -> None:
        """Continue from what state() returned."""

    def close(self) -> None:
        """Stop threads and close files."""


_REGISTRY: dict[str, type[Layer]] = {}


def register(type_name: str) -> Callable[[type[Layer]], type[Layer]]:
    """Class decorator: this class is the layer type `type_name`. A second one of that name is an error."""

    def add(cls: type[Layer]) -> type[Layer]:
        if type_name in _REGISTRY:
            raise CaffeError(f"Layer type {type_name} already registered.")
        cls.type_name = type_name
        _REGISTRY[type_name] = cls
        return cls

    return add


def layer_types() -> dict[str, type[Layer]]:
    """All registered types in byte order of their names."""
    return dict(sorted(_REGISTRY.items()))


def create(param: Any, context: Context) -> Layer:
    """The layer that `param` (LayerParameter) describes (LayerRegistry::CreateLayer)."""
    context.info("layer_factory.hpp:77", f"Creating layer {param.name}")
    cls = _REGISTRY.get(param.type)
    if cls is None:
        raise CaffeError(
            f"layer '{param.name}': Unknown layer type: {param.type} (known types: {', '.join(layer_types())})"
        )
    return cls(param, context)


def format_shape(shape: Shape) -> str:
    """`64 1 28 28 (50176)`, as Blob::shape_string."""
    return " ".join(map(str, shape)) + (" " if shape else "") + f"({math.prod(shape)})"

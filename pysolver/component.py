"""What a LayerParameter describes: a Layer, which computes, or a Source, which hands out batches.

This is what both declare and share, and how a net finds either by its Caffe type name. Layers are in pysolver.layers,
sources in pysolver.data.
"""

from __future__ import annotations

import contextlib
import difflib
import math
from collections.abc import Callable, Iterator
from typing import ClassVar, NamedTuple, NoReturn, TypeVar

from torch import nn

from pysolver.blob import Shape
from pysolver.context import Context
from pysolver.errors import CaffeError, OutOfMemory
from pysolver.logs import notices
from pysolver.memory import shortage
from pysolver.proto import caffe_pb2
from pysolver.proto.caffe_pb2 import LayerParameter


class Arity(NamedTuple):
    """How many bottoms or tops a component takes; `most` None is without limit."""

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


class Component:
    """What the net asks of everything that has a LayerParameter. Class variables declare, the net checks them.

    Life: __init__ (opens what it reads), set_up (once, with the bottoms' shapes: checks and blobs), then used as
    often as wanted; top_shapes before each use, since batch and image sizes may change.

    blobs: the learned parameters in Caffe's order, which is the order of snapshots.
    """

    type_name: ClassVar[str] = ""
    bottoms: Arity = exactly(1)
    tops: Arity = exactly(1)
    is_loss: ClassVar[bool] = False  # missing top is created, default loss_weight 1
    allows_in_place: ClassVar[bool] = True
    no_gradient_bottoms: frozenset[int] = frozenset()  # labels, indices: never force_backward
    deviations: ClassVar[str] = ""  # where it differs from Caffe, for the table of layers

    blobs: nn.ParameterList | tuple[nn.Parameter, ...]

    def __init__(self, param: LayerParameter, context: Context) -> None:
        self.param = param
        self.name: str = param.name
        self.phase: int = param.phase
        self.top_count = len(param.top)  # as the prototxt names them: a loss may have one more
        self.context = context

    # ---- what a subclass says -----------------------------------------------------------------------------

    @classmethod
    def chosen(cls, param: LayerParameter, context: Context) -> type[Component]:
        """The class that computes `param`, whose type is this one's."""
        return cls

    def set_up(self, *bottom_shapes: Shape) -> None:
        """Check the parameters against the shapes and add the blobs. Called once."""

    def top_shapes(self, *bottom_shapes: Shape) -> list[Shape]:
        """Shapes of the tops for these bottoms, without data. Raises CaffeError if the bottoms do not fit."""
        raise NotImplementedError

    # ---- what it can use ----------------------------------------------------------------------------------

    @property
    def is_training(self) -> bool:
        return self.phase == caffe_pb2.TRAIN

    def axis(self, axis: int, shape: Shape) -> int:
        """A canonical axis: negative ones count from the end (Blob::CanonicalAxisIndex)."""
        if not -len(shape) <= axis < len(shape):
            self.fail(f"axis {axis} out of range for {len(shape)}-D Blob with shape {format_shape(shape)}")
        return axis % len(shape) if shape else 0

    def fail(self, message: str, item: tuple[int, int] | None = None) -> NoReturn:
        """Raise a CaffeError that names this layer."""
        raise CaffeError(f"layer '{self.name}' ({self.type_name}): {message}", self.name, item) from None

    def check(self, condition: bool, message: str) -> None:
        """fail(message) unless the condition holds."""
        if not condition:
            self.fail(message)

    @contextlib.contextmanager
    def about(self, what: str = "") -> Iterator[None]:
        """A CaffeError of the block names this layer, and then `what`."""
        try:
            yield
        except CaffeError as error:
            self.fail(f"{what}: {error}" if what else str(error))


@contextlib.contextmanager
def naming_layers() -> Iterator[None]:
    """What torch or numpy refuse in a layer's code becomes a CaffeError that names the layer.

    It costs nothing until then: the layer is found in the traceback. A user's Python layer fails as it is.
    """
    try:
        yield
    except CaffeError:
        raise
    except Exception as error:
        layer = _innermost(error)
        if layer is None or layer.type_name == "Python":
            raise
        where = f"layer '{layer.name}' ({layer.type_name})"
        if (short := shortage(error)) is not None:
            raise OutOfMemory(f"{where}: {short}", layer.name) from error
        words = " ".join(str(error).split("\n")[0].split())
        raise CaffeError(f"{where} cannot work on this: {type(error).__name__}: {words}", layer.name) from error


def _innermost(error: BaseException) -> Component | None:
    found, frame = None, error.__traceback__
    while frame is not None:
        own = frame.tb_frame.f_locals.get("self")
        found = own if isinstance(own, Component) else found
        frame = frame.tb_next
    return found


_Kind = TypeVar("_Kind", bound=type[Component])
_REGISTRY: dict[str, type[Component]] = {}


def register(type_name: str) -> Callable[[_Kind], _Kind]:
    """Class decorator: this class is the layer type `type_name`. A second one of that name is an error."""

    def add(cls: _Kind) -> _Kind:
        if type_name in _REGISTRY:
            raise CaffeError(f"Layer type {type_name} already registered.")
        cls.type_name = type_name
        _REGISTRY[type_name] = cls
        return cls

    return add


def layer_types() -> dict[str, type[Component]]:
    """All registered types, sources too, in byte order of their names."""
    return dict(sorted(_REGISTRY.items()))


def create(param: LayerParameter, context: Context) -> Component:
    """The layer or source that `param` (LayerParameter) describes (LayerRegistry::CreateLayer)."""
    context.emit(notices.MakingLayer(param.name))
    cls = _REGISTRY.get(param.type)
    if cls is None:
        raise CaffeError(f"layer '{param.name}': Unknown layer type: {param.type}{_instead(param.type)}", param.name)
    return cls.chosen(param, context)(param, context)


# What the same is called in other frameworks.
_ELSEWHERE = {
    **dict.fromkeys(("fullyconnected", "dense", "linear", "fc"), "InnerProduct"),
    **dict.fromkeys(("crossentropyloss", "crossentropy", "softmaxcrossentropyloss", "softmaxloss"), "SoftmaxWithLoss"),
    **dict.fromkeys(("bceloss", "bcewithlogitsloss"), "SigmoidCrossEntropyLoss"),
    **dict.fromkeys(("mse", "mseloss", "l2loss"), "EuclideanLoss"),
    **dict.fromkeys(("maxpool", "avgpool", "maxpool2d", "avgpool2d", "maxpooling", "averagepooling"), "Pooling"),
    **dict.fromkeys(("conv2d", "conv2", "convolution2d"), "Convolution"),
    **dict.fromkeys(("convtranspose2d", "convtranspose", "transposedconvolution"), "Deconvolution"),
    **dict.fromkeys(("add", "mul", "elementwise"), "Eltwise"),
    **dict.fromkeys(("batchnormalization", "batchnorm2d"), "BatchNorm"),
    **dict.fromkeys(("leakyrelu",), "ReLU"),
    **dict.fromkeys(("concatenate",), "Concat"),
}


def _instead(type_name: str) -> str:
    """`; did you mean 'Convolution'?`, or all that there is."""
    if not type_name:
        return "(none): a layer needs a type"
    known = {name.lower(): name for name in layer_types()}
    plain = type_name.lower().replace("_", "")
    if elsewhere := _ELSEWHERE.get(plain):
        return f"; did you mean '{elsewhere}'?"
    near = difflib.get_close_matches(plain, known, 2, 0.75) or [
        name for name in known if len(plain) > 2 and (name.startswith(plain) or plain.startswith(name))
    ]
    if near:
        return f"; did you mean {' or '.join(repr(known[name]) for name in near[:2])}?"
    return f" (known types: {', '.join(layer_types())})"


def format_shape(shape: Shape) -> str:
    """`64 1 28 28 (50176)`, as Blob::shape_string."""
    return " ".join(map(str, shape)) + (" " if shape else "") + f"({math.prod(shape)})"

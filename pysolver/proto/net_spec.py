"""Nets written in Python: `L.Convolution(n.data, num_output=20)` instead of prototxt.

    n = NetSpec()
    n.data = L.Input(shape=dict(dim=[1, 3, 224, 224]))
    n.conv = L.Convolution(n.data, num_output=64, kernel_size=3, weight_filler=dict(type="xavier"))
    n.relu = L.ReLU(n.conv, in_place=True)
    n.pool = L.Pooling(n.relu, pool=P.Pooling.MAX, kernel_size=2, stride=2)
    print(n.to_proto())

The language is pycaffe's (python/caffe/net_spec.py).
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message

from pysolver.proto import caffe_pb2
from pysolver.proto.caffe_pb2 import LayerParameter, NetParameter


def _parameter_fields() -> dict[str, str]:
    """Layer type -> field of LayerParameter with its own parameters: {"Convolution": "convolution_param", ...}."""
    fields = caffe_pb2.LayerParameter.DESCRIPTOR.fields
    suffix = "Parameter"
    return {
        field.message_type.name[: -len(suffix)]: field.name
        for field in fields
        if field.name.endswith("_param") and field.message_type.name.endswith(suffix)
    }


_OWN_FIELD = _parameter_fields()


class Top:
    """One output of a layer: what other layers take as bottom. `fn` made it, as its output number `n`."""

    def __init__(self, fn: Function, n: int) -> None:
        self.fn = fn
        self.n = n

    def to_proto(self) -> NetParameter:
        """NetParameter of this top and all that it needs."""
        return to_proto(self)


class Function:
    """One layer: its type, its bottoms (Tops) and its parameters, not yet named."""

    def __init__(self, type_name: str, inputs: tuple[Top, ...], params: dict[str, Any]) -> None:
        for index, bottom in enumerate(inputs):
            if not isinstance(bottom, Top):
                raise TypeError(f"{type_name} input {index} is not a Top (type is {type(bottom)})")
        self.type_name = type_name
        self.inputs = inputs
        self.params = dict(params)
        self.ntop = self.params.pop("ntop", 1)
        self.in_place = self.params.pop("in_place", False)
        self.tops = tuple(Top(self, n) for n in range(self.ntop))

    def to_proto(self) -> NetParameter:
        """NetParameter of this layer and all that it needs."""
        return to_proto(self)

    def layer(self, name: str, bottoms: list[str], tops: list[str]) -> LayerParameter:
        """LayerParameter under the given names."""
        layer = caffe_pb2.LayerParameter(name=name, type=self.type_name, bottom=bottoms, top=tops)
        for key, value in self.params.items():
            _assign(self._message_for(layer, key), key, value)
        return layer

    def _message_for(self, layer: LayerParameter, key: str) -> Message:
        """Where a parameter belongs: in the type's own message if that has such a field, else in the layer."""
        own = _OWN_FIELD.get(self.type_name)
        if key.endswith("param") or own is None or key not in getattr(layer, own).DESCRIPTOR.fields_by_name:
            return layer
        return getattr(layer, own)


def _assign(message: Message, key: str, value: Any) -> None:
    """Set a field from plain Python: dicts are messages, a single value of a repeated field is a list of one."""
    field = message.DESCRIPTOR.fields_by_name.get(key)
    if field is None:
        raise AttributeError(f"{message.DESCRIPTOR.name} has no field '{key}'")
    target = getattr(message, key)
    if hasattr(target, "extend"):
        for item in value if _is_list(value) else [value]:
            if field.message_type is None:
                target.append(item)
            else:
                _fill(target.add(), item)
    elif field.message_type is not None:
        target.SetInParent()
        _fill(target, value)
    else:
        setattr(message, key, value)


def _fill(message: Message, value: Any) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _assign(message, key, item)
    else:
        message.CopyFrom(value)


def _is_list(value: Any) -> bool:
    return hasattr(value, "__len__") and not isinstance(value, (str, bytes, dict))


class _Writer:
    """Names the layers of a spec and writes each once, after the layers that it takes from."""

    def __init__(self, names: dict[Top | Function, str]) -> None:
        self.names = names
        self.used: Counter[str] = Counter()
        self.layers: dict[Function, LayerParameter] = OrderedDict()

    def add(self, item: Top | Function) -> None:
        fn = item.fn if isinstance(item, Top) else item
        if fn in self.layers:
            return
        for bottom in fn.inputs:
            self.add(bottom)
        bottoms = [self.layers[bottom.fn].top[bottom.n] for bottom in fn.inputs]
        tops = list(bottoms) if fn.in_place else [self.name(top, fn) for top in fn.tops]
        name = self.name(fn.tops[0] if fn.tops and fn not in self.names else fn, fn)
        self.layers[fn] = fn.layer(name, bottoms, tops)

    def name(self, item: Top | Function, fn: Function) -> str:
        """The given name, or the type with a counter."""
        if item not in self.names:
            self.used[fn.type_name] += 1
            self.names[item] = f"{fn.type_name}{self.used[fn.type_name]}"
        return self.names[item]


def _net(items: list[Top | Function], names: dict[Top | Function, str]) -> NetParameter:
    writer = _Writer(names)
    for item in items:
        writer.add(item)
    return caffe_pb2.NetParameter(layer=list(writer.layers.values()))


def to_proto(*tops: Top | Function) -> NetParameter:
    """NetParameter of these tops and all that they need; layers are named after their types."""
    return _net(list(tops), {})


class NetSpec:
    """A net under construction: its attributes (or items) name the tops."""

    def __init__(self) -> None:
        super().__setattr__("tops", OrderedDict())

    def __setattr__(self, name: str, value: Top | Function) -> None:
        self.tops[name] = value

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["tops"][name]
        except KeyError:
            raise AttributeError(f"this NetSpec has no top '{name}'") from None

    def __setitem__(self, name: str, value: Top | Function) -> None:
        self.tops[name] = value

    def __getitem__(self, name: str) -> Any:
        return self.tops[name]

    def __delattr__(self, name: str) -> None:
        self.__delitem__(name)

    def __delitem__(self, name: str) -> None:
        del self.tops[name]

    def to_proto(self) -> NetParameter:
        """NetParameter with a layer for everything assigned, in that order, inputs first."""
        return _net(list(self.tops.values()), {top: name for name, top in self.tops.items()})


class _Layers:
    """`layers.Type(*bottoms, ntop=1, in_place=False, **params)`: a Top, a tuple of them, or (ntop=0) the Function."""

    def __getattr__(self, type_name: str) -> Callable[..., Any]:
        if type_name.startswith("__"):
            raise AttributeError(type_name)

        def layer(*bottoms: Top, **params: Any) -> Any:
            fn = Function(type_name, bottoms, params)
            if fn.ntop == 0:
                return fn
            return fn.tops[0] if fn.ntop == 1 else fn.tops

        return layer


class _Enums:
    """`params.Pooling.MAX`: an enum value of PoolingParameter."""

    def __getattr__(self, name: str) -> Any:
        message = getattr(caffe_pb2, name + "Parameter", None)
        if message is None:
            raise AttributeError(f"there is no message {name}Parameter")
        return message


layers = _Layers()
params = _Enums()

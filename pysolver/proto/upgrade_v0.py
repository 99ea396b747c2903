"""Nets of 2013, `layers { layer { type: "conv" } }`, to those of 2014. Caffe: src/caffe/util/upgrade_proto.cpp."""

from __future__ import annotations

from pysolver.errors import CaffeError
from pysolver.logs import notices
from pysolver.logs.events import Emit
from pysolver.proto.caffe_pb2 import NetParameter, V0LayerParameter, V1LayerParameter

TYPES = {
    "accuracy": "ACCURACY",
    "bnll": "BNLL",
    "concat": "CONCAT",
    "conv": "CONVOLUTION",
    "data": "DATA",
    "dropout": "DROPOUT",
    "euclidean_loss": "EUCLIDEAN_LOSS",
    "flatten": "FLATTEN",
    "hdf5_data": "HDF5_DATA",
    "hdf5_output": "HDF5_OUTPUT",
    "im2col": "IM2COL",
    "images": "IMAGE_DATA",
    "infogain_loss": "INFOGAIN_LOSS",
    "innerproduct": "INNER_PRODUCT",
    "lrn": "LRN",
    "multinomial_logistic_loss": "MULTINOMIAL_LOGISTIC_LOSS",
    "pool": "POOLING",
    "relu": "RELU",
    "sigmoid": "SIGMOID",
    "softmax": "SOFTMAX",
    "softmax_loss": "SOFTMAX_LOSS",
    "split": "SPLIT",
    "tanh": "TANH",
    "window_data": "WINDOW_DATA",
}

# V0 field: its name in the parameters of a V1 layer, the types that have it. In the order of Caffe's messages.
_FIELDS = {
    "num_output": ("num_output", "conv innerproduct"),
    "biasterm": ("bias_term", "conv innerproduct"),
    "weight_filler": ("weight_filler", "conv innerproduct"),
    "bias_filler": ("bias_filler", "conv innerproduct"),
    "pad": ("pad", "conv pool"),
    "kernelsize": ("kernel_size", "conv pool"),
    "group": ("group", "conv"),
    "stride": ("stride", "conv pool"),
    "pool": ("pool", "pool"),
    "dropout_ratio": ("dropout_ratio", "dropout"),
    "local_size": ("local_size", "lrn"),
    "alpha": ("alpha", "lrn"),
    "beta": ("beta", "lrn"),
    "k": ("k", "lrn"),
    "source": ("source", "data hdf5_data images window_data infogain_loss"),
    "batchsize": ("batch_size", "data hdf5_data images window_data"),
    "rand_skip": ("rand_skip", "data images"),
    "shuffle_images": ("shuffle", "images"),
    "new_height": ("new_height", "images"),
    "new_width": ("new_width", "images"),
    "concat_dim": ("concat_dim", "concat"),
    "det_fg_threshold": ("fg_threshold", "window_data"),
    "det_bg_threshold": ("bg_threshold", "window_data"),
    "det_fg_fraction": ("fg_fraction", "window_data"),
    "det_context_pad": ("context_pad", "window_data"),
    "det_crop_mode": ("crop_mode", "window_data"),
    "hdf5_output_param": (None, "hdf5_output"),
}
_TRANSFORM = {"scale": "scale", "meanfile": "mean_file", "cropsize": "crop_size", "mirror": "mirror"}


def needed(net: NetParameter) -> bool:
    """Is any layer of this kind?"""
    return any(layer.HasField("layer") for layer in net.layers)


def upgrade(net: NetParameter, source: str, emit: Emit) -> tuple[NetParameter, bool]:
    """The net with V1 layers, and whether every field had a place; those that had none are named by E lines.

    CaffeError for an unknown type, an unknown bottom, and padding that goes anywhere but into a conv or pool layer.
    """
    upgraded = NetParameter(input=net.input, input_dim=net.input_dim)
    for field in ("name", "force_backward"):
        if net.HasField(field):
            setattr(upgraded, field, getattr(net, field))
    clean = True
    for layer in _without_padding_layers(net, source):
        clean &= _upgrade_layer(layer, upgraded.layers.add(), source, emit)
    return upgraded, clean


def _without_padding_layers(net: NetParameter, source: str) -> list[V1LayerParameter]:
    """The layers but the padding ones, whose pad and bottom go to the conv or pool layer behind them."""
    producer: dict[str, V1LayerParameter | None] = dict.fromkeys(net.input)
    kept = []
    for old in net.layers:
        layer = V1LayerParameter()
        layer.CopyFrom(old)
        name = f"{source}: layer '{layer.layer.name}'"
        for index, bottom in enumerate(old.bottom):
            if bottom not in producer:
                raise CaffeError(f"{name}: unknown bottom blob '{bottom}'")
            padding = producer[bottom]
            if padding is None or padding.layer.type != "padding":
                continue
            if layer.layer.type not in ("conv", "pool"):
                raise CaffeError(f"{name}: padding goes into a conv or pool layer, not into '{layer.layer.type}'")
            if not len(old.bottom) == len(padding.bottom) == len(padding.top) == 1:
                raise CaffeError(f"{name}: it and the padding layer before it must have one bottom and one top each")
            layer.layer.pad = padding.layer.pad
            layer.bottom[index] = padding.bottom[0]
        if layer.layer.type != "padding":
            kept.append(layer)
        producer.update(dict.fromkeys(old.top, old))
    return kept


def _upgrade_layer(connection: V1LayerParameter, new: V1LayerParameter, source: str, emit: Emit) -> bool:
    old: V0LayerParameter = connection.layer
    new.bottom.extend(connection.bottom)
    new.top.extend(connection.top)
    if old.HasField("name"):
        new.name = old.name
    if old.HasField("type"):
        if old.type not in TYPES:
            raise CaffeError(f"{source}: layer '{old.name}': unknown type '{old.type}'; known: {', '.join(TYPES)}")
        new.type = V1LayerParameter.LayerType.Value(TYPES[old.type])  # type: ignore[assignment]  # a number is one
    new.blobs.extend(old.blobs)
    new.blobs_lr.extend(old.blobs_lr)
    new.weight_decay.extend(old.weight_decay)
    for field, name in _TRANSFORM.items():
        if old.HasField(field):
            setattr(new.transform_param, name, getattr(old, field))
    clean = True
    for field, (name, types) in _FIELDS.items():
        if not old.HasField(field):
            continue
        if old.type in types.split():
            _put(getattr(old, field), new, f"{TYPES[old.type].lower()}_param", name)
        else:
            label = "shuffle" if field == "shuffle_images" else field
            emit(notices.UnknownV0Parameter(label, old.type))
            clean = False
    return clean


def _put(value: object, layer: V1LayerParameter, parameter: str, name: str | None) -> None:
    target = getattr(layer, parameter)
    if name is None:  # hdf5_output_param, a message as it is
        target.CopyFrom(value)
        return
    field = target.DESCRIPTOR.fields_by_name[name]
    if field.message_type:
        getattr(target, name).CopyFrom(value)
    elif field.is_repeated:  # pad, kernel_size and stride of a convolution
        getattr(target, name).append(value)
    else:
        setattr(target, name, value)

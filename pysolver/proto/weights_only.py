"""Caffemodels whose settings have numbers that another fork gives to something else: names, types and blobs decide."""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from pysolver.proto.caffe_pb2 import DESCRIPTOR, NetParameter

# The fields that mean the same in every fork.
_KEPT = {
    "NetParameter": ("name", "layer", "layers"),
    "LayerParameter": ("name", "type", "blobs"),
    "V1LayerParameter": ("name", "blobs"),
    "BlobProto": None,
    "BlobShape": None,
}


@cache
def _reduced() -> type[Message]:
    file, whole = descriptor_pb2.FileDescriptorProto(), descriptor_pb2.FileDescriptorProto()
    DESCRIPTOR.CopyToProto(whole)
    file.name, file.package = "weights_only.proto", whole.package
    file.enum_type.extend(enum for enum in whole.enum_type if enum.name == "Type")
    for message in whole.message_type:
        if message.name in _KEPT:
            kept, copy = _KEPT[message.name], file.message_type.add(name=message.name)
            copy.field.extend(field for field in message.field if kept is None or field.name in kept)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("caffe.NetParameter"))


def parse(data: bytes) -> NetParameter | None:
    """The layers of a caffemodel with their names and blobs and nothing else; None if there are no blobs either."""
    try:
        reduced = _reduced().FromString(data)
        reduced.DiscardUnknownFields()
        net = NetParameter.FromString(reduced.SerializeToString())
    except DecodeError:
        return None
    layers: list[Any] = [*net.layer, *net.layers]
    return net if any(layer.blobs for layer in layers) else None

"""Caffe's messages and enums, as pycaffe's module of this name has them.

They live in a descriptor pool of their own, so that another project's caffe_pb2 (pycaffe, an ONNX converter) can be
imported in the same process: the default pool refuses a second file that defines package caffe.
"""

from __future__ import annotations

from pathlib import Path

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

_COMPILED = Path(__file__).with_name("caffe.desc")


def _load():
    try:
        files = descriptor_pb2.FileDescriptorSet.FromString(_COMPILED.read_bytes())
    except FileNotFoundError:
        raise ImportError(
            f"{_COMPILED} is missing: it is compiled from proto/caffe.proto when pysolver is installed. "
            "In a checkout, run: pip install -e .  (or: python setup.py build_schema)"
        ) from None
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return pool.FindFileByName("caffe.proto")


DESCRIPTOR = _load()

for _name, _descriptor in DESCRIPTOR.message_types_by_name.items():
    globals()[_name] = message_factory.GetMessageClass(_descriptor)
for _name, _descriptor in DESCRIPTOR.enum_types_by_name.items():
    globals()[_name] = EnumTypeWrapper(_descriptor)
    globals().update(EnumTypeWrapper(_descriptor).items())

"""caffe.net_spec: nets written in Python. The language itself is pysolver.proto.net_spec."""

from __future__ import annotations

from pysolver.proto.net_spec import Function, NetSpec, Top, layers, params, to_proto

__all__ = ["Function", "NetSpec", "Top", "layers", "params", "to_proto"]

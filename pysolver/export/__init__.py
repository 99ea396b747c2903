"""Out of Caffe: nets as ONNX models and as plain PyTorch modules.

pysolver.export.to_onnx(net) -> onnx.ModelProto
pysolver.export.to_torch(net) -> torch.nn.Module, with nothing of pysolver inside
"""

from __future__ import annotations

from pysolver.export.convert import to_onnx
from pysolver.export.module import to_torch

__all__ = ["to_onnx", "to_torch"]

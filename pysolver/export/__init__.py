"""Out of Caffe: nets as ONNX models and as plain PyTorch modules.

pysolver.export.to_onnx(net) -> onnx.ModelProto
pysolver.export.to_torch(net) -> torch.nn.Module, with nothing of pysolver inside
"""

from __future__ import annotations

from pysolver.export.convert import to_onnx

__all__ = ["to_onnx"]

"""debug_info: passes that go layer by layer and tell the mean absolute value of every blob (src/caffe/net.cpp)."""

from __future__ import annotations

import torch
from torch import Tensor

from pysolver.logs import events as e
from pysolver.net.net import Net
from pysolver.solver.nets import Emit


def forward(net: Net, emit: Emit) -> Tensor:
    """A forward pass with its [Forward] lines; the 0-d loss."""
    loss = 0.0
    for index, node in enumerate(net.nodes):
        loss += net.forward(index, index)
        for name, blob in zip(node.top_names, node.tops):
            emit(e.DebugBlob("Forward", node.layer.name, "top", name, "data", _mean(blob.value)))
        specs = node.layer.param.param
        for number, parameter in enumerate(node.layer.blobs):
            name = specs[number].name if number < len(specs) else ""
            emit(e.DebugBlob("Forward", node.layer.name, "param", name or str(number), "data", _mean(parameter)))
    return torch.tensor(loss, device=net.context.device)


def backward(net: Net, emit: Emit) -> None:
    """A backward pass with its [Backward] lines: bottoms and parameters that get a gradient, then all parameters."""
    for index, node in reversed(list(enumerate(net.nodes))):
        if not node.needs_backward:
            continue
        net.backward(index, index)
        for name, blob, need in zip(node.bottom_names, node.bottoms, node.bottom_need):
            if need:
                emit(e.DebugBlob("Backward", node.layer.name, "bottom", name, "diff", _mean(blob.gradient)))
        for number, parameter in enumerate(node.layer.blobs):
            if parameter.requires_grad:
                emit(e.DebugBlob("Backward", node.layer.name, "param", str(number), "diff", _mean(parameter.grad)))
    data = [parameter.detach() for parameter in net.learnable_params]
    diff = [parameter.grad for parameter in net.learnable_params]
    emit(e.DebugTotals(_norm(data, 1), _norm(diff, 1), _norm(data, 2), _norm(diff, 2)))


def _mean(values: Tensor) -> float:
    return float(values.detach().abs().sum() / max(1, values.numel()))


def _norm(tensors: list[Tensor], order: int) -> float:
    if not tensors:
        return 0.0
    return float(torch.stack(torch._foreach_norm(tensors, order)).norm(order))

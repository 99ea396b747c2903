"""Nets as plain PyTorch modules, and their weights back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import pysolver.export.torch  # noqa: F401  registers the layer types
from pysolver.errors import CaffeError
from pysolver.export.program import Program, array_of, program_of
from pysolver.export.torch.source import Binding, Source, text_of, write_source
from pysolver.files import seems_to_be, write_together
from pysolver.net.net import Net


@dataclass
class TorchForm:
    """A net as a Python file (text) and the tensors of its state_dict."""

    program: Program
    source: Source
    text: str
    tensors: dict[str, Tensor]

    def build(self) -> nn.Module:
        """The module with its weights, in eval mode. It uses torch only."""
        module = _run(self.text, self.source.name)
        module.load_state_dict(self.tensors)
        return module.eval()


def torch_form(net: Net, origin: str = "a net of Caffe", weights: str = "net.safetensors") -> TorchForm:
    """The deploy form of a net in PyTorch. Errors: a layer without a plain PyTorch form, with the reason."""
    program = program_of(getattr(net, "core", net))
    source = write_source(program)
    text = text_of(source, program, origin, weights)
    tensors = {binding.key: _to_torch(binding) for binding in source.bindings}
    tensors.update((name, tensor.detach().cpu()) for name, tensor in source.constants.items())
    with torch.device("meta"):
        state = _run(text, source.name).state_dict()
    for key, tensor in state.items():  # a BatchNorm counts its batches; Caffe does not
        known = tensors.get(key, torch.zeros(tensor.shape, dtype=tensor.dtype))
        tensors[key] = known.reshape(tensor.shape)
    return TorchForm(program, source, text, tensors)


def _run(text: str, name: str) -> nn.Module:
    """The module that the Python file makes."""
    scope: dict[str, Any] = {"__name__": "exported"}
    exec(compile(text, f"<{name}>", "exec"), scope)
    return scope[name]()


def to_torch(net: Net) -> nn.Module:
    """The deploy form of a net as a plain nn.Module in eval mode: torch's own modules, named as Caffe's layers.

    net: a pysolver or pycaffe net; it is not changed and shares no memory. Losses and accuracies leave (see
    pysolver.export.program). Dropout and BatchNorm train as torch's do. Errors (CaffeError): see torch_form.
    """
    return torch_form(net).build()


def save_torch(form: TorchForm, code: str | Path, weights: str | Path) -> None:
    """Write the Python file and the safetensors file, both whole or neither."""
    from pysolver.extras import require

    arrays = {key: np.ascontiguousarray(tensor.numpy()) for key, tensor in form.tensors.items()}
    write_together({weights: require("safetensors.numpy").save(arrays), code: form.text.encode()})


def load_back(form: TorchForm, path: str | Path) -> None:
    """Put the tensors of a safetensors file into the net whose form this is.

    Errors: a tensor that the exported net does not have, one that is missing, one of another shape; nothing is
    copied then.
    """
    given = _read_tensors(path)
    wanted = {key: tensor.shape for key, tensor in form.tensors.items() if not key.endswith("num_batches_tracked")}
    given = {key: tensor for key, tensor in given.items() if not key.endswith("num_batches_tracked")}
    if missing := [key for key in wanted if key not in given]:
        raise CaffeError(f"{path}: lacks {_some(missing)}: it is not of the module that this net exports to")
    if unknown := [key for key in given if key not in wanted]:
        raise CaffeError(f"{path}: has {_some(unknown)}, which the module that this net exports to has not")
    for key, shape in wanted.items():
        if given[key].shape != shape:
            raise CaffeError(f"{path}: {key} has the shape {list(given[key].shape)}, the net needs {list(shape)}")
    for binding in form.source.bindings:
        _to_caffe(binding, given[binding.key])


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _read_tensors(path: str | Path) -> dict[str, Tensor]:
    from pysolver.extras import require

    if not Path(path).is_file():
        raise CaffeError(f"{path}: file not found")
    torch_files = require("safetensors.torch")
    try:
        return torch_files.load_file(str(path))
    except Exception as error:  # safetensors' own, a ValueError ...: whatever the file is, it is not that
        with open(path, "rb") as file:
            seems = seems_to_be(file.read(4096))
        raise CaffeError(f"{path}: not a safetensors file: {error}{seems}") from None


def _to_torch(binding: Binding) -> Tensor:
    blob = array_of(binding.layer.blobs[binding.index])
    if binding.kind == "statistic":
        weight = float(array_of(binding.layer.blobs[2]))
        return blob * (1 / weight if weight else 0)
    return blob.t().clone() if binding.kind == "transposed" else blob.clone()


def _to_caffe(binding: Binding, value: Tensor) -> None:
    blob = binding.layer.blobs[binding.index]
    value = value.to(torch.float32)
    if binding.kind == "transposed":
        value = value.t()
    if binding.kind == "statistic":  # a sum of weight 1
        binding.layer.blobs[2].data.fill_(1)
    blob.data.copy_(value.reshape(blob.shape))

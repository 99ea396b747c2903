"""A program computed by pysolver's own layers: what an exported model must equal."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from pysolver.export.program import HEADS, Program, Step
from pysolver.layers.recurrent import Recurrent


@torch.no_grad()
def compute(program: Program, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs by name, for arrays in the shapes of the program's inputs. What layers carry on stays as it is."""
    carried = [(step.layer, step.layer.state()) for step in program.steps if isinstance(step.layer, Recurrent)]
    device = next((blob.device for step in program.steps for blob in step.layer.blobs), torch.device("cpu"))
    values = {value: value.constant.to(device) for value in program.constants}
    values.update((value, torch.tensor(inputs[value.name], device=device)) for value in program.inputs)
    for step in program.steps:
        tops = _forward(step, [values[value] for value in step.inputs])
        values.update(zip(step.outputs, tops, strict=True))
    for layer, state in carried:
        layer.load_state(state)
    return {value.name: values[value].cpu().numpy() for value in program.outputs}


def _forward(step: Step, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    head = HEADS.get(step.layer.type_name)
    if head == "Softmax":
        return (torch.softmax(inputs[0], step.layer.class_axis),)
    if head == "Sigmoid":
        return (torch.sigmoid(inputs[0]),)
    if step.layer.type_name == "MarginInnerProduct":
        return (inputs[0].flatten(1) @ step.layer.unit_rows().T,)
    tops = step.layer(*inputs)
    return tuple(tops) if isinstance(tops, (tuple, list)) else (tops,)

"""Nets drawn at random: ONNX Runtime, folded or not, for two batches, several opsets; PyTorch; beside pysolver."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from pysolver.errors import CaffeError
from pysolver.export import to_onnx, to_torch
from pysolver.export.check import random_inputs
from pysolver.export.program import program_of
from pysolver.export.reference import compute

DATA = """layer { name: 'in' type: 'Input' top: 'data' top: 'other'
                  input_param { shape { dim: 2 dim: 4 dim: 9 dim: 8 } shape { dim: 2 dim: 4 dim: 9 dim: 8 } } }"""
IN_PLACE = ("ReLU", "ELU", "Sigmoid", "Dropout", "PReLU", "BatchNorm", "Scale", "Bias", "Power")
CHOICES = {  # type -> its parameters, one of which is drawn
    "Convolution": [f"convolution_param {{ num_output: 4 kernel_size: 3 {more} }}"
                    for more in ("", "pad: 1 stride: 2", "dilation: 2 pad: 2", "group: 2 bias_term: false")],
    "Deconvolution": [f"convolution_param {{ num_output: 4 kernel_size: 3 {more} }}"
                      for more in ("stride: 2", "pad: 1 group: 4", "dilation: 2")],
    "Pooling": [f"pooling_param {{ pool: {pool} {window} }}" for pool in ("MAX", "AVE") for window in
                ("kernel_size: 3 stride: 2", "kernel_size: 3 stride: 2 pad: 1", "kernel_size: 2 stride: 3 pad: 1",
                 "kernel_size: 1 stride: 2", "global_pooling: true")],
    "LRN": ["lrn_param { local_size: 3 alpha: 0.5 }", "lrn_param { local_size: 3 norm_region: WITHIN_CHANNEL }"],
    "BatchNorm": ["", "batch_norm_param { use_global_stats: false }"],
    "Scale": ["scale_param { bias_term: true }", "scale_param { axis: -1 }"],
    "Bias": [""],
    "InnerProduct": ["inner_product_param { num_output: 4 }", "inner_product_param { num_output: 3 axis: -1 }",
                     "inner_product_param { num_output: 3 transpose: true bias_term: false }"],
    "PReLU": ["", "prelu_param { channel_shared: true }"],
    "ReLU": ["", "relu_param { negative_slope: 0.1 }"],
    "Power": ["power_param { scale: 0.5 shift: 1 }", "power_param { power: 2 }"],
    "MVN": ["", "mvn_param { across_channels: true normalize_variance: false }"],
    "Reduction": ["reduction_param { operation: SUMSQ axis: 1 }", "reduction_param { operation: MEAN axis: -1 }"],
    "SPP": ["spp_param { pyramid_height: 2 }"],
    "Im2col": ["convolution_param { kernel_size: 2 pad: 1 }"],
    "Tile": ["tile_param { tiles: 2 }"],
    "Flip": ["", "flip_param { flip_height: true }"],
    "Reshape": ["reshape_param { shape { dim: 0 dim: -1 } }", "reshape_param { axis: 1 shape { dim: -1 dim: 1 } }"],
    "Eltwise": ["", "eltwise_param { operation: MAX }", "eltwise_param { coeff: 0.5 coeff: -1 }"],
    "Concat": ["", "concat_param { axis: -1 }"],
    **dict.fromkeys(("ELU", "Sigmoid", "TanH", "AbsVal", "BNLL", "Softmax", "Flatten", "Dropout"), [""]),
    "Normalize": ["norm_param { }", "", "normalize_param { normalize_type: 'L1' }"],
}  # fmt: skip


def grown(draw: random.Random, net_of):
    """A net of up to seven layers: each reads one or two of the last blobs; those that do not fit are left out."""
    text, blobs, net = DATA, ["data", "other"], None
    for number in range(draw.randint(2, 7)):
        kind = draw.choice(list(CHOICES))
        bottoms = [draw.choice(blobs[-3:]) for _ in range(2 if kind in ("Eltwise", "Concat") else 1)]
        is_in_place = kind in IN_PLACE and bottoms[0] not in ("data", "other") and draw.random() < 0.5
        top = bottoms[0] if is_in_place else f"b{number}"
        ends = " ".join([*(f"bottom: '{name}'" for name in bottoms), f"top: '{top}'"])
        longer = f"{text}\nlayer {{ name: 'l{number}' type: '{kind}' {ends} {draw.choice(CHOICES[kind])} }}"
        try:
            net = net_of(longer)
        except CaffeError:
            continue
        text = longer
        if not is_in_place:
            blobs.append(top)
    return text, net_of(text) if net else None


def assert_close(found: np.ndarray, expected: np.ndarray, about: str) -> None:
    """Within what --check allows: 1e-4 of the largest number."""
    assert found.shape == expected.shape, about
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max(initial=1e-3), err_msg=about)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(60))
def test_random_nets(seed, net_of, run):
    draw = random.Random(seed)
    text, net = grown(draw, net_of)
    if net is None or not any(step.outputs for step in program_of(net.core).steps):
        pytest.skip("no layer fits")
    for batch in (None, 3):
        try:
            program = program_of(net.core, batch)
            options = {"folded": draw.random() < 0.5, "opset": draw.choice([13, 17, 18, 21, 24])}
            model = to_onnx(net, batch="dynamic" if batch else None, **options)
        except CaffeError:
            assert batch, text  # not every net goes with another batch
            continue
        inputs = random_inputs(program)
        expected = compute(program, inputs)
        found = run(model, **inputs)
        for name, right in expected.items():
            assert_close(found[name], right, text)
        if batch is None:
            _compare_torch(net, inputs, expected, text)


def _compare_torch(net, inputs, expected, text: str) -> None:
    try:
        module = to_torch(net)
    except CaffeError as error:
        assert "torch has no convolution over 0 axes" in str(error), text
        return
    with torch.no_grad():
        tops = module(*map(torch.from_numpy, inputs.values()))
    for top, right in zip(tops if isinstance(tops, tuple) else (tops,), expected.values(), strict=True):
        assert_close(top.numpy(), right, text)

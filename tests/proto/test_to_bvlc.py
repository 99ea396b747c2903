"""`--to bvlc`: BVLC's own schema reads the result, and the net computes what it computed before."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from pysolver.net.net import Net
from pysolver.proto import to_bvlc, upgrade_files
from pysolver.proto.caffe_pb2 import NetParameter
from pysolver.proto.text import parse_text, to_text

NET = """
default_forward_type: FLOAT16
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }
layer { name: "conv" type: "DepthwiseConvolution" bottom: "x" top: "conv"
        convolution_param { num_output: 6 kernel_size: 3 group: 3 relu: true negative_slope: 0.1 engine: MKL2017
                            weight_filler { type: "gaussian" } bias_filler { type: "gaussian" } } }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool"
        pooling_param { kernel_size: 3 stride: 2 ceil_mode: false } }
layer { name: "norm" type: "BatchNorm" bottom: "pool" top: "norm" param { lr_mult: 1 }
        batch_norm_param { scale_bias: true filler { value: 1 } scale_filler { value: 2 } bias_filler { value: 1 } } }
layer { name: "depthwise" type: "ConvolutionDepthwise" bottom: "norm" top: "depthwise"
        convolution_param { num_output: 6 kernel_size: 1 weight_filler { type: "gaussian" std: 5 } } }
layer { name: "relu6" type: "ReLU6" bottom: "depthwise" top: "relu6" }
"""
FIELDS = Path(__file__).parents[1] / "golden/proto/fields.csv"


def _converted():
    net = parse_text(NET, NetParameter)
    return net, *to_bvlc.convert(net)


def _fields(message):
    for field, value in message.ListFields():
        yield field.containing_type.name, field.name
        for inner in (value if field.is_repeated else [value]) if field.message_type else ():
            yield from _fields(inner)


def test_only_bvlcs_fields_are_left():
    net, taken, left = _converted()
    with open(FIELDS, newline="") as file:
        bvlc = {(row["message"], row["field"]) for row in csv.DictReader(file)}
    assert set(_fields(net)) <= bvlc
    assert taken == {"default_forward_type": 1, "convolution_param.engine": 1, "batch_norm_param.filler": 1}
    assert not left
    kinds = "Input Convolution ReLU Pooling BatchNorm Scale Convolution Clip"
    assert [layer.type for layer in net.layer] == kinds.split()


def test_intels_filler_goes_into_the_scale():
    text = """layer { name: "b" type: "BatchNorm" bottom: "x" top: "b" batch_norm_param { filler { value: 0 } } }
              layer { name: "s" type: "Scale" bottom: "b" top: "s" }"""
    net = parse_text(text, NetParameter)
    assert to_bvlc.convert(net) == ({}, {})
    assert not net.layer[0].batch_norm_param.HasField("filler")
    assert net.layer[1].scale_param.HasField("filler") and net.layer[1].scale_param.filler.value == 0


def test_the_numbers_are_the_same():
    results, x = [], torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    for param in (parse_text(NET, NetParameter), _converted()[0]):
        torch.manual_seed(3)
        param.state.phase = 0
        net = Net(param)
        net.blobs["x"].value = x
        net.forward()
        results.append(net.blobs["relu6"].value.clone())
    assert torch.allclose(*results, rtol=1e-5, atol=1e-6)  # float32, in another order


@pytest.mark.parametrize(
    "layer, missing",
    [
        ('type: "ReLU6" relu6_param { negative_slope: 0.1 }', "type ReLU6"),
        ('type: "Data" transform_param { resize_param { height: 3 width: 3 } }', "transform_param.resize_param"),
    ],
)
def test_what_bvlc_cannot_say_is_named_and_stays(tmp_path, layer, missing):
    source, target = tmp_path / "in.prototxt", tmp_path / "out.prototxt"
    source.write_text(f'layer {{ name: "a" {layer} }}')
    _, left = to_bvlc.convert(parse_text(source.read_text(), NetParameter))
    assert left == {missing: 1}
    assert upgrade_files.upgrade_net_proto_text(source, target, bvlc=True) == 1
    assert target.read_text() == to_text(parse_text(source.read_text(), NetParameter))

"""Nets of Caffes that the schema does not know: read, kept, written, refused when they are built."""

from __future__ import annotations

import pytest

from pysolver.errors import CaffeError
from pysolver.net.net import Net
from pysolver.proto import to_bvlc
from pysolver.proto.caffe_pb2 import LayerParameter, NetParameter
from pysolver.proto.text import parse_text, to_text
from pysolver.proto.upgrade import upgrade_net

KEPT = """layer {
  name: "m"
  type: "LabeledMatching"
  bottom: "x"
  convolution_param {
    num_output: 3
  }
  labeled_matching_param {
    num_classes: 5532
    weight_filler {
      type: 'gaussian'
      value: -1.5e-3
    }
    name: "a\\"b"  "c"
  }
  momentum: 0.5
  sides: 7
  sides: 9
}
"""


def test_a_foreign_layer_is_written_as_it_was():
    compact = KEPT.replace("sides: 7\n  sides: 9", "sides: [7, 9]").replace(
        "labeled_matching_param {", "labeled_matching_param: <"
    )
    compact = compact.replace('"c"\n  }', '"c"; >').replace("momentum: 0.5", "momentum: 0.5 # a comment\n")
    for text in (KEPT.replace('  "c"', ' "c"'), compact):
        net = parse_text(text, NetParameter)
        assert to_text(net) == KEPT.replace('  "c"', ' "c"')
        assert parse_text(to_text(net), NetParameter) == net
    assert len(net.layer[0].foreign_text) == 4
    assert net.layer[0].convolution_param.num_output == 3


def test_it_is_refused_when_it_is_built():
    head = 'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 } } } state { phase: TEST } '
    with pytest.raises(CaffeError, match="layer 'm': Unknown layer type: LabeledMatching"):
        Net(parse_text(head + KEPT, NetParameter))
    known = 'layer { name: "r" type: "ReLU6" bottom: "x" top: "y" bend: 3 curve { a: 1 } }'
    with pytest.raises(CaffeError, match=r"layer 'r' \(ReLU6\): nobody here knows bend, curve: take it out"):
        Net(parse_text(head + known, NetParameter))
    net = parse_text(known, NetParameter)
    _, left = to_bvlc.convert(net)
    assert left == {"bend": 1, "curve": 1}


@pytest.mark.parametrize(
    "text, error",
    [
        ('layer { type: "Convolution" bend: 3 }', "1:29: LayerParameter has no field 'bend'"),
        ('layer { bend: 3 type: "Convolution" }', "1:9: LayerParameter has no field 'bend'"),
        ("layer { bend: 3 curve: 4 }", "1:9: LayerParameter has no field 'bend'"),
        (
            'layer { convolution_param { bend: 3 } type: "Convolution" }',
            "1:29: ConvolutionParameter has no field 'bend'",
        ),
        ('layer { type: "Foo" param { bend: 3 } }', "1:29: ParamSpec has no field 'bend'"),
        ('layer { type: "Foo" bend 3 }', "1:26: expected ':' or '{' after bend, found 3"),
        ('layer { type: "Foo" bend { a: } }', "1:31: expected a value for a"),
        ('layer { type: "Foo" bend: [1 2] }', "1:30: expected ',' or ']', found 2"),
        ('layer { type: "Foo" bend { a: 1', "the brace opened in line 1 is not closed"),
        ('layer { type: "Foo" foreign_text: "a: 1 }" }', None),
        ("layers { type: CONVOLUTOIN }", "1:16: type has no value CONVOLUTOIN"),
        ("layers { type: RELU bend: 3 }", "1:21: V1LayerParameter has no field 'bend'"),
        ("layers { type: RELU present { name: 'a' } }", "1:21: V1LayerParameter has no field 'present'"),
        (
            'layer { type: "Foo"\nlayer { }',
            "2:1: LayerParameter has no field 'layer'; is the '}' missing that closes line 1?",
        ),
        ("bend: 3", "1:1: NetParameter has no field 'bend'"),
        ('layer { type: "Foo" ' + "a { " * 200 + "} " * 200 + "}", "nested more than 100 deep"),
    ],
)
def test_what_stays_an_error(text, error):
    if error is None:  # a name that only the schema has is one more foreign field
        assert to_text(parse_text(text, NetParameter)).count("foreign_text") == 1
        return
    with pytest.raises(CaffeError) as caught:
        parse_text(text, NetParameter)
    assert error in str(caught.value)


def test_a_known_field_with_something_unknown_in_it():
    """It is kept as text as a whole: nobody computes the layer."""
    text = """layer {
  name: "d"
  type: "Affine"
  data_param {
    batch_size: 3
  }
  transform_param {
    mirror: true
    affine_param {
      angle: 30
    }
  }
}
"""
    net = parse_text(text, NetParameter)
    assert to_text(net) == text
    assert net.layer[0].data_param.batch_size == 3 and not net.layer[0].HasField("transform_param")
    late = parse_text(text.replace('  type: "Affine"\n', "").replace("}\n}", '}\n  type: "Affine"\n}'), NetParameter)
    assert late == net


def test_old_layers():
    """A type that only a fork had, with fields of the present form and others; known ones by their present name."""
    text = """layers { name: "d" type: IMAGE_DATA_AFFINE top: "x" image_data_param { batch_size: 3 }
                       affine_param { angle: 30 } blobs_lr: 1 }
              layers { name: "b" type: BN bottom: "x" top: "y" bn_param { slope_filler { value: 2 } } }
              layers { name: "p" type: PRELU bottom: "y" top: "y" prelu_param { filler { value: 0.1 } } }"""
    net = upgrade_net(parse_text(text, NetParameter), "net", lambda event: None)
    assert [layer.type for layer in net.layer] == ["ImageDataAffine", "BN", "PReLU"]
    assert net.layer[0].image_data_param.batch_size == 3 and net.layer[0].param[0].lr_mult == 1
    assert list(net.layer[0].foreign_text) == ["affine_param {\n  angle: 30\n}"]
    assert net.layer[1].bn_param.slope_filler.value == 2
    assert net.layer[2].prelu_param.filler.value == pytest.approx(0.1)


@pytest.mark.parametrize("text", ["a: 1 }", "a: 1\nb: 2", "", "a {\n  b: 1 }", "}"])
def test_a_binary_file_cannot_bring_other_text(text):
    """Else its text form could have layers that the file does not have."""
    with pytest.raises(CaffeError, match="not a field of a prototxt|a field that is kept as text:1"):
        to_text(LayerParameter(foreign_text=[text]))

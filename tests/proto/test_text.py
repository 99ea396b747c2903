"""The text format: forms taken and refused as by C++ protobuf (protoc is the reference), errors, exact printing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import message_factory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pysolver.errors import CaffeError
from pysolver.proto import caffe_pb2
from pysolver.proto.caffe_pb2 import BlobProto, Datum, LayerParameter, NetParameter, SolverParameter, V1LayerParameter
from pysolver.proto.suggestions import is_hidden
from pysolver.proto.text import parse_text, read_text, to_text

ROOT = Path(__file__).parents[2]


def protoc(action: str, kind: type, data: bytes) -> tuple[bool, bytes]:
    """C++ protobuf's own parser (encode) or printer (decode)."""
    command = [sys.executable, "-m", "grpc_tools.protoc", "-Iproto", f"--{action}={kind.DESCRIPTOR.full_name}"]
    run = subprocess.run([*command, "proto/caffe.proto"], input=data, capture_output=True, cwd=ROOT, timeout=60)
    return run.returncode == 0, run.stdout


# Forms


TAKEN = """
# a comment
name : 'single \\' quotes' " and neighbours"  # behind a value
    '\\x41\\101\\u00e9\\U0001F600\\n\\\\\\?'
input_dim: 1 input_dim: 0x1F, input_dim: 017; input_dim: -0x10 input_dim: - 5
input_dim: [1, 2, 3] input_dim: [] input_dim
: 0
force_backward: t
debug_info: 0x1
state < phase: 0 level: -2147483648 stage: ["a", 'b'] >
input_shape: { dim: 9223372036854775807 dim: -9223372036854775808 };
layer [ { name: "x" }, < name: "y" > ]
layer {
  loss_weight: [1, 1., .5, 1.f, 2F, 1e3, 1E-3f, -.5, - 1, inf, -Infinity, NAN, 12345678901234567890, 1e400, 0.0, 0]
  loss_weight: 0.1 propagate_down: [true, True, t, 1, false, False, f, 0]
  pooling_param { pool: AVE pad: 4294967295 kernel_size: 0X2 } include: { phase: 1 }
  clip_param { min: 0 max: 1 }
}
"""

REFUSED = [
    'name: "a" name: "b"',
    "state { } state { }",
    "name: a",
    'name "a"',
    'name: "a',
    'name: "a\nb"',
    'name: "\\q"',
    'name: "\\x"',
    'name: ["a"]',
    "name: \"a'",
    "debug_info: 2",
    "debug_info: TRUE",
    'debug_info: "true"',
    "input_dim: 2147483648",
    "input_dim: -2147483649",
    "input_dim: 1.0",
    "input_dim: 1e1",
    "input_dim: 08",
    "input_dim: +1",
    'input_dim: "1"',
    "input_dim: [1,]",
    "input_dim: [1 2]",
    "input_dim: 1,, input_dim: 2",
    "input_dim: 1input_dim: 2",
    "input_dim 1",
    "layer { loss_weight: 0x10 }",
    "layer { loss_weight: 010 }",
    "layer { loss_weight: 1.2.3 }",
    "layer { loss_weight: 1e }",
    "layer { loss_weight: true }",
    "layer { loss_weight: +1 }",
    "layer { pooling_param { pad: -1 } }",
    "layer { pooling_param { pad: 4294967296 } }",
    "layer { pooling_param { pool: 99 } }",
    'layer { pooling_param { pool: "MAX" } }',
    "layer { pooling_param { pool: max } }",
    "layer { pooling_param: 3 }",
    "layer {",
    "layer { >",
    "layer { ] }",
    "}",
    "Layer { }",
    "1: 2",
    "[a.b]: 1",
    "; debug_info: true",
    "name: 'a' // no comment",
    "nosuch: 1",
    "\u00a0debug_info: true",
]


def test_forms_that_cpp_takes():
    taken, encoded = protoc("encode", NetParameter, TAKEN.encode())
    assert taken
    ours = parse_text(TAKEN, NetParameter)
    assert to_text(ours) == to_text(NetParameter.FromString(encoded))
    assert ours.name == "single ' quotes and neighboursAA\u00e9\U0001f600\n\\?"
    assert list(ours.input_dim) == [1, 31, 15, -16, -5, 1, 2, 3, 0]


def test_a_message_that_is_itself_incomplete():
    with pytest.raises(CaffeError, match=r"^<text>:1:1: ClipParameter needs min and max$"):
        parse_text("", caffe_pb2.ClipParameter)


@pytest.mark.parametrize("text", REFUSED)
def test_forms_that_cpp_refuses(text):
    with pytest.raises(CaffeError, match=r"^<text>:\d+:\d+: "):
        parse_text(text, NetParameter)


def test_cpp_does_refuse_them(tmp_path):
    for index, text in enumerate(REFUSED):
        (tmp_path / str(index)).write_text(text)
    script = f"""
import os
from grpc_tools import protoc
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
for index in range({len(REFUSED)}):  # protoc reads its standard input
    os.dup2(os.open({str(tmp_path)!r} + "/" + str(index), os.O_RDONLY), 0)
    taken = protoc.main(["protoc", "-Iproto", "--encode=caffe.NetParameter", "proto/caffe.proto"]) == 0
    assert not taken, index
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT, timeout=60)


# Errors


@pytest.mark.parametrize(
    "text, error",
    [
        ("net: 'a'\nlearning_rate: 0.1", "2:1: SolverParameter has no field 'learning_rate'; did you mean 'base_lr'?"),
        ("max_iters: 1", "1:1: SolverParameter has no field 'max_iters'; did you mean 'max_iter'?"),
        ("weightdecay: 1", "1:1: SolverParameter has no field 'weightdecay'; did you mean 'weight_decay'?"),
        ("gpu: 1", "1:1: SolverParameter has no field 'gpu'"),
        ("solver_mode: TPU", "1:14: solver_mode has no value TPU; known values: CPU, GPU"),
        ("solver_mode: 2", "1:14: solver_mode has no value 2; known values: CPU, GPU"),
        ("base_lr: 1\nbase_lr: 2", "2:1: SolverParameter has one 'base_lr', but it is given twice"),
        ("device_id: 5000000000", "1:12: device_id: 5000000000 is out of range: -2147483648 to 2147483647"),
        ('gamma: "0.1"', '1:8: expected a number for gamma, found "0.1"; leave out the quotes'),
        ("max_iter: 1e3", "1:11: expected an integer for max_iter, found 1e3; write 1000"),
        ("max_iter: 24.0", "1:11: expected an integer for max_iter, found 24.0; write 24"),
        (
            "base_lr: 1/100",
            "1:11: expected the name of a field, found /; nothing is computed here: write the number itself",
        ),
        (
            "base_lr: xLR",
            "1:10: expected a number for base_lr, found xLR: if it is a placeholder of a template, fill it in first",
        ),
        (
            "max_iter: $#batch_size#$",
            "1:11: expected an integer for max_iter, found $#batch_size#$: if it is a placeholder of a template, "
            "fill it in first",
        ),
        ("layer { }", "1:1: SolverParameter has no field 'layer'; this looks like a net, not a solver"),
        ("lr_policy: fixed", "1:12: expected a string in quotes for lr_policy, found fixed"),
        ("gamma 0.1", "1:7: expected ':' after gamma, found 0.1"),
        ("debug_info: yes", "1:13: expected true or false for debug_info, found yes"),
        ("net: 'a", "1:6: this string does not end in its line"),
        (
            "net: 'C:\\data'",
            "1:6: the string has an escape that protobuf does not know; paths take /, a backslash itself is \\\\",
        ),
        (
            "net: “a”",
            "1:6: expected a string in quotes for net, found “ (U+201C LEFT DOUBLE QUOTATION MARK); strings "
            'stand in plain quotes: "',
        ),
        ("net:\u00a0'a'", "1:5: expected a string in quotes for net, found U+00A0 NO-BREAK SPACE"),
        ("net: 'a' // b", "1:10: expected the name of a field, found /; comments begin with #"),
        ("<<<<<<< HEAD\nnet: 'a'", "1:1: expected the name of a field, found <; git has left a conflict there"),
        ("net: 'a' }", "1:10: expected the name of a field, found }; is it one too many?"),
        ("train_state: TEST", "1:14: expected '{' after train_state, found TEST"),
        ("solver_mode: 'CPU'", "1:14: expected one of CPU, GPU for solver_mode, found 'CPU'; leave out the quotes"),
        (
            "net_param { layer { conv_param { } } }",
            "1:21: LayerParameter has no field 'conv_param'; did you mean 'convolution_param'?",
        ),
        (
            "net_param { layer { inner_product_param { kernel_size: 3 } } }",
            "1:43: InnerProductParameter has no field "
            "'kernel_size'; it belongs inside convolution_param { } or pooling_param { } or convolution3d_param { }",
        ),
        (
            "net_param { layers { param { } } }",
            "1:28: expected ':' after param (this layer is a `layers`, the old form; "
            "the present one is `layer`), found {",
        ),
        ("net: '\\400\\351'", "1:6: the string for net is not UTF-8"),
        ("max_iter: " + "9" * 10000, "1:11: max_iter is out of range: -2147483648 to 2147483647"),
        ("gamma:", "1:7: expected a number for gamma, but the file ends"),
        (
            "net_param {\n layer {\n  name: 'x'\n }\n",
            "5:1: expected the name of a field or '}', but the file ends; the brace opened in line 1 is not closed",
        ),
        (
            "net_param { layer { num_output: 3 } }",
            "1:21: LayerParameter has no field 'num_output'; it belongs inside convolution_param { } or embed_param "
            "{ } or inner_product_param { }",
        ),
        (
            "net_param { layer { name: 'a' layer { name: 'b' } }",
            "1:31: LayerParameter has no field 'layer'; is the '}' missing that closes line 1?",
        ),
        ("net_param {\n layer { clip_param { max: 1 } } }", "2:21: ClipParameter needs min"),
        (
            "net_param { layers { type: 'Permute' } }",
            '1:28: expected a name like CONVOLUTION for type (in quotes it stands in "layer", not in "layers"), '
            "found 'Permute'",
        ),
    ],
)
def test_errors_say_where_and_what_would_be_right(text, error):
    with pytest.raises(CaffeError) as caught:
        parse_text(text, SolverParameter, "solver.prototxt")
    assert str(caught.value) == f"solver.prototxt:{error}"


@pytest.mark.parametrize(
    "content, error",
    [
        (None, "file not found"),
        (b"\x0a\x03abc\x00\x01", "a binary file, not a text NetParameter"),
        (
            "name: 'x'".encode("utf-16"),
            "a binary file, not a text NetParameter; this is a text in UTF-16: save it as UTF-8",
        ),
        (b"<!DOCTYPE html>", "not a text NetParameter; this is a web page, perhaps of a download that failed"),
        (b"name: 'caf\xe9'", ":1:7: the string for name is not UTF-8"),
        (b"debug_info: true \xe9", ":1:18: expected the name of a field"),
    ],
)
def test_files_that_are_no_text(tmp_path, content, error):
    path = tmp_path / "net.prototxt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CaffeError) as caught:
        read_text(path, NetParameter)
    assert str(caught.value).startswith(str(path))
    assert error in str(caught.value)


def test_a_folder_is_not_a_file(tmp_path):
    with pytest.raises(CaffeError, match="cannot be read: Is a directory"):
        read_text(tmp_path, NetParameter)


def test_comments_in_any_encoding_and_a_byte_order_mark(tmp_path):
    """Prototxts from the internet have them; Caffe takes the comments."""
    path = tmp_path / "net.prototxt"
    path.write_bytes(b"\xef\xbb\xbfname: 'x' # \xb9\xa4\xd7\xf7\r\ndebug_info: true\r\n")
    assert read_text(path, NetParameter) == NetParameter(name="x", debug_info=True)


def test_huge_and_deep_input_is_bounded(tmp_path, monkeypatch):
    for text in ("layer {" * 100_000, "[" * 100_000, "layer [" * 100_000, "input_dim: [" + "1," * 100_000):
        with pytest.raises(CaffeError, match=r"^<text>:1:"):
            parse_text(text, NetParameter)
    monkeypatch.setattr("pysolver.proto.text.LARGEST_TEXT", 10)
    (tmp_path / "net.prototxt").write_text("name: 'more than ten'")
    with pytest.raises(CaffeError, match="larger than 10 bytes"):
        read_text(tmp_path / "net.prototxt", NetParameter)


@pytest.mark.timeout(120)  # half a second's work; of a parser that looks at the whole text for each line, an hour's
def test_a_long_net_is_parsed_in_one_pass():
    layer = "layer {\n name: 'c'\n type: 'Convolution'\n top: 'b'\n convolution_param {\n num_output: 3\n } }\n"
    assert len(parse_text(layer * 5000, NetParameter).layer) == 5000


# Printing


def test_floats_are_printed_as_cpp_prints_them():
    generator = np.random.default_rng(1)
    floats = generator.integers(0, 2**32, 2000, dtype=np.uint32).view(np.float32).tolist()
    doubles = generator.integers(0, 2**63, 2000, dtype=np.uint64).view(np.float64).tolist()
    special = [0.0, -0.0, 0.1, 1 / 3, 1e-5, 1e10, 123456.7, 16777216, 3.4028235e38, 1e-45, float("inf"), float("-inf")]
    blob = BlobProto(data=floats + special + [float("nan")], double_data=doubles + special + [5e-324, 1e300])
    assert to_text(blob) == protoc("decode", BlobProto, blob.SerializeToString())[1].decode()


def test_strings_are_printed_as_cpp_prints_them():
    datum = Datum(data=bytes(range(256)), label=-1, encoded=True)
    assert to_text(datum) == protoc("decode", Datum, datum.SerializeToString())[1].decode()
    net = NetParameter(name="\u00e9\u65e5 \x7f\x01'\"\\\n\r\t")
    assert to_text(net) == protoc("decode", NetParameter, net.SerializeToString())[1].decode()


def test_fields_stand_in_the_order_of_their_numbers():
    text = "type: 'Adam' max_lr: 0.1 base_lr: 1e-5 net: 'n' solver_mode: CPU test_state { } cyclical_momentum: [0.5, 2]"
    assert to_text(parse_text(text, SolverParameter)) == (
        'base_lr: 1e-05\nsolver_mode: CPU\nnet: "n"\ntest_state {\n}\ntype: "Adam"\nmax_lr: 0.1\n'
        "cyclical_momentum: 0.5\ncyclical_momentum: 2\n"
    )


# Both ways


def _values(field):
    if field.message_type:
        return messages(field.message_type)
    if field.enum_type:
        return st.sampled_from([value.number for value in field.enum_type.values])
    int32, int64 = 2**31, 2**63
    return {
        field.CPPTYPE_BOOL: st.booleans(),
        field.CPPTYPE_FLOAT: st.floats(width=32, allow_nan=False),
        field.CPPTYPE_DOUBLE: st.floats(allow_nan=False),
        field.CPPTYPE_STRING: st.binary(max_size=8) if field.type == field.TYPE_BYTES else st.text(max_size=8),
        field.CPPTYPE_INT32: st.integers(-int32, int32 - 1),
        field.CPPTYPE_INT64: st.integers(-int64, int64 - 1),
        field.CPPTYPE_UINT32: st.integers(0, 2 * int32 - 1),
    }[field.cpp_type]


@st.composite
def messages(draw, descriptor):
    """A message with up to four fields set, and those it requires."""
    message = message_factory.GetMessageClass(descriptor)()
    fields = [field for field in descriptor.fields if not is_hidden(field.name)]  # those of files
    required = [field for field in fields if field.is_required]
    drawn = draw(st.lists(st.sampled_from(fields), max_size=4, unique=True))
    for field in dict.fromkeys([*required, *drawn]):
        values = [draw(_values(field)) for _ in range(draw(st.integers(1, 3)) if field.is_repeated else 1)]
        if field.is_repeated:
            getattr(message, field.name).extend(values)
        elif field.message_type:
            getattr(message, field.name).CopyFrom(values[0])
        else:
            setattr(message, field.name, values[0])
    return message


KINDS = (NetParameter, SolverParameter, LayerParameter, Datum, BlobProto)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from([kind.DESCRIPTOR for kind in KINDS]).flatmap(messages))
def test_print_then_parse_is_the_identity(message):
    assert parse_text(to_text(message), type(message)) == message


def test_an_old_layer_of_a_caffe_that_is_not_known_is_written_as_it_stood():
    text = 'layers {\n  name: "a"\n  type: FOO_BAR\n  foo_param {\n    x: 1\n  }\n}\n'
    net = parse_text(text, NetParameter)
    assert to_text(net) == text and parse_text(to_text(net), NetParameter) == net


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="{}<>[]:;,'\"\\#\n 0x1.e-f_anlyer", max_size=60))
def test_nonsense_never_raises_anything_but_a_caffe_error(text):
    try:
        parse_text(text, NetParameter)
    except CaffeError as error:
        assert str(error).startswith("<text>:")


@pytest.mark.parametrize("written", ["SOFTMAX_LOSS", '"SoftmaxLoss"', "'SOFTMAX_LOSS'"])
def test_a_v1_type_in_quotes(written):
    """Caffe refuses it; published files have it."""
    net = parse_text(f"layers {{ type: {written} }}", NetParameter)
    assert net.layers[0].type == V1LayerParameter.SOFTMAX_LOSS

"""The schema against a table of BVLC Caffe's, and how the compiled schema is found and loaded."""

from __future__ import annotations

import csv
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, text_format

from pysolver.proto import caffe_pb2

ROOT = Path(__file__).parents[2]
TABLES = ROOT / "tests/data/proto"
COMPILED = descriptor_pb2.FileDescriptorSet.FromString((ROOT / "pysolver/proto/caffe.desc").read_bytes())
MESSAGES = {message.name: message for message in COMPILED.file[0].message_type}

# What is not BVLC's: numbers that a later version of BVLC's schema must not get.
OURS = {
    "SolverParameter": {43: "max_lr", 44: "cyclical_momentum", 45: "start_lr_policy"},
    "LayerParameter": {
        149: "upsample_param",
        152: "bn_param",
        164: "shuffle_channel_param",
        200: "annotated_data_param",
        201: "multibox_loss_param",
        202: "permute_param",
        203: "prior_box_param",
        204: "detection_output_param",
        205: "detection_evaluate_param",
        206: "norm_param",
        207: "video_data_param",
        2143: "interp_param",
        10000: "box_annotator_ohem_param",
        10001: "psroi_pooling_param",
        100000: "relu6_param",
        8266711: "roi_pooling_param",
        8266712: "smooth_l1_loss_param",
    },
    "TransformationParameter": {
        8: "resize_param",
        9: "noise_param",
        10: "emit_constraint",
        11: "crop_h",
        12: "crop_w",
        13: "distort_param",
        14: "expand_param",
    },
}


def _rows(name):
    with open(TABLES / name, newline="") as file:
        return list(csv.DictReader(file))


def _as_row(message, field):
    """The field in the words of the table."""
    kind = field.Type.Name(field.type)[5:].lower()
    kind += field.type_name.replace(".caffe.", ":")
    default = field.default_value or ('""' if field.HasField("default_value") else "")
    return {
        "message": message,
        "field": field.name,
        "number": str(field.number),
        "label": field.Label.Name(field.label)[6:].lower(),
        "type": kind,
        "default": default,
        "packed": "packed" if field.options.packed else "",
    }


def _ours(message):
    return [_as_row(message, field) for field in MESSAGES[message].field]


def _same_default(row):
    """1e-05 and 1e-5 are one number."""
    try:
        return {**row, "default": float(row["default"])}
    except ValueError:
        return row


def test_every_field_of_caffe_is_there_and_no_other_under_its_name():
    wanted = [{k: v for k, v in row.items() if k != "deprecated"} for row in _rows("fields.csv")]
    ours = [row for message in {row["message"] for row in wanted} for row in _ours(message)]
    bvlc = [row for row in ours if int(row["number"]) not in OURS.get(row["message"], {})]
    key = lambda row: (row["message"], int(row["number"]))  # noqa: E731
    assert sorted(map(_same_default, bvlc), key=key) == sorted(map(_same_default, wanted), key=key)
    assert len(wanted) == 423


def test_the_other_fields_are_those_of_the_method_and_of_the_forks():
    for message, fields in OURS.items():
        names = {field.number: field.name for field in MESSAGES[message].field}
        assert {number: names.get(number) for number in fields} == fields
    solver = {row["field"]: (row["label"], row["type"]) for row in _ours("SolverParameter")}
    assert solver["max_lr"] == ("optional", "float")
    assert solver["cyclical_momentum"] == ("repeated", "float")
    assert solver["start_lr_policy"] == ("optional", "int32")


def test_every_enum_value_of_caffe_is_there():
    wanted = {(row["enum"], row["name"], int(row["value"])) for row in _rows("enums.csv")}
    enums = [(enum.name, enum) for enum in COMPILED.file[0].enum_type]
    for message in {row["message"] for row in _rows("fields.csv")}:
        enums += [(f"{message}.{enum.name}", enum) for enum in MESSAGES[message].enum_type]
    assert {(name, value.name, value.number) for name, enum in enums for value in enum.value} == wanted
    assert len(wanted) == 111


def test_the_compiled_schema_is_that_of_the_proto_file(tmp_path):
    assert _compile(tmp_path / "now.desc") == COMPILED, "stale: run `python setup.py build_schema`"


def test_module_has_the_names_of_pycaffes():
    assert (caffe_pb2.TRAIN, caffe_pb2.TEST) == (0, 1)
    assert caffe_pb2.Phase.Name(1) == "TEST"
    assert caffe_pb2.Phase.Value("TRAIN") == 0
    assert caffe_pb2.PoolingParameter.AVE == 1
    assert caffe_pb2.PoolingParameter.PoolMethod.Name(2) == "STOCHASTIC"
    assert caffe_pb2.V1LayerParameter.LayerType.Value("SIGMOID_CROSS_ENTROPY_LOSS") == 27
    net = caffe_pb2.NetParameter()
    text_format.Merge('layer { type: "ReLU" }', net)
    assert net.layer[0].relu_param.negative_slope == 0
    assert caffe_pb2.SolverParameter().random_seed == -1


def test_messages_go_through_pickle():
    layer = caffe_pb2.LayerParameter(name="x", clip_param={"min": 0, "max": 1})
    assert pickle.loads(pickle.dumps(layer)) == layer


@pytest.mark.parametrize(
    "order",
    ["import caffe_pb2, pysolver.proto.caffe_pb2 as ours", "import pysolver.proto.caffe_pb2 as ours, caffe_pb2"],
)
def test_lives_beside_another_caffe_pb2(tmp_path, order):
    """As pycaffe or an ONNX converter bring one: the default pool refuses a second schema of a package."""
    _protoc(f"-I{ROOT}/proto", f"--python_out={tmp_path}", "caffe.proto")
    script = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
{order}
assert caffe_pb2.NetParameter is not ours.NetParameter
text = ours.NetParameter(name="x").SerializeToString()
assert caffe_pb2.NetParameter.FromString(text).name == "x"
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT, timeout=60)


def test_missing_schema_says_what_to_run(tmp_path):
    package = tmp_path / "alone"
    package.mkdir()
    (package / "caffe_pb2.py").write_text((ROOT / "pysolver/proto/caffe_pb2.py").read_text())
    run = subprocess.run([sys.executable, "-c", "import caffe_pb2"], cwd=package, capture_output=True, text=True)
    assert run.returncode != 0
    assert "caffe.desc is missing" in run.stderr
    assert "python setup.py build_schema" in run.stderr


def test_build_step_compiles_into_the_built_package(tmp_path):
    """Without touching the checkout, which may be read-only."""
    run = [
        sys.executable,
        "setup.py",
        "-q",
        "build",
        "--build-base",
        str(tmp_path / "b"),
        "egg_info",
        "-e",
        str(tmp_path),
    ]
    subprocess.run(run, check=True, cwd=ROOT, capture_output=True, timeout=120)
    built = next((tmp_path / "b").glob("lib*")) / "pysolver/proto/caffe.desc"
    assert descriptor_pb2.FileDescriptorSet.FromString(built.read_bytes()) == COMPILED


def _protoc(*arguments):
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *arguments], check=True, cwd=ROOT, timeout=60)


def _compile(target):
    _protoc("-Iproto", f"--descriptor_set_out={target}", "caffe.proto")
    return descriptor_pb2.FileDescriptorSet.FromString(target.read_bytes())

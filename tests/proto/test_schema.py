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
TABLES = ROOT / "tests/golden/proto"
COMPILED = descriptor_pb2.FileDescriptorSet.FromString((ROOT / "pysolver/proto/caffe.desc").read_bytes())
MESSAGES = {message.name: message for message in COMPILED.file[0].message_type}

# Where another field has the number that a fork gives, ours is private: from here on.
PRIVATE = {"LayerParameter": 30000}
PRIVATE_ELSEWHERE = 100
EARLIER = {("interp_param", 2143), ("upsample_param", 149), ("scale_filler", 11), ("shift_filler", 12), ("bn_mode", 13)}
METHOD = {  # the fields of the method, not BVLC's
    ("SolverParameter", "max_lr", 43, "optional", "float"),
    ("SolverParameter", "cyclical_momentum", 44, "repeated", "float"),
    ("SolverParameter", "start_lr_policy", 45, "optional", "int32"),
}


KEPT = {("LayerParameter", "foreign_text"), ("V1LayerParameter", "foreign_type"), ("V1LayerParameter", "present")}


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


def _without(row, *columns):
    return _same_default({key: value for key, value in row.items() if key not in columns})


def test_every_field_of_caffe_is_there():
    wanted = [_without(row, "deprecated") for row in _rows("fields.csv")]
    ours = [_same_default(row) for message in MESSAGES for row in _ours(message)]
    assert [row for row in wanted if row not in ours] == []
    assert len(wanted) == 423


def test_every_field_of_the_forks_is_there():
    wanted = [_without(row, "fork", "number") for row in _rows("forks.csv")]
    ours = [_without(row, "packed", "number") for message in MESSAGES for row in _ours(message)]
    assert [row for row in wanted if row not in ours] == []
    assert len(wanted) > 1000


def test_a_field_has_its_forks_number_unless_another_field_has_it():
    """So that the binary files of most forks are read without a detour."""
    for row in _rows("forks.csv"):
        (number,) = (field.number for field in MESSAGES[row["message"]].field if field.name == row["field"])
        taken = {str(field.number) for field in MESSAGES[row["message"]].field if field.name != row["field"]}
        if number != _number(row) and (row["field"], number) not in EARLIER:
            assert not row["number"] or row["number"] in taken, row
            assert number > PRIVATE.get(row["message"], PRIVATE_ELSEWHERE), row


def _number(row):
    return int(row["number"]) if row["number"] else None


def test_there_is_no_other_field():
    known = {(row["message"], row["field"]) for row in _rows("fields.csv") + _rows("forks.csv")}
    ours = {(row["message"], row["field"]) for message in MESSAGES for row in _ours(message)}
    assert ours - known == {field[:2] for field in METHOD} | KEPT


def test_the_fields_of_the_method():
    rows = _ours("SolverParameter")
    ours = {(row["message"], row["field"], int(row["number"]), row["label"], row["type"]) for row in rows}
    assert ours >= METHOD


def test_every_enum_value_is_there_and_no_other():
    wanted = {(row["enum"], row["name"]): row["value"] for row in _rows("enums.csv")}
    forks = {(row["enum"], row["name"]): row["value"] for row in _rows("fork_enums.csv")}
    enums = [(enum.name, enum) for enum in COMPILED.file[0].enum_type]
    for message in MESSAGES.values():
        enums += [(f"{message.name}.{enum.name}", enum) for enum in message.enum_type]
    ours = {(name, value.name): str(value.number) for name, enum in enums for value in enum.value}
    assert set(ours) == set(wanted) | set(forks)
    assert {key: ours[key] for key in wanted} == wanted
    moved = {key for key, number in forks.items() if ours[key] != number}
    assert all(int(ours[key]) > 1000 or not forks[key] for key in moved)
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

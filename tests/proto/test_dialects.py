"""Fields of forks: each is computed somewhere, or known to steer only an implementation, or refused."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from pysolver.errors import CaffeError
from pysolver.proto import caffe_pb2, dialects
from pysolver.proto.caffe_pb2 import NetParameter, SolverParameter
from pysolver.proto.text import parse_text, to_text
from pysolver.proto.upgrade import upgrade_net

ROOT = Path(__file__).parents[2]
TABLES = ROOT / "tests/golden/proto"
SOURCES = "\n".join(
    path.read_text() for path in (ROOT / "pysolver").rglob("*.py") if path.name not in ("dialects.py", "caffe_pb2.py")
)


def _rows(name):
    with open(TABLES / name, newline="") as file:
        return list(csv.DictReader(file))


def _source_name(field):
    """raw_data is read as f"raw_{what}"."""
    return re.sub("^raw_(data|diff)", "raw_{what}", field)


def _net(text):
    return parse_text(text, NetParameter)


def test_no_field_of_a_fork_is_dropped_in_silence():
    """In Caffe's own messages: what the two tables leave out is read by some module."""
    caffes = {row["message"] for row in _rows("fields.csv")} - {"LayerParameter", "V1LayerParameter", "SolverState"}
    known = {
        f"{message}.{name}"
        for table in (dialects.STEERS, dialects.REFUSED, dialects.REFUSED_TO_TRAIN)
        for message, names in table.items()
        for name in names.split()
    }
    left = {
        f"{row['message']}.{row['field']}"
        for row in _rows("forks.csv")
        if row["message"] in caffes and not re.search(rf"[.\"]{_source_name(row['field'])}\b", SOURCES)
    }
    assert left - known <= {"Datum.record_id", "Datum.seg_label", "BlobProto.length"}  # beside what a record holds


def test_the_tables_name_fields_that_exist():
    for table in (dialects.STEERS, dialects.REFUSED, dialects.REFUSED_TO_TRAIN):
        for message, names in table.items():
            fields = dialects.caffe_pb2.DESCRIPTOR.message_types_by_name[message].fields_by_name
            assert set(names.split()) <= set(fields), message


def test_fields_that_steer_are_counted_and_kept():
    text = """
    default_forward_type: FLOAT16
    layer { name: "d" type: "Data" data_param { threads: 4 cache: true } }
    layer { name: "a" type: "ReLU" relu_param { engine: MKL2017 } }
    layer { name: "b" type: "ReLU" relu_param { engine: MKL2017 } multinode { num_nodes: 4 } }
    layer { name: "c" type: "ReLU" relu_param { engine: CUDNN } }
    """
    net = _net(text)
    ignored = dialects.check_net(net)
    assert ignored == {
        "default_forward_type": 1,
        "data_param.threads": 1,
        "data_param.cache": 1,
        "engine MKL2017": 2,
        "multinode": 1,
    }
    assert dialects.sentence(ignored) == (
        "data_param.cache, data_param.threads, default_forward_type, engine MKL2017 (2 times), multinode"
    )
    assert _net(to_text(net)) == net
    assert "engine: MKL2017" in to_text(net)


@pytest.mark.parametrize(
    "text, where",
    [
        ("pooling_param { torch_pooling: true }", "pooling_param.torch_pooling"),
        ("transform_param { pad: 4 }", "transform_param.pad"),
        ("convolution_param { weight_filler { scale: 2 } }", "convolution_param.weight_filler.scale"),
    ],
)
def test_fields_that_change_the_numbers_are_refused_with_the_layers_name(text, where):
    net = _net(f'layer {{ name: "x" type: "Some" {text} }}')
    with pytest.raises(CaffeError, match=rf"^layer 'x' \(Some\): {re.escape(where)} is a field of another Caffe"):
        dialects.check_net(net)


def test_a_field_that_changes_how_a_net_learns_is_refused_in_train():
    """SkimCaffe's pruning: what the net computes is as ever."""
    text = 'layer { name: "x" type: "Some" connectivity_mode: DISCONNECTED_ELTWISE param { decay_mult: 1 } }'
    net = _net(f"state {{ phase: TRAIN }} {text}")
    with pytest.raises(CaffeError, match=r"^layer 'x' \(Some\): connectivity_mode is a field of another Caffe"):
        dialects.check_net(net)
    net.state.phase = caffe_pb2.TEST
    assert dialects.check_net(net) == {"connectivity_mode": 1}


def test_pruning_by_default_is_told_apart_from_none():
    """SkimCaffe prunes at 0.0001 unless told otherwise: who writes that means it."""
    assert not dialects.check(parse_text("prune_threshold: 0", SolverParameter), "the solver")
    with pytest.raises(CaffeError, match="^the solver: prune_threshold is"):
        dialects.check(parse_text("prune_threshold: 0.0001", SolverParameter), "the solver")


def test_defaults_change_nothing():
    net = _net(
        'layer { name: "x" type: "Some" transform_param { pad: 0 } convolution_param { weight_filler { scale: 1 } } }'
    )
    assert not dialects.check_net(net)


def test_what_a_fork_has_more_often_than_caffe():
    """yjxiong's `device_id: [0, 1]`, MobileNet-YOLO's sizes: the first value is where Caffe has it."""
    for text in ("device_id: [0, 2, 3]", "device_id: 0\ndevice_id: 2\ndevice_id: 3"):
        solver = parse_text(text, SolverParameter)
        assert (solver.device_id, list(solver.device_id_again)) == (0, [2, 3])
        assert to_text(solver) == "device_id: 0\ndevice_id: 2\ndevice_id: 3\n"
    net = _net("layer { transform_param { resize_param { height: 300 } resize_param { height: 416 } } }")
    (layer,) = net.layer
    assert layer.transform_param.resize_param.height == 300
    assert [size.height for size in layer.transform_param.resize_param_again] == [416]
    assert _net(to_text(net)) == net
    with pytest.raises(CaffeError, match="1:1: SolverParameter has no field 'device_id_again'"):
        parse_text("device_id_again: 1", SolverParameter)


def test_layers_of_forks_in_the_old_form():
    net = upgrade_net(_net('layers { name: "c" type: CONVOLUTION3D } layers { name: "b" type: BN }'), "x")
    assert [layer.type for layer in net.layer] == ["Convolution3D", "BN"]

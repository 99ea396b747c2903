"""Which layers a state includes: the table of Caffe's filter rules, case by case."""

from __future__ import annotations

import pytest

from pysolver.errors import CaffeError
from pysolver.logs.writer import to_stderr
from pysolver.net.filter import filter_net
from pysolver.proto import caffe_pb2
from pysolver.proto.text import parse_text

CASES = [
    # rules of the layer, state, is it in?
    ("", "phase: TRAIN", True),
    ("include { }", "phase: TEST", True),
    ("exclude { }", "phase: TEST", False),
    ("include { phase: TRAIN }", "phase: TRAIN", True),
    ("include { phase: TRAIN }", "phase: TEST", False),
    ("exclude { phase: TRAIN }", "phase: TRAIN", False),
    ("exclude { phase: TRAIN }", "phase: TEST", True),
    ("include { min_level: 2 }", "phase: TEST level: 1", False),
    ("include { min_level: 2 }", "phase: TEST level: 2", True),
    ("include { max_level: 2 }", "phase: TEST level: 3", False),
    ("include { min_level: 1 max_level: 2 }", "phase: TEST level: 2", True),
    ("include { stage: 'a' }", "phase: TEST", False),
    ("include { stage: 'a' }", "phase: TEST stage: 'b' stage: 'a'", True),
    ("include { stage: 'a' stage: 'b' }", "phase: TEST stage: 'a'", False),
    ("include { stage: 'a' not_stage: 'b' }", "phase: TEST stage: 'a' stage: 'b'", False),
    ("include { not_stage: 'b' }", "phase: TEST stage: 'a'", True),
    ("include { stage: 'a' } include { stage: 'b' }", "phase: TEST stage: 'b'", True),
    ("exclude { stage: 'a' } exclude { stage: 'b' }", "phase: TEST stage: 'b'", False),
    ("include { phase: TEST min_level: 1 stage: 'a' }", "phase: TEST level: 1 stage: 'a'", True),
    ("include { phase: TEST min_level: 1 stage: 'a' }", "phase: TEST level: 1", False),
]


@pytest.mark.parametrize(("rules", "state", "included"), CASES)
def test_rules(rules: str, state: str, included: bool):
    net = parse_text(f"state {{ {state} }} layer {{ name: 'l' type: 'ReLU' {rules} }}", caffe_pb2.NetParameter)
    assert [layer.name for layer in filter_net(net, to_stderr).layer] == (["l"] if included else [])
    assert len(net.layer) == 1, "the original stays as it is"


def test_include_and_exclude_together_are_an_error():
    net = parse_text("layer { name: 'l' include { } exclude { } }", caffe_pb2.NetParameter)
    with pytest.raises(CaffeError, match="'l': Specify either include rules or exclude rules; not both"):
        filter_net(net, to_stderr)


def test_each_failed_rule_is_logged(capsys):
    text = (
        "state { phase: TEST level: 1 stage: 'x' } "
        "layer { name: 'a' include { phase: TRAIN } include { min_level: 3 } include { max_level: 0 } "
        "include { stage: 's' } include { not_stage: 'x' } }"
    )
    filter_net(parse_text(text, caffe_pb2.NetParameter), to_stderr)
    lines = [line.split("] ")[1] for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        "The NetState phase (1) differed from the phase (0) specified by a rule in layer a",
        "The NetState level (1) is above the min_level (3) specified by a rule in layer a",
        "The NetState level (1) is above the max_level (0) specified by a rule in layer a",
        "The NetState did not contain stage 's' specified by a rule in layer a",
        "The NetState contained a not_stage 'x' specified by a rule in layer a",
    ]

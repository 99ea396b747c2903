"""Which nets a solver builds, and from what."""

from __future__ import annotations

import os

from short_runs import make_solver, same, weights_of

from pysolver.logs import events as e
from pysolver.proto import caffe_pb2
from pysolver.proto.text import parse_text
from pysolver.solver.solver import Solver


def test_forms_of_nets(folder):
    here = folder()
    net = (here / "net.prototxt").read_text()
    (here / "other.prototxt").write_text(net.replace("Tiny", "Other"))
    inline = f"{{ {net} }}"
    cases = {
        'net: "net.prototxt" test_iter: [1, 1, 1] test_net: "other.prototxt"': [
            "test_net file: other.prototxt", "net file: net.prototxt", "net file: net.prototxt",
        ],
        f"net_param {inline} test_iter: 2": ["net_param"],
        f'train_net: "net.prototxt" test_net_param {inline} test_net: "net.prototxt" test_iter: [1, 1]': [
            "test_net_param", "test_net file: net.prototxt",
        ],
        f"train_net_param {inline}": [],
        'net: "net.prototxt"': [],
    }  # fmt: skip
    for text, sources in cases.items():
        told: list[e.Event] = []
        interval = "test_interval: 3" if sources else ""
        param = parse_text(f'{text} {interval} lr_policy: "fixed"', caffe_pb2.SolverParameter)
        solver = Solver(param, subscribers=[told.append])
        assert [event.source for event in told if isinstance(event, e.CreatingTestNet)] == sources
        assert len(solver.test_nets) == len(sources)


def test_states_of_nets(folder):
    """Train state and test states are merged into the nets' own: later ones win, stages add up."""
    here = folder()
    rules = [("b", "stage: 'x'"), ("c", "min_level: 3"), ("d", "phase: TEST stage: 't'"), ("e", "stage: 'own'")]
    layers = "".join(f'layer {{ name: "{n}" type: "Silence" bottom: "{n}" include {{ {r} }} }}' for n, r in rules)
    inputs = "".join(
        f'layer {{ name: "in_{n}" type: "Input" top: "{n}" input_param {{ shape {{ dim: 1 }} }} }}' for n, _ in rules
    )
    (here / "rules.prototxt").write_text(f"state {{ level: 2 stage: 'own' }} {inputs} {layers}")
    param = parse_text(
        'net: "rules.prototxt" lr_policy: "fixed" test_interval: 1 test_iter: [1, 1] '
        'train_state { level: 3 stage: "x" } test_state { stage: "t" } test_state { level: 4 stage: "x" }',
        caffe_pb2.SolverParameter,
    )
    solver = Solver(param, subscribers=[])
    present = [
        {name for name in net.layer_names if not name.startswith("in_")} for net in (solver.net, *solver.test_nets)
    ]
    assert present == [{"b", "c", "e"}, {"d", "e"}, {"b", "c", "e"}]


def test_weights_of_the_solver_go_to_all_nets_the_last_one_wins(folder):
    here = folder("max_iter: 1")
    make_solver()[0].solve()
    os.rename("snap_iter_1.caffemodel", "a.caffemodel")
    folder("random_seed: 9 max_iter: 1")
    other, _ = make_solver()
    other.solve()
    os.rename("snap_iter_1.caffemodel", "b.caffemodel")
    text = (here / "solver.prototxt").read_text()
    (here / "solver.prototxt").write_text(text + 'weights: "a.caffemodel , b.caffemodel"')
    solver, told = make_solver()
    assert [event.file for event in told if isinstance(event, e.Finetuning)] == ["a.caffemodel", "b.caffemodel"] * 3
    assert same(weights_of(solver), weights_of(other))

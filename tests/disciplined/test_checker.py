"""Each slip alone is found, a good solver has none, and the author's own two are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lmdb
import pytest

from pysolver.commands import main
from pysolver.disciplined.checker import check_files, check_solver, check_training
from pysolver.logs import read_log
from pysolver.logs.header import many
from pysolver.logs.reader import Reader
from pysolver.proto.caffe_pb2 import Datum, NetParameter, SolverParameter
from pysolver.proto.text import parse_text

LOGS = Path(__file__).resolve().parent.parent / "golden" / "logs"
GOOD = {
    "base_lr": "0.05", "max_lr": "0.5", "lr_policy": '"1cycle"', "stepsize": "4500", "max_iter": "10000",
    "momentum": "0.95", "cyclical_momentum": "[0.85, 4500]", "weight_decay": "0.0001", "display": "100",
    "test_iter": "100", "test_interval": "500", "snapshot": "5000", "type": '"Nesterov"',
}  # fmt: skip


def from_dump(solver: dict[str, Any]) -> SolverParameter:
    """The solver that a log's head shows, as far as its fields are known to this project."""
    message = SolverParameter()
    for field in message.DESCRIPTOR.fields:
        if field.name not in solver or field.message_type is not None:
            continue
        given = many(solver, field.name)
        if field.enum_type is not None:
            given = [field.enum_type.values_by_name[v].number for v in given if v in field.enum_type.values_by_name]
        elif field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
            given = [float(value) for value in given]
        target = getattr(message, field.name)
        if hasattr(target, "extend"):
            target.extend(given)
        elif given:
            setattr(message, field.name, given[-1])
    return message


NET = """
layer {{ name: "in" type: "Data" top: "x" include {{ phase: TEST }}
  data_param {{ source: "{db}" batch_size: {batch} }} }}
layer {{ name: "bn" type: "BatchNorm" bottom: "x" top: "y" batch_norm_param {{ moving_average_fraction: {fraction} }} }}
"""


def solver(**changes: str | None) -> SolverParameter:
    """The good solver with some fields changed, or left out (None)."""
    fields = {k: v for k, v in {**GOOD, **changes}.items() if v is not None}
    return parse_text("\n".join(f"{k}: {v}" for k, v in fields.items()), SolverParameter)


def test_a_good_solver():
    assert check_solver(solver()) == []


@pytest.mark.parametrize(
    "changes, level, field, words",
    [
        ({"cyclical_momentum": "[0.85, 4400]"}, "warning", "cyclical_momentum", "4400 iterations, of the rate 4500"),
        ({"max_lr": "0.01"}, "warning", "max_lr", "below base_lr"),
        ({"max_lr": None}, "error", "lr_policy", "max_lr is not set"),
        ({"momentum": "1.0"}, "error", "momentum", "reaches 1"),
        ({"cyclical_momentum": "[1.0, 4500]"}, "error", "momentum", "reaches 1"),
        ({"cyclical_momentum": "[0.97, 4500]"}, "warning", "cyclical_momentum", "rises"),
        ({"max_iter": "8000"}, "warning", "stepsize", "does not fit into max_iter 8000"),
        ({"max_iter": "9000"}, "warning", "max_iter", "no tail"),
        ({"lr_policy": '"triangular"'}, "warning", "stepsize", "1.11 cycles"),
        ({"lr_policy": '"fixed"', "max_lr": None, "stepvalue": "10"}, "warning", "stepvalue", "does not use it"),
        ({"lr_policy": '"multistep"', "gamma": "0.1", "stepvalue": "[3000, 2000]"}, "warning", "stepvalue", "3001"),
        ({"lr_policy": '"multistep"', "gamma": "0.1", "stepvalue": "[3000, 20000]"}, "warning", "stepvalue", "never"),
        ({"lr_policy": '"plateau"', "gamma": "0.1", "max_lr": None}, "warning", "plateau_winsize", "stays at base_lr"),
        ({"lr_policy": '"step"', "stepsize": "100"}, "error", "gamma", "rate becomes 0"),
        ({"lr_policy": '"tringular"'}, "error", "lr_policy", "triangular"),
        ({"lr_policy": '"fixed"', "base_lr": None, "max_lr": None}, "error", "base_lr", "nothing is learned"),
        ({"snapshot": None, "snapshot_after_train": "false"}, "warning", "snapshot", "no snapshot"),
        ({"snapshot_prefix": '"nowhere/x"'}, "warning", "snapshot_prefix", "no folder nowhere"),
        ({"clip_gradients": "0"}, "error", "clip_gradients", "every gradient"),
        ({"display": None}, "warning", "display", "nothing can be plotted"),
        ({"max_iter": None}, "warning", "max_iter", "is not set: `train` does nothing"),
        ({"max_iter": "-1"}, "warning", "max_iter", "is -1: `train` does nothing"),
        ({"base_lr": "-0.01"}, "error", "base_lr", "up the gradient"),
        ({"max_lr": "-1"}, "error", "max_lr", "up the gradient"),
        ({"base_lr": "nan"}, "error", "base_lr", "not a finite number"),
        ({"cyclical_momentum": "[0.85, inf]"}, "error", "cyclical_momentum", "not a finite number"),
        ({"weight_decay": "-0.1"}, "error", "weight_decay", "driven apart"),
        ({"display": "-20"}, "warning", "display", "counts as 20"),
        ({"snapshot": "-1"}, "warning", "snapshot", "counts as 1"),
        ({"type": '"Adam"', "momentum2": "1"}, "error", "momentum2", "must lie in [0, 1)"),
        ({"type": '"Adam"', "delta": "0"}, "warning", "delta", "divide by 0"),
        ({"test_interval": "20000", "test_initialization": "false"}, "warning", "test_interval", "no test"),
        ({"test_interval": "300"}, "note", "test_interval", "last test at 9900"),
        ({"weight_decay": None}, "note", "weight_decay", "no regularisation"),
    ],
)
def test_each_slip(changes, level, field, words):
    found = check_solver(solver(**changes))
    assert any(f.level == level and f.field == field and words in f.text for f in found), [str(f) for f in found]


def test_an_adam_as_it_should_be():
    assert check_solver(solver(type='"Adam"')) == []


def test_a_training_is_not_warned_of_a_net_that_it_will_refuse(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = parse_text('net: "nowhere" base_lr: -1 lr_policy: "fixed" max_iter: 1 display: 1', SolverParameter)
    assert [f.field for f in check_files(given) if f.level == "error"] == ["net", "base_lr"]
    assert [f.field for f in check_training(given) if f.level == "error"] == ["base_lr"]


def test_a_range_test_is_no_broken_cycle():
    ramp = solver(lr_policy='"triangular"', stepsize="10000", cyclical_momentum=None, snapshot=None,
                  snapshot_after_train="false")  # fmt: skip
    assert check_solver(ramp) == []


def test_effective_rate_against_a_range_test():
    """The author's test broke near 0.5 at momentum 0.9: an effective rate of 5."""
    log = read_log(LOGS / "clipping_cut_off.log.gz")
    assert not [f for f in check_solver(solver(), log=log) if f.field == "max_lr"]  # 0.5 / (1 - 0.85) = 3.3
    (found,) = [f for f in check_solver(solver(max_lr="1.0"), log=log) if f.field == "max_lr"]
    assert "reaches 6.67 (lr 1, momentum 0.85)" in found.text and "momentum 0.9)" in found.text
    (note,) = [f for f in check_solver(solver(), log=read_log(LOGS / "range_test.log.gz")) if f.field == "log"]
    assert note.level == "note" and "no break up to 3" in note.text


def test_a_range_test_in_which_nothing_trains():
    reader = Reader("dead")
    for i in range(0, 400, 10):
        for source, text in (("solver", "loss = nan"), ("sgd_solver", f"lr = {0.01 + i / 100:g}")):
            reader.feed(f"I0321 09:01:36.326753  7379 {source}.cpp:239] Iteration {i}, {text}\n")
    (note,) = [f for f in check_solver(solver(), log=reader.finish()) if f.field == "log"]
    assert note.level == "note" and "no rate at which training works" in note.text


def test_test_set_size(tmp_path):
    with lmdb.open(str(tmp_path / "db")) as base, base.begin(write=True) as write:
        for i in range(10_000 // 100):
            write.put(b"%05d" % i, b"x")
    right = parse_text(NET.format(db=tmp_path / "db", batch=1, fraction=0.95), NetParameter)
    wrong = parse_text(NET.format(db=tmp_path / "db", batch=3, fraction=0.95), NetParameter)
    assert check_solver(solver(), right) == []
    (found,) = check_solver(solver(), wrong)
    assert (
        found.field == "test_iter"
        and "100 x batch 3 = 300 images" in found.text
        and "has 100: test_iter 34" in found.text
    )


def test_the_net_is_read_from_its_file(tmp_path):
    file = tmp_path / "net.prototxt"
    named = solver(net=f'"{file}"')
    (absent,) = check_files(named)
    assert str(absent).startswith(f"error: net: {file} is not there")
    file.write_text(NET.format(db="none", batch=1, fraction=0.9999))
    assert [f.field for f in check_files(named)] == [f.field for f in check_training(named)] == ["bn"]


def test_what_the_solver_alone_shows_is_said_without_a_net(tmp_path):
    """A net that cannot be read, or has placeholders: one error more, none of the others lost."""
    file = tmp_path / "net.prototxt"
    file.write_text('layer { type: "Data" data_param { batch_size: xBS } }')
    slip = solver(net=f'"{file}"', display=None)
    found = check_files(slip)
    assert [f.field for f in found] == ["net", "display"] and "xBS" in found[0].text
    file.write_text("base_lr: 1")
    assert "looks like a solver, not a net" in check_files(slip)[0].text


@pytest.mark.parametrize(
    "changes",
    [
        {"momentum": "0.99", "cyclical_momentum": None},  # in float 0.99 is above 0.99
        {"test_interval": "10000000"},
        {"test_interval": "999999999", "test_initialization": "false"},
        {"lr_policy": '"step"', "max_lr": None, "cyclical_momentum": None, "gamma": "0.1", "stepsize": "999999999"},
        {"lr_policy": '"multistep"', "max_lr": None, "cyclical_momentum": None, "gamma": "0.1",
         "stepvalue": "[5000, 10000000]"},
    ],
)  # fmt: skip
def test_no_false_alarm(changes):
    assert check_solver(solver(**changes)) == []


def test_no_end_is_no_error_for_a_script_that_calls_step():
    assert {f.level for f in check_solver(solver(max_iter=None))} == {"warning"}


def test_a_net_in_the_form_of_2014_is_looked_at_too(tmp_path):
    """V1: `layers` with types in capitals; written so, the same net had no layers for the checks."""
    file = tmp_path / "net.prototxt"
    (tmp_path / "list.txt").write_text("a.png 0\n" * 40)
    file.write_text(
        'layers { name: "d" type: IMAGE_DATA top: "x" top: "y" include { phase: TEST } '
        f'image_data_param {{ source: "{tmp_path / "list.txt"}" batch_size: 4 }} }}'
    )
    (found,) = check_training(solver(net=f'"{file}"'))
    assert found.field == "test_iter" and "100 x batch 4 = 400 images" in found.text and "has 40" in found.text


def test_the_advice_reaches_a_training(tmp_path, monkeypatch, capsys):
    """The number of test images is counted before the nets open the same database."""
    monkeypatch.chdir(tmp_path)
    with lmdb.open("db") as base, base.begin(write=True) as write:
        for i in range(20):
            write.put(b"%05d" % i, Datum(channels=1, height=1, width=2, data=b"ab", label=0).SerializeToString())
    data = 'layer { name: "d" type: "Data" top: "x" top: "y" data_param { source: "db" backend: LMDB batch_size: 4 } }'
    head = (
        'layer { name: "ip" type: "InnerProduct" bottom: "x" top: "s" inner_product_param { num_output: 2 } } '
        'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "s" bottom: "y" top: "loss" }'
    )
    Path("net.prototxt").write_text(data + head)
    Path("solver.prototxt").write_text(
        'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 1 test_iter: 7 test_interval: 1 display: 1 '
        'snapshot_prefix: "snap"'
    )
    assert main(["train", "--solver=solver.prototxt"]) == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("W")]
    assert len(warnings) == 1 and "test_iter: 7 x batch 4 = 28 images" in warnings[0] and "test_iter 5" in warnings[0]


@pytest.mark.parametrize("fraction, count", [(0.999, 0), (0.9999, 1), (0.95, 0)])
def test_batch_norm_memory(fraction, count):
    net = parse_text(NET.format(db="none", batch=1, fraction=fraction), NetParameter)
    found = check_solver(solver(), net)
    assert len(found) == count and all(f.field == "bn" for f in found)


def test_the_authors_two_slips():
    """His published solvers: stepvalues out of order, and a momentum cycle ten times as long as the rate's."""
    dense = {"base_lr": 0.1, "max_iter": 39062, "lr_policy": "multistep", "gamma": 0.316, "momentum": 0.9,
             "weight_decay": 0.0001, "stepvalue": [19531, 29296, 34178, 36619, 35398], "type": "Nesterov"}  # fmt: skip
    inception = {"lr_policy": "1cycle", "base_lr": 0.05, "max_lr": 1, "stepsize": 108000, "momentum": 0.95,
                 "cyclical_momentum": [0.85, 1080000]}  # fmt: skip
    assert any("36619, 35398 are out of order" in f.text for f in check_solver(from_dump(dense)))
    assert any("1080000 iterations, of the rate 108000" in f.text for f in check_solver(from_dump(inception)))


def test_the_solver_in_a_log():
    message = from_dump(read_log(LOGS / "new_format_1cycle.log.gz").solver)
    assert message.lr_policy == "1cycle" and list(message.cyclical_momentum) == pytest.approx([0.8, 2246])
    assert message.type == "Nesterov" and message.max_iter == 4882 and message.test_initialization is False

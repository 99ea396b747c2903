"""The loop on a tiny net: what happens when, what is told, what is refused."""

from __future__ import annotations

import io
import os
import signal
import sys

import h5py
import numpy as np
import pytest
import tiny_training
import torch

from pysolver.errors import CaffeError
from pysolver.logs import events as e
from pysolver.proto import blobproto, caffe_pb2
from pysolver.proto.text import parse_text
from pysolver.proto.upgrade import read_solver, read_weights
from pysolver.solver.signals import Action, SignalHandler, parse_effect
from pysolver.solver.smoothing import Smoothing
from pysolver.solver.solver import SOLVERS, Solver
from pysolver.solver.train import TrainOptions, main, train
from pysolver.solver_types import TYPES


@pytest.fixture
def folder(tmp_path, monkeypatch, databases):
    """folder(extra fields): a tiny training in the working directory."""

    def make(extra: str = ""):
        monkeypatch.chdir(tiny_training.write(tmp_path / "run", databases, extra))
        return tmp_path / "run"

    return make


def make_solver(**options) -> tuple[Solver, list]:
    told: list[e.Event] = []
    return Solver(read_solver("solver.prototxt"), subscribers=[told.append], **options), told


def weights_of(solver: Solver) -> list[np.ndarray]:
    return [parameter.detach().numpy().copy() for parameter in solver.net.learnable_params]


def same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


class Script:
    """An action function that gives the listed actions at the listed polls."""

    def __init__(self, actions: dict[int, Action]) -> None:
        self.actions, self.polls = actions, -1

    def __call__(self) -> Action:
        self.polls += 1
        return self.actions.get(self.polls, Action.NONE)


# ---- the order of things --------------------------------------------------------------------------------------------


def test_order_within_a_run(folder):
    """Caffe's list (Solver::Step, Solver::Solve), with events at common multiples."""
    folder("max_iter: 6 display: 3 test_interval: 3 snapshot: 3 stepvalue: [3, 4] iter_size: 1")
    solver, told = make_solver()
    solver.solve()
    names = [type(event).__name__ + (f"{event.iteration}" if hasattr(event, "iteration") else "") for event in told]
    start = names.index("Solving")
    assert [name for name in names[start:] if name != "Output" and not name.startswith("Iteration")] == [
        *("Solving", "Policy", "Testing0", "Testing0", "Display0", "Rate0", "Snapshot", "Snapshot"),
        *("Testing3", "Testing3", "Display3", "MultiStep3", "Rate3", "MultiStep4", "Snapshot", "Snapshot"),
        *("Display6", "Testing6", "Testing6", "Done"),
    ]
    assert names[:start] == [
        *("InitializingSolver", "CreatingTrainNet", "CreatingTestNet", "CreatingTestNet", "ScaffoldingDone"),
    ]


def test_unsorted_stepvalues_are_taken_one_an_iteration(folder):
    """As in an author's log with stepvalues 36619 and 35398: the rate drops at 36619, and again at 36620."""
    folder("display: 1 test_iter: [] test_interval: 0 stepvalue: [4, 2, 2] base_lr: 0.1 max_iter: 8")
    solver, told = make_solver()
    seen = []
    for _ in range(8):
        seen.append(float(solver.lr))
        solver.step(1)
    rates = [event.lr for event in told if isinstance(event, e.Rate)]
    assert np.allclose(rates, [0.1, 0.1, 0.1, 0.1, 0.05, 0.025, 0.0125, 0.0125], rtol=1e-6) and seen == rates
    assert [(event.iteration, event.step) for event in told if isinstance(event, e.MultiStep)] == [
        (4, 1),
        (5, 2),
        (6, 3),
    ]


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ("max_iter: 5 snapshot: 0", ["snap_iter_5"]),
        ("max_iter: 5 snapshot: 2", ["snap_iter_2", "snap_iter_4", "snap_iter_5"]),
        ("max_iter: 4 snapshot: 2", ["snap_iter_2", "snap_iter_4"]),
        ("max_iter: 5 snapshot: 2 snapshot_after_train: false", ["snap_iter_2", "snap_iter_4"]),
        ("max_iter: 0 snapshot: 2", []),
        ("max_iter: 0 snapshot: 0", ["snap_iter_0"]),
    ],
)
def test_which_snapshots(folder, extra, expected):
    here = folder(extra)
    make_solver()[0].solve()
    assert sorted(file.stem for file in here.glob("*.solverstate")) == expected
    assert sorted(file.stem for file in here.glob("*.caffemodel")) == expected


def test_display_0_tells_tests_only(folder):
    folder("display: 0 max_iter: 6")
    solver, told = make_solver()
    solver.solve()
    assert not [
        event
        for event in told
        if isinstance(event, e.Display | e.Rate) or (isinstance(event, e.Output) and event.phase == "Train")
    ]
    assert sum(isinstance(event, e.Testing) for event in told) == 4


def test_test_initialization(folder):
    folder("test_initialization: false max_iter: 6")
    solver, told = make_solver()
    solver.solve()
    assert {event.iteration for event in told if isinstance(event, e.Testing)} == {5}


def test_a_test_is_the_mean_of_batch_means(folder):
    folder("test_compute_loss: true")
    solver, told = make_solver()
    solver.test(1)
    output, loss = (next(event for event in told if isinstance(event, kind)) for kind in (e.Output, e.TestLoss))
    again, _ = make_solver()
    net = again.test_nets[1]
    net.share_trained_layers_with(solver.net)
    with torch.no_grad():
        batches = [float(net.run()) for _ in range(3)]
    assert output.value == pytest.approx(np.mean(batches), rel=1e-6)
    assert loss.value == pytest.approx(output.value, rel=1e-6)
    assert (output.weight, output.weighted) == (1.0, output.value)


def test_callbacks_and_a_manual_update(folder):
    folder("type: 'SGD' cyclical_momentum: [] momentum: 0 weight_decay: 0 iter_size: 1 lr_policy: 'fixed' base_lr: 0.5")
    solver, _ = make_solver()
    calls = []
    solver.add_callback(lambda: calls.append(("start", solver.iter)), lambda: calls.append(("ready", solver.iter)))
    solver.step(2)
    assert calls == [("start", 0), ("ready", 0), ("start", 1), ("ready", 1)]
    before = weights_of(solver)
    for parameter in solver.net.learnable_params:
        parameter.grad.fill_(2)
    solver.apply_update()
    rates = [0.5 * mult for mult in solver.net.lr_mults]
    assert all(np.allclose(b - a, r * 2) for a, b, r in zip(weights_of(solver), before, rates))
    assert solver.iter == 3


def test_reading_lr_changes_nothing(folder):
    folder()
    solver, _ = make_solver()
    solver.iter = 9
    assert [solver.lr, solver.lr, solver.current_step] == [np.float32(0.005), np.float32(0.005), 0]


def test_seeds(folder):
    folder()
    a, b = make_solver()[0], make_solver()[0]
    assert same(weights_of(a), weights_of(b))
    folder("random_seed: 6")
    c = make_solver()[0]
    assert not same(weights_of(a), weights_of(c))
    folder("random_seed: -1")
    torch.seed()
    assert not same(weights_of(make_solver()[0]), weights_of(make_solver()[0]))


def test_smoothing():
    window = Smoothing(3, start=10)
    values = []
    for i, loss in enumerate([1, 2, 6, 4, 8, 0]):
        window.add(10 + i, loss)
        values.append(float(window.value))
    assert values == pytest.approx([1, 1.5, 3, 4, 6, 4])
    again = Smoothing.from_state(3, window.state())
    for each in (window, again):
        each.add(16, 1)
    assert again == window
    window.add(17, float("nan"))
    for i in range(9):
        window.add(18 + i, 1)
    assert np.isnan(window.value), "one NaN stays, as in Caffe"


# ---- nets ------------------------------------------------------------------------------------------------------------


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


# ---- snapshots and resume --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["BINARYPROTO", "HDF5"])
@pytest.mark.parametrize("kind", TYPES)
def test_n_steps_and_m_more_are_n_plus_m(folder, kind, format):
    """Caffe's TestSnapshot, to the bit, with moving data, dropout and crops."""
    momentum = "momentum: 0.8" if TYPES[kind].takes_momentum else "momentum: 0"
    folder(f"type: '{kind}' {momentum} snapshot: 0 snapshot_format: {format} cyclical_momentum: []")
    whole, _ = make_solver()
    whole.step(23)
    first, _ = make_solver()
    first.step(11)
    first.snapshot()
    second, told = make_solver()
    second.restore("snap_iter_11.solverstate" + (".h5" if format == "HDF5" else ""))
    assert (e.RestoringHistory() in told) == (format == "BINARYPROTO")
    second.step(12)
    assert same(weights_of(second), weights_of(whole))
    assert same([h.numpy() for h in second.history], [h.numpy() for h in whole.history])
    assert (second.iter, second.current_step, second.smoothing) == (whole.iter, whole.current_step, whole.smoothing)


def test_a_recurrent_layer_resumes_with_the_state_it_carries(folder):
    here = folder("snapshot: 0")
    lstm = """
        layer { name: "steps" type: "Reshape" bottom: "ip1" top: "steps"
          reshape_param { shape { dim: 0 dim: 1 dim: 8 } } }
        layer { name: "cont" type: "DummyData" top: "cont"
          dummy_data_param { shape { dim: 7 dim: 1 } data_filler { value: 1 } } }
        layer { name: "lstm" type: "LSTM" bottom: "steps" bottom: "cont" top: "lstm"
          recurrent_param { num_output: 8 weight_filler { type: "uniform" min: -1 } } }
        layer { name: "ip2" type: "InnerProduct" bottom: "lstm" top: "ip2"
          inner_product_param { num_output: 10 axis: 2 } }
        layer { name: "flat" type: "Reshape" bottom: "ip2" top: "flat" reshape_param { shape { dim: -1 dim: 10 } } }
        layer { name: "loss" type: "SoftmaxWithLoss" bottom: "flat" bottom: "label" top: "loss" }"""
    net = (here / "net.prototxt").read_text().replace("batch_size: 9", "batch_size: 7")
    net = net[: net.index('layer { name: "ip2"')] + lstm
    (here / "net.prototxt").write_text(net)
    whole, _ = make_solver()
    whole.step(12)
    first, _ = make_solver()
    first.step(7)
    first.snapshot()
    second, _ = make_solver()
    second.restore("snap_iter_7.solverstate")
    second.step(5)
    assert same(weights_of(second), weights_of(whole))


def test_an_earlier_point_reads_its_data_from_the_start(folder, capsys):
    folder("max_iter: 14")
    run, _ = make_solver()
    run.solve()
    sixth, _ = make_solver()
    sixth.restore("snap_iter_6.solverstate")
    assert "Returning to an earlier point" in capsys.readouterr().err
    assert (sixth.iter, sixth.net.sources["data"].state()["batches"]) == (6, 0)
    newest, _ = make_solver()
    newest.restore("snap_iter_14.solverstate")
    assert "Continuing exactly" in capsys.readouterr().err
    assert newest.net.sources["data"].state()["batches"] == 28
    forced, _ = make_solver()
    forced.restore("snap_iter_6.solverstate", always_continue=True)
    assert forced.net.sources["data"].state()["batches"] == 12


def test_snapshots_of_another_run_do_not_make_it_an_earlier_point(folder, capsys):
    folder("max_iter: 14")
    make_solver()[0].solve()
    again, _ = make_solver()
    again.step(6)
    restored, _ = make_solver()
    restored.restore("snap_iter_6.solverstate")
    assert "Continuing exactly" in capsys.readouterr().err


def test_caffes_states_have_no_positions(folder, capsys):
    here = folder("max_iter: 6")
    make_solver()[0].solve()
    state = caffe_pb2.SolverState.FromString((here / "snap_iter_6.solverstate").read_bytes())
    state.DiscardUnknownFields()
    (here / "caffe_iter_6.solverstate").write_bytes(state.SerializeToString())
    solver, _ = make_solver()
    solver.restore("caffe_iter_6.solverstate")
    assert "A snapshot without data positions" in capsys.readouterr().err
    assert solver.iter == 6


@pytest.mark.parametrize("poll", [0, 2, 3])
def test_a_snapshot_within_a_test_resumes_exactly(folder, poll):
    """Polls 0 to 4 come before the batches of the test at iteration 0, then one after each update."""
    folder("snapshot: 0 test_interval: 4")
    whole, _ = make_solver()
    whole.step(20)
    first, _ = make_solver(action=Script({9 + poll: Action.SNAPSHOT}))  # the test at iteration 4
    first.step(5)
    second, told = make_solver()
    second.restore("snap_iter_4.solverstate")
    second.step(16)
    assert same(weights_of(second), weights_of(whole))
    assert [net.sources["data"].state() for net in second.test_nets] == [
        net.sources["data"].state() for net in whole.test_nets
    ]


def test_snapshot_diff_is_the_applied_step(folder):
    here = folder("snapshot_diff: true snapshot: 0")
    for format in ("BINARYPROTO", "HDF5"):
        folder(f"snapshot_diff: true snapshot: 0 snapshot_format: {format}")
        solver, _ = make_solver()
        solver.step(2)
        before = weights_of(solver)
        solver.step(1)
        solver.snapshot()
        step = [b - a for a, b in zip(weights_of(solver), before)][0]
        if format == "HDF5":
            diff = h5py.File(here / "snap_iter_3.caffemodel.h5")["diff/ip1/0"][()]
        else:
            model = read_weights("snap_iter_3.caffemodel")
            diff = blobproto.diff_to_array(next(layer for layer in model.layer if layer.name == "ip1").blobs[0])
        np.testing.assert_allclose(diff, step, atol=1e-6)
        assert np.abs(diff).max() > 1e-4


def test_keep(folder):
    here = folder("max_iter: 20 snapshot: 3")
    (here / "snap_iter_90.caffemodel").write_text("later than this run")
    (here / "snap_iter_1.caffemodel").write_text("no state beside it: not a snapshot")
    make_solver(keep=2)[0].solve()
    assert sorted(file.name for file in here.glob("snap*")) == [
        *("snap_iter_1.caffemodel", "snap_iter_18.caffemodel", "snap_iter_18.solverstate"),
        *("snap_iter_20.caffemodel", "snap_iter_20.solverstate", "snap_iter_90.caffemodel"),
    ]


def test_auto_takes_weights_at_the_first_start_only(folder, capsys):
    folder("max_iter: 3")
    make_solver()[0].solve()
    os.rename("snap_iter_3.caffemodel", "start.caffemodel")
    os.remove("snap_iter_3.solverstate")
    train(TrainOptions("solver.prototxt", snapshot="auto", weights="start.caffemodel"))
    assert "Finetuning from start.caffemodel" in capsys.readouterr().err
    folder("max_iter: 8")
    train(TrainOptions("solver.prototxt", snapshot="auto", weights="start.caffemodel"))
    log = capsys.readouterr().err
    assert "Finetuning" not in log and "Resuming from snap_iter_3.solverstate" in log


def wrong_pairings():
    yield "model as state", "snap_iter_6.caffemodel", "", "this is a model, not a solver state: give the .solverstate"
    yield "other type", "snap_iter_6.solverstate", "type: 'SGD'", "a state of solver type Adam, this solver is SGD"
    yield "missing", "snap_iter_9.solverstate", "", "snap_iter_9.solverstate: file not found"
    yield (
        "net",
        "snap_iter_6.solverstate",
        "",
        "history blob 0 has shape [8, 81], its parameter [5, 81]: a state of another net",
    )
    yield "renamed", "snap_iter_6.solverstate", "", "its model 'snap_iter_6.caffemodel' has no layer 'ip9'"
    yield "prototxt", "net.prototxt", "", "net.prototxt: not a solver state, or damaged"


@pytest.mark.parametrize(("what", "file", "extra", "words"), [pytest.param(*w, id=w[0]) for w in wrong_pairings()])
def test_wrong_pairings_name_the_fix(folder, what, file, extra, words):
    here = folder("max_iter: 6")
    make_solver()[0].solve()
    folder("max_iter: 9 " + extra)
    net = (here / "net.prototxt").read_text()
    net = {
        "net": net.replace("num_output: 8", "num_output: 5"),
        "renamed": net.replace('"ip2" type', '"ip9" type'),
    }.get(what, net)
    (here / "net.prototxt").write_text(net)
    with pytest.raises(CaffeError) as caught:
        train(TrainOptions("solver.prototxt", snapshot=file))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_state_without_its_model(folder):
    here = folder("max_iter: 6")
    make_solver()[0].solve()
    (here / "moved").mkdir()
    for file in here.glob("snap*"):
        os.rename(file, here / "moved" / file.name)
    solver, _ = make_solver()
    with pytest.raises(CaffeError, match="run from the folder where the training began"):
        solver.restore("moved/snap_iter_6.solverstate")


# ---- stops, signals, NaN ---------------------------------------------------------------------------------------------


def test_stop_after_an_update(folder):
    here = folder("test_interval: 0 test_iter: [] max_iter: 20")
    solver, told = make_solver(action=Script({4: Action.STOP}))
    solver.solve()
    assert (solver.iter, [file.name for file in here.glob("*.solverstate")]) == (5, ["snap_iter_5.solverstate"])
    assert isinstance(told[-1], e.StoppedEarly) and e.Done("solver") not in told


def test_stop_within_a_test(folder):
    folder("max_iter: 20")
    solver, told = make_solver(action=Script({3: Action.STOP}))  # in the second test net
    solver.solve()
    assert solver.iter == 0
    kinds = [type(event).__name__ for event in told]
    assert kinds[-3:] == ["Output", "Testing", "TestInterrupted"] or kinds[-2:] == ["TestInterrupted", "StoppedEarly"]
    assert "Display" not in kinds, "no training pass after the stop"


@pytest.mark.parametrize("extra", ["", "snapshot_after_train: false", "snapshot: 0", "snapshot: 3"])
def test_preemption_saves_once_and_stops(folder, extra):
    here = folder("test_interval: 0 test_iter: [] max_iter: 20 " + extra)
    solver, told = make_solver(action=Script({2: Action.PREEMPT}))
    solver.solve()
    assert solver.iter == 3 and [file.name for file in here.glob("*.solverstate")] == ["snap_iter_3.solverstate"]
    assert sum(isinstance(event, e.Snapshot) for event in told) == 2
    assert isinstance(told[-1], e.StoppedEarly)


@pytest.mark.parametrize(
    ("number", "options", "stops", "saves"),
    [
        (signal.SIGINT, {}, True, True),
        (signal.SIGHUP, {}, False, True),
        (signal.SIGTERM, {}, True, True),
        (signal.SIGINT, {"sigint_effect": "none"}, False, False),
        (signal.SIGINT, {"sigint_effect": "snapshot"}, False, True),
        (signal.SIGHUP, {"sighup_effect": "stop"}, True, True),
    ],
)
@pytest.mark.parametrize("when", [e.Display, e.Testing])
def test_signals_within_one_iteration(folder, capsys, number, options, stops, saves, when):
    here = folder("max_iter: 12 snapshot: 0 display: 4 test_interval: 4 snapshot_after_train: true")
    before = signal.getsignal(number)

    def send(event):
        if isinstance(event, when) and event.iteration == 4:
            os.kill(os.getpid(), number)

    main(TrainOptions("solver.prototxt", **options), subscribers=[send])
    log = capsys.readouterr().err
    saved = {int(file.stem.split("_")[-1]) for file in here.glob("*.solverstate")}
    served = 4 if when is e.Testing else 5
    assert ("Optimization stopped early." in log) == stops
    assert log.count("Optimization Done.") == (1 if stops else 2)
    assert (served in saved) == saves and (12 in saved) != stops
    assert ("Test interrupted." in log) == (stops and when is e.Testing)
    assert signal.getsignal(number) == before, "the handlers are put back"


def test_poll_order_and_counting():
    with SignalHandler() as poll:
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGHUP, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert [poll() for _ in range(4)] == [Action.PREEMPT, Action.SNAPSHOT, Action.STOP, Action.NONE]
    with pytest.raises(CaffeError, match='Invalid signal effect "halt" was specified'):
        parse_effect("halt")


def test_nan_is_told_once_at_its_iteration(folder, capsys):
    folder("base_lr: 1e30 type: 'SGD' max_iter: 12 test_interval: 0 test_iter: []")
    solver, told = make_solver()
    solver.solve()
    lines = [line for line in capsys.readouterr().err.splitlines() if "the loss is" in line]
    assert len(lines) == 1 and lines[0].startswith("W") and solver.iter == 12
    iteration = int(lines[0].split("Iteration ")[1].split(":")[0])
    stopping, _ = make_solver(stop_on_nan=True)
    with pytest.raises(CaffeError, match=f"Iteration {iteration}: the loss is (nan|inf)"):
        stopping.solve()
    assert stopping.iter == iteration


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("type: 'Sgd'", "Unknown solver type: Sgd (known types: AdaDelta, AdaGrad, Adam, Nesterov, RMSProp, SGD)"),
        ("type: 'AdaGrad'", "Momentum cannot be used with AdaGrad."),
        ("type: 'RMSProp'", "Momentum cannot be used with RMSProp."),
        ("type: 'RMSProp' momentum: 0 rms_decay: 1", "rms_decay should lie between 0 and 1."),
        ("type: 'RMSProp' momentum: 0", "cyclical_momentum cannot be used with"),
        ("lr_policy: 'triangle'", "Unknown learning rate policy: triangle"),
        ("regularization_type: 'L3'", "Unknown regularization type: L3"),
        ("average_loss: 0", "average_loss should be non-negative"),
        ("iter_size: 0", "iter_size is 0"),
        ("test_iter: [0, 3]", "test_iter is 0 for test net #0"),
        ("test_interval: 0", "test_interval() > 0"),
        ("test_net: ['a', 'b', 'c']", "test_iter must be specified for each test network."),
        ("test_state { }", "test_state must be unspecified or specified once per test net."),
        ("train_net: 'x'", "must not contain more than one of these fields"),
        ("net: 'nowhere.prototxt'", "nowhere.prototxt: file not found"),
        ("snapshot_prefix: 'nowhere/snap'", "Cannot write to snapshot prefix 'nowhere/snap'."),
        ("snapshot_prefix: 'nowhere/snap' snapshot: 0", "Cannot write to snapshot prefix 'nowhere/snap'."),
    ],
)
def test_refusals_write_nothing(folder, extra, words):
    here = folder(extra)
    before = sorted(here.iterdir())
    with pytest.raises(CaffeError) as caught:
        train(TrainOptions("solver.prototxt"))
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert sorted(here.iterdir()) == before


def test_no_net(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.prototxt").write_text("lr_policy: 'fixed'")
    with pytest.raises(CaffeError, match="s.prototxt: SolverParameter must specify a train net"):
        train(TrainOptions("s.prototxt"))


def test_snapshot_and_weights(folder):
    folder()
    with pytest.raises(CaffeError, match="but not both"):
        train(TrainOptions("solver.prototxt", snapshot="a.solverstate", weights="b.caffemodel"))


def test_a_fixed_type_ignores_the_parameters(folder):
    folder("momentum: 0.9")
    solver = SOLVERS["SGD"](read_solver("solver.prototxt"), subscribers=[])
    assert solver.type == "SGD" and len(solver.history) == len(solver.net.learnable_params)


def test_unknown_regularization_without_decay_is_fine(folder):
    folder("regularization_type: 'L3' weight_decay: 0 max_iter: 1")
    make_solver()[0].solve()


# ---- watchers -------------------------------------------------------------------------------


def test_tensorboard_and_no_bar_in_a_log(folder, capsys):
    pytest.importorskip("tensorboardX")
    here = folder("max_iter: 4")
    train(TrainOptions("solver.prototxt", tensorboard="board", progress=True))
    assert list((here / "board").glob("events*"))
    assert "\r" not in capsys.readouterr().err


def test_a_bar_on_a_terminal_leaves_the_log_lines_whole(folder, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    folder("max_iter: 4")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    train(TrainOptions("solver.prototxt"))
    pieces = terminal.getvalue().replace("\r", "\n").splitlines()
    assert any("4/4" in piece for piece in pieces)
    assert sum(piece.endswith("Optimization Done.") and piece.startswith("I") for piece in pieces) == 2

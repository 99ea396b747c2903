"""What a resumed run takes up again, and when it does not."""

from __future__ import annotations

import numpy as np
import pytest
from short_runs import Script, make_solver, same, weights_of

from pysolver.logs import notices
from pysolver.proto import caffe_pb2
from pysolver.solver.signals import Action


def in_two_parts_and_whole(before: int, after: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The weights after so many iterations, a resume and so many more, and those of an undisturbed run."""
    whole, _ = make_solver()
    whole.step(before + after)
    first, _ = make_solver()
    first.step(before)
    first.snapshot()
    second, _ = make_solver()
    second.restore(f"snap_iter_{before}.solverstate")
    second.step(after)
    return weights_of(second), weights_of(whole)


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
    assert same(*in_two_parts_and_whole(7, 5))


def test_nvidias_batch_norm_resumes_with_statistics_that_have_begun(folder):
    """They are those of the first two batches themselves: not of the first two after a resume."""
    here = folder("snapshot: 0")
    norm = 'layer { name: "nvidia" type: "BatchNorm" bottom: "ip1" top: "ip1" batch_norm_param { scale_bias: true } }'
    net = (here / "net.prototxt").read_text()
    place = net.index('layer { name: "ip2"')
    (here / "net.prototxt").write_text(f"{net[:place]}{norm}\n{net[place:]}")
    assert same(*in_two_parts_and_whole(4, 2))


def test_an_earlier_point_reads_its_data_from_the_start(folder):
    folder("max_iter: 14")
    run, _ = make_solver()
    run.solve()
    sixth, told = make_solver()
    sixth.restore("snap_iter_6.solverstate")
    assert notices.Returning() in told
    assert (sixth.iter, sixth.net.sources["data"].state()["batches"]) == (6, 0)
    newest, told = make_solver()
    newest.restore("snap_iter_14.solverstate")
    assert notices.Continuing() in told
    assert newest.net.sources["data"].state()["batches"] == 28
    forced, _ = make_solver()
    forced.restore("snap_iter_6.solverstate", always_continue=True)
    assert forced.net.sources["data"].state()["batches"] == 12


def test_snapshots_of_another_run_do_not_make_it_an_earlier_point(folder):
    folder("max_iter: 14")
    make_solver()[0].solve()
    again, _ = make_solver()
    again.step(6)
    restored, told = make_solver()
    restored.restore("snap_iter_6.solverstate")
    assert notices.Continuing() in told


def test_caffes_states_have_no_positions(folder):
    here = folder("max_iter: 6")
    make_solver()[0].solve()
    state = caffe_pb2.SolverState.FromString((here / "snap_iter_6.solverstate").read_bytes())
    state.DiscardUnknownFields()
    (here / "caffe_iter_6.solverstate").write_bytes(state.SerializeToString())
    solver, told = make_solver()
    solver.restore("caffe_iter_6.solverstate")
    assert notices.DataStartOver() in told
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

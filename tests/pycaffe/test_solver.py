"""caffe.SGDSolver and its kin."""

from __future__ import annotations

import os

import numpy as np
import pytest

import pysolver as caffe

NET = """
layer { name: "data" type: "DummyData" top: "x" top: "y"
        dummy_data_param { shape { dim: 4 dim: 3 } shape { dim: 4 dim: 1 }
          data_filler { type: "constant" value: 1 } data_filler { type: "constant" value: 2 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip"
        inner_product_param { num_output: 1 weight_filler { type: "constant" value: 0.25 } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "y" top: "loss" }
"""
SOLVER = "net: '{net}' base_lr: 0.01 lr_policy: 'fixed' max_iter: 5 snapshot_prefix: '{prefix}' "
TYPES = ["SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam"]


@pytest.fixture
def make(write, tmp_path):
    """make(more, cls=None): a solver of NET, by get_solver or of a class."""

    def make(more="", cls=None, net=NET):
        text = SOLVER.format(net=write(net), prefix=tmp_path / "s") + more
        return (cls or caffe.get_solver)(write(text, "solver.prototxt"))

    return make


def _weights(solver):
    return solver.net.params["ip"][0].data.ravel().tolist()


@pytest.mark.parametrize("kind", TYPES)
def test_types(make, kind):
    rest = "delta: 1e-3 momentum: 0.9" if kind == "AdaDelta" else "delta: 1e-3"
    named = make(f"type: '{kind}' {rest}")
    cls = getattr(caffe, f"{kind}Solver")
    assert type(named) is cls and isinstance(named, caffe.SGDSolver)
    other = make(rest, cls)
    for solver in (named, other):
        solver.step(3)
    assert _weights(named) == _weights(other) != [0.25] * 3


def test_a_class_is_its_own_type(make):
    """As in pycaffe, SGDSolver(file) is SGD even if the file says Adam."""
    adam, plain = make("type: 'Adam'", caffe.SGDSolver), make()
    for solver in (adam, plain):
        solver.step(1)
    assert _weights(adam) == _weights(plain)


def test_step_by_hand(make):
    """ip = 0.75, so the gradient is 0.75 - 2 for each weight and for the bias."""
    solver = make()
    solver.step(1)
    assert solver.iter == 1
    np.testing.assert_allclose(_weights(solver), 0.25 + 0.01 * 1.25, rtol=1e-6)
    np.testing.assert_allclose(solver.net.params["ip"][1].data, 0.01 * 1.25, rtol=1e-6)
    np.testing.assert_allclose(solver.net.blobs["loss"].data, 1.25**2 / 2, rtol=1e-6)


def test_apply_update_takes_the_diffs_as_they_are(make, faces):
    solver = make("momentum: 0.9")
    weights = solver.net.params["ip"][0]
    for expected in (0.25 - 0.01, 0.25 - 0.01 - 0.019):
        weights.diff[...] = 1
        solver.apply_update()
        np.testing.assert_allclose(weights.data, [[expected] * 3], rtol=1e-6)
    assert solver.iter == 2


def test_own_loop_of_forward_backward_and_apply_update(make, faces):
    """The loop that many scripts write is step()."""
    by_hand, stepped = make("momentum: 0.9 weight_decay: 0.1"), make("momentum: 0.9 weight_decay: 0.1")
    for _ in range(4):
        by_hand.net.clear_param_diffs()
        by_hand.net.forward()
        by_hand.net.backward()
        by_hand.apply_update()
    stepped.step(4)
    np.testing.assert_allclose(_weights(by_hand), _weights(stepped), rtol=1e-6)


def test_solve_snapshot_and_restore(make, tmp_path):
    solver = make("momentum: 0.9 snapshot: 3")
    solver.solve()
    assert solver.iter == 5
    assert {path.name for path in tmp_path.glob("s_iter_*")} == {
        *("s_iter_3.caffemodel", "s_iter_3.solverstate", "s_iter_5.caffemodel", "s_iter_5.solverstate")
    }
    again = make("momentum: 0.9")
    again.restore(str(tmp_path / "s_iter_3.solverstate"))
    assert again.iter == 3
    again.step(2)
    assert _weights(again) == _weights(solver)
    resumed = make("momentum: 0.9")
    resumed.solve(str(tmp_path / "s_iter_3.solverstate"))
    assert _weights(resumed) == _weights(solver)


def test_snapshot_goes_beside_the_solver_file(write, tmp_path):
    """Without a snapshot_prefix the prefix is the solver file without its ending."""
    solver = caffe.get_solver(write(f"net: '{write(NET)}' base_lr: 1 lr_policy: 'fixed'", "my_solver.prototxt"))
    solver.snapshot()
    assert (tmp_path / "my_solver_iter_0.caffemodel").exists()


def test_param_and_lr(make):
    solver = make("display: 7")
    assert (solver.param.max_iter, solver.param.display, solver.param.layer_wise_reduce) == (5, 7, True)
    assert solver.lr == pytest.approx(0.01)
    solver.param.base_lr = 0.5
    assert solver.lr == 0.5
    solver.step(1)
    np.testing.assert_allclose(_weights(solver), 0.25 + 0.5 * 1.25, rtol=1e-6)


def test_test_nets_see_the_trained_weights(make):
    solver = make("test_iter: 1 test_interval: 2 test_initialization: false")
    assert len(solver.test_nets) == 1
    solver.step(3)  # a test before the third update
    tested = solver.test_nets[0].params["ip"][0].data.copy()
    solver.test_nets[0].share_with(solver.net)
    assert not np.array_equal(tested, [[0.25] * 3])
    assert solver.test_nets[0].params["ip"][0].data.ravel().tolist() == _weights(solver)


def test_share_weights(make, write):
    solver = make()
    net = caffe.Net(write(NET.replace("0.25", "7"), "other.prototxt"), caffe.TEST)
    solver.share_weights(net)
    assert net.params["ip"][0].data.ravel().tolist() == [0.25] * 3
    solver.step(2)
    assert net.params["ip"][0].data.ravel().tolist() == _weights(solver)


def test_all_diffs_can_be_read_after_a_step(make):
    """ip = 0.75, y = 2, four items: EuclideanLoss gives (0.75 - 2) / 4 to each, the loss's own diff is its weight."""
    solver = make()
    solver.step(1)
    np.testing.assert_allclose(solver.net.blobs["ip"].diff, np.full((4, 1), (0.75 - 2) / 4), rtol=1e-6)
    assert solver.net.blobs["loss"].diff == 1


def test_callbacks_of_the_solver(make):
    solver, heard = make(), []
    solver.add_callback(
        lambda: heard.append(("start", solver.iter, float(solver.net.params["ip"][0].diff.sum()))),
        lambda: heard.append(("gradients", solver.iter, float(solver.net.params["ip"][0].diff.sum()))),
    )
    solver.step(2)
    assert [(what, iteration) for what, iteration, _ in heard] == [
        *(("start", 0), ("gradients", 0), ("start", 1), ("gradients", 1))
    ]
    assert heard[0][2] == 0 and heard[1][2] == pytest.approx(3 * -1.25)


def test_callbacks_of_the_net_while_it_is_trained(make):
    solver, plain, heard = make(), make(), []
    solver.net.after_backward(heard.append)
    solver.net.before_forward(heard.append)
    solver.step(2)
    plain.step(2)
    assert heard == [0, 1, 2, 2, 1, 0] * 2
    np.testing.assert_allclose(_weights(solver), _weights(plain), rtol=1e-6)


def test_nets_outlive_the_solver(make):
    solver = make()
    net, data = solver.net, solver.net.params["ip"][0].data
    del solver
    assert float(net.forward()["loss"]) == pytest.approx(1.25**2 / 2)
    assert data.sum() == 0.75


def test_fed_blobs_and_writes_between_steps(make, faces):
    solver = make()
    solver.net.blobs["x"].data[...] = 2  # the constant filler does not fill it again
    solver.net.params["ip"][0].data[...] = 0
    solver.step(1)
    np.testing.assert_allclose(_weights(solver), 0.01 * 2 * 2, rtol=1e-6)


def test_errors(write, make):
    with pytest.raises(RuntimeError, match="nothing.prototxt"):
        caffe.SGDSolver("nothing.prototxt")
    with pytest.raises(RuntimeError, match="Newton"):
        make("type: 'Newton'")
    with pytest.raises(RuntimeError, match="nothing.solverstate"):
        make().restore(os.path.join("nothing.solverstate"))


def test_backward_after_a_step_is_that_of_the_shown_blobs(make):
    solver = make()
    net = solver.net
    net.forward()
    solver.step(2)
    net.clear_param_diffs()
    net.backward()
    error = float(net.blobs["ip"].data[0, 0]) - 2
    np.testing.assert_allclose(net.params["ip"][0].diff, [[error] * 3], rtol=1e-5)

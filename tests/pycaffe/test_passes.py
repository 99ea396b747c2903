"""caffe.Net: forward, backward, many items at once, and what is called between the layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dense import DENSE

import pysolver as caffe


def _by_hand(net, data):
    """Hidden and score of the net DENSE."""
    (w1, b1), (w2, b2) = ([blob.data for blob in net.params[name]] for name in ("hidden", "score"))
    hidden = np.maximum(data @ w1.T + b1, 0)
    return hidden, hidden @ w2.T + b2


class TestForward:
    def test_numbers_and_live_views(self, net):
        data, label = net.blobs["data"].data.copy(), net.blobs["label"].data.astype(int)
        out = net.forward(blobs=["hidden", "score"])
        hidden, score = _by_hand(net, data)
        np.testing.assert_allclose(out["hidden"], hidden, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(out["score"], score, rtol=1e-5, atol=1e-5)
        loss = np.mean(np.log(np.exp(score).sum(1)) - score[np.arange(4), label])
        np.testing.assert_allclose(out["loss"], loss, rtol=1e-5, atol=1e-5)
        assert set(out) == {"loss", "hidden", "score"}
        before = out["score"].copy()
        net.forward(data=2 * data, label=label)
        np.testing.assert_allclose(net.blobs["score"].data, _by_hand(net, 2 * data)[1], rtol=1e-5, atol=1e-5)
        assert not np.allclose(net.blobs["score"].data, before)
        np.testing.assert_array_equal(out["score"], net.blobs["score"].data)  # the array of before shows the new values

    def test_from_the_middle(self, net):
        net.forward()
        net.blobs["hidden"].data[...] = 1
        out = net.forward(start="score", end="score")
        assert set(out) == {"score"}
        np.testing.assert_allclose(
            out["score"], np.ones((4, 5)) @ net.params["score"][0].data.T + net.params["score"][1].data, rtol=1e-5
        )
        assert set(net.forward(end="relu")) == {"hidden"}

    def test_net_surgery(self, net):
        """Weights written through the arrays are what the next forward uses."""
        net.params["score"][0].data[...] = 0
        net.params["score"][1].data[...] = [3, 4]
        np.testing.assert_array_equal(net.forward(blobs=["score"])["score"], [[3, 4]] * 4)

    def test_errors(self, net):
        data = np.zeros((4, 3))
        with pytest.raises(Exception, match="inputs are data, label; given were data"):
            net.forward(data=data)
        with pytest.raises(Exception, match="inputs are data, label; given were data, labels"):
            net.forward(data=data, labels=np.zeros(4))
        with pytest.raises(Exception, match="batch size"):
            net.forward(data=np.zeros((5, 3)), label=np.zeros(4))
        with pytest.raises(ValueError, match="no layer 'nothing'"):
            net.forward(start="nothing")
        with pytest.raises(KeyError, match="nothing"):
            net.forward(blobs=["nothing"])

    def test_loss_is_returned_by_the_inner_call(self, net):
        assert net._forward(0, 4) == pytest.approx(float(net.blobs["loss"].data))


class TestBackward:
    def test_against_autograd(self, net):
        data = torch.tensor(net.blobs["data"].data.copy(), requires_grad=True)
        label = torch.tensor(net.blobs["label"].data.copy()).long()
        leaves = [torch.tensor(blob.data.copy(), requires_grad=True) for blobs in net.params.values() for blob in blobs]
        w1, b1, w2, b2 = leaves
        score = torch.relu(data @ w1.T + b1) @ w2.T + b2
        torch.nn.functional.cross_entropy(score, label).backward()
        net.forward()
        out = net.backward(diffs=["score"])
        assert set(out) == {"data", "label", "score"}
        np.testing.assert_allclose(out["data"], data.grad, atol=1e-6)
        blobs = [blob for blobs in net.params.values() for blob in blobs]
        for blob, leaf in zip(blobs, leaves):
            np.testing.assert_allclose(blob.diff, leaf.grad, atol=1e-6)
        net.backward()  # parameter diffs add up, bottom diffs do not
        np.testing.assert_allclose(blobs[0].diff, 2 * w1.grad, atol=1e-6)
        np.testing.assert_allclose(net.blobs["data"].diff, data.grad, atol=1e-6)

    def test_given_diffs(self, net):
        net.forward()
        net.backward(loss=np.float32(1))
        once = net.blobs["data"].diff.copy()
        net.backward(loss=np.float32(3))
        np.testing.assert_allclose(net.blobs["data"].diff, 3 * once, rtol=1e-5, atol=1e-5)

    def test_part_of_the_net(self, net):
        net.forward()
        net.blobs["score"].diff[...] = 1
        out = net.backward(start="score", end="score")
        assert set(out) == {"hidden"}
        np.testing.assert_allclose(out["hidden"], np.ones((4, 2)) @ net.params["score"][0].data, rtol=1e-5, atol=1e-5)
        assert not net.params["hidden"][0].diff.any()

    def test_clear_param_diffs(self, net):
        net.forward()
        net.backward()
        diff = net.params["hidden"][0].diff
        assert diff.any()
        net.clear_param_diffs()
        assert net.params["hidden"][0].diff is diff
        assert not diff.any()

    def test_manual_sgd_learns(self, net):
        """Steps through params[...].data and .diff alone; the first is checked against its formula."""
        losses = []
        for step in range(60):
            net.clear_param_diffs()
            losses.append(float(net.forward()["loss"]))
            net.backward()
            for blobs in net.params.values():
                for blob in blobs:
                    want = blob.data - 0.3 * blob.diff
                    blob.data[...] -= 0.3 * blob.diff
                    if step == 0:
                        np.testing.assert_array_equal(blob.data, want)
        assert losses[-1] < 0.1 * losses[0]

    def test_errors(self, net):
        net.forward()
        with pytest.raises(Exception, match="outputs are loss; given were score"):
            net.backward(score=np.zeros((4, 2)))
        with pytest.raises(ValueError, match="no layer 'nothing'"):
            net.backward(end="nothing")
        with pytest.raises(KeyError, match="nothing"):
            net.backward(diffs=["nothing"])


class TestManyItems:
    TEXT = DENSE.split('layer { name: "loss"')[0].replace(' top: "label"', "").replace("shape { dim: 4 } }", "}")

    @pytest.mark.parametrize("count", [1, 4, 10])
    def test_forward_all(self, write, count):
        net = caffe.Net(write(self.TEXT), caffe.TEST)
        data = np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32)
        out = net.forward_all(blobs=["hidden"], data=data)
        hidden, score = _by_hand(net, data)
        assert {name: array.shape for name, array in out.items()} == {"score": (count, 2), "hidden": (count, 5)}
        np.testing.assert_allclose(out["score"], score, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(out["hidden"], hidden, rtol=1e-4, atol=1e-6)

    def test_forward_backward_all(self, write):
        net = caffe.Net(write(self.TEXT), caffe.TEST)
        rng = np.random.default_rng(0)
        data, diff = rng.normal(size=(6, 3)).astype(np.float32), rng.normal(size=(6, 2)).astype(np.float32)
        blobs, diffs = net.forward_backward_all(diffs=["hidden"], data=data, score=diff)
        hidden, score = _by_hand(net, data)
        np.testing.assert_allclose(blobs["score"], score, rtol=1e-4, atol=1e-6)
        through = (diff @ net.params["score"][0].data) * (hidden > 0)
        np.testing.assert_allclose(diffs["data"], through @ net.params["hidden"][0].data, rtol=1e-4, atol=1e-6)
        assert diffs["hidden"].shape == (6, 5)

    def test_scalar_outputs_and_errors(self, net):
        out = net.forward_all(data=np.zeros((8, 3)), label=np.zeros(8))
        assert out["loss"].shape == (2,)
        with pytest.raises(Exception, match="data, label"):
            net.forward_all()
        with pytest.raises(Exception, match="wrong"):
            net.forward_all(wrong=np.zeros((8, 3)))


def test_callbacks(net):
    net.forward()
    heard = []
    for moment in ("before_forward", "after_forward", "before_backward", "after_backward"):
        getattr(net, moment)(lambda index, moment=moment: heard.append((moment, index)))
    loss = net._forward(1, 2)
    net.backward(start="score", end="relu")
    assert loss == 0
    assert heard == [
        *[("before_forward", 1), ("after_forward", 1), ("before_forward", 2), ("after_forward", 2)],
        *[("before_backward", 3), ("after_backward", 3), ("before_backward", 2), ("after_backward", 2)],
    ]


def test_callbacks_may_change_blobs(net):
    net.after_forward(lambda index: index == 2 and net.blobs["hidden"].data.fill(0))
    score = net.forward(blobs=["score"])["score"]
    np.testing.assert_array_equal(score, [net.params["score"][1].data] * 4)

"""CTPN's Lstm against its equations, step by step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pysolver.errors import CaffeError

T, N, INPUTS, D = 5, 2, 3, 4
TEXT = (
    'type: "Lstm" lstm_param { num_output: 4 weight_filler { type: "gaussian" } bias_filler { type: "gaussian" } %s }'
)


def s(x):
    return 1 / (1 + np.exp(-x))


def unrolled(blobs, x, goes_on, h, c):
    """All tops and the last state, one stream at a time."""
    w_x, w_h, b = (blob.detach().double().numpy() for blob in blobs)
    tops = np.zeros((T, N, D))
    for n in range(N):
        for t in range(T):
            if not goes_on[t, n]:
                h[n], c[n] = 0, 0
            i, f, o, g = (w_x @ x[t, n] + w_h @ h[n] + b).reshape(4, D)
            c[n] = s(f) * c[n] + s(i) * np.tanh(g)
            h[n] = s(o) * np.tanh(c[n])
            tops[t, n] = h[n]
    return tops, h, c


def test_the_equations(make):
    x = torch.randn(T, N, INPUTS)
    layer = make(TEXT % "", x.shape)
    goes_on = np.ones((T, N))
    goes_on[0] = 0
    for _ in range(2):  # the second batch starts anew
        expected, _, _ = unrolled(layer.blobs, x.double().numpy(), goes_on, np.zeros((N, D)), np.zeros((N, D)))
        np.testing.assert_allclose(layer(x).detach(), expected, rtol=1e-5, atol=1e-6)  # float32


def test_a_marker_carries_the_state_on(make):
    goes_on = np.array([[0, 1], [1, 1], [0, 1], [1, 0], [1, 1]])
    layer = make(TEXT % "", (T, N, INPUTS), (T, N))
    h, c = np.zeros((N, D)), np.zeros((N, D))
    for _ in range(2):
        x = torch.randn(T, N, INPUTS)
        expected, h, c = unrolled(layer.blobs, x.double().numpy(), goes_on, h, c)
        np.testing.assert_allclose(layer(x, torch.from_numpy(goes_on).float()).detach(), expected, rtol=1e-5, atol=1e-6)
    other = make(TEXT % "", (T, N, INPUTS), (T, N))
    other.load_state_dict(layer.state_dict())
    other.load_state(layer.state())
    x, marker = torch.randn(T, N, INPUTS), torch.from_numpy(goes_on).float()
    assert torch.equal(other(x, marker), layer(x, marker))


def test_the_gates_gradient_is_bounded(make):
    """One step, so that the bias gets just what goes into the gates."""
    x = torch.randn(1, 1, INPUTS)
    gradients = []
    for field in ("", "clipping_threshold: 0.05"):
        torch.manual_seed(4)
        layer = make(TEXT % field, x.shape)
        (3 * layer(x)).sum().backward()
        gradients.append(layer.blobs[2].grad)
    assert gradients[0].abs().max() > 0.05
    assert torch.equal(gradients[1], gradients[0].clamp(-0.05, 0.05))


def test_what_does_not_fit(make):
    with pytest.raises(CaffeError, match="num_output must be positive"):
        make('type: "Lstm"', (T, N, INPUTS))
    with pytest.raises(CaffeError, match=r"needs a bottom \(T steps, N streams"):
        make(TEXT % "", (T,))
    with pytest.raises(CaffeError, match="needs a marker of 5 x 2 numbers"):
        make(TEXT % "", (T, N, INPUTS), (T,))
    with pytest.raises(CaffeError, match="the weights are for 3 inputs a step"):
        make(TEXT % "", (T, N, INPUTS)).top_shapes((T, N, 4))

"""RNN and LSTM beyond the stored cases: torch's own cells, the carried state, exposed states, the log."""

from __future__ import annotations

import pytest
import torch

from pysolver.errors import CaffeError

FILLERS = 'weight_filler { type: "gaussian" std: 0.3 } bias_filler { type: "gaussian" std: 0.3 }'
T, N, K, D = 5, 3, 4, 6
LSTM = f'type: "LSTM" recurrent_param {{ num_output: {D} {FILLERS} }}'
EXPOSED = f'type: "LSTM" recurrent_param {{ num_output: {D} expose_hidden: true {FILLERS} }}'


def continuing() -> torch.Tensor:
    """One sequence from the first step to the last."""
    cont = torch.ones(T, N)
    cont[0] = 0
    return cont


def test_lstm_is_torchs(make):
    """torch orders the gates i, f, g, o; Caffe i, f, o, g."""
    layer = make(LSTM, (T, N, K), (T, N))
    ours_to_torch = torch.cat([torch.arange(2 * D), torch.arange(3 * D, 4 * D), torch.arange(2 * D, 3 * D)])
    reference = torch.nn.LSTM(K, D)
    with torch.no_grad():
        w_x, b, w_h = (blob[ours_to_torch] for blob in layer.blobs)
        for target, value in zip(reference.parameters(), (w_x, w_h, b, torch.zeros(4 * D))):
            target.copy_(value)
    x = torch.randn(T, N, K)
    torch.testing.assert_close(layer(x, continuing()), reference(x)[0])


def test_rnn_is_torchs(make):
    layer = make(f'type: "RNN" recurrent_param {{ num_output: {D} {FILLERS} }}', (T, N, K), (T, N))
    w_xh, b_h, w_hh, w_ho, b_o = layer.blobs
    reference = torch.nn.RNN(K, D)
    with torch.no_grad():
        for target, value in zip(reference.parameters(), (w_xh, w_hh, b_h, torch.zeros(D))):
            target.copy_(value)
    x = torch.randn(T, N, K)
    expected = torch.tanh(reference(x)[0] @ w_ho.t() + b_o)
    torch.testing.assert_close(layer(x, continuing()), expected)


def test_state_is_carried_to_the_next_forward_unless_cont_clears_it(make):
    whole = make(LSTM, (2 * T, N, K), (2 * T, N))
    halves = make(LSTM, (T, N, K), (T, N))
    halves.load_state_dict(whole.state_dict())
    x, cont = torch.randn(2 * T, N, K), torch.ones(2 * T, N)
    cont[0] = 0
    cont[T, 1] = 0
    together = whole(x, cont)
    first, second = halves(x[:T], cont[:T]), halves(x[T:], cont[T:])
    torch.testing.assert_close(torch.cat([first, second]), together)
    fresh = halves(x[:T], continuing())
    torch.testing.assert_close(fresh, first)


def test_no_gradient_through_the_carried_state(make):
    layer = make(LSTM, (T, N, K), (T, N))
    x = torch.randn(T, N, K, requires_grad=True)
    layer(x, continuing())
    layer(torch.randn(T, N, K), torch.ones(T, N)).sum().backward()
    assert x.grad is None


def test_exposed_states_go_in_and_out_without_gradient(make):
    layer = make(EXPOSED, (T, N, K), (T, N), (1, N, D), (1, N, D), tops=3)
    h, c = (torch.randn(1, N, D, requires_grad=True) for _ in range(2))
    x = torch.randn(2 * T, N, K)
    ones = torch.ones(T, N)
    y1, h1, c1 = layer(x[:T], ones, h, c)
    y2, h2, c2 = layer(x[T:], ones, h1, c1)
    torch.testing.assert_close(h2[0], y2[-1])
    long = make(EXPOSED, (2 * T, N, K), (2 * T, N), (1, N, D), (1, N, D), tops=3)
    long.load_state_dict(layer.state_dict())
    torch.testing.assert_close(torch.cat([y1, y2]), long(x, torch.ones(2 * T, N), h, c)[0])
    y2.sum().backward()
    assert h.grad is None and c.grad is None


def test_another_number_of_streams_starts_afresh(make):
    layer = make(LSTM, (T, N, K), (T, N))
    layer(torch.randn(T, N, K), continuing())
    x = torch.randn(T, 2, K)
    torch.testing.assert_close(layer(x, torch.ones(T, 2)), layer(x, continuing()[:, :2]))


def test_the_number_of_steps_is_fixed(make):
    with pytest.raises(CaffeError, match="it was 5, now 4"):
        make(LSTM, (T, N, K), (T, N)).top_shapes((4, N, K), (4, N))


def test_log(make, capfd):
    make(LSTM, (T, N, K), (T, N), (N, 2))
    lines = [line.split("] ", 1)[1] for line in capfd.readouterr().err.splitlines()]
    assert lines[1:] == [
        "Initializing recurrent layer: assuming input batch contains 5 timesteps of 3 independent streams.",
        "Adding parameter 0: W_xc",
        "Adding parameter 1: b_c",
        "Adding parameter 2: W_xc_static",
        "Adding parameter 3: W_hc",
    ]

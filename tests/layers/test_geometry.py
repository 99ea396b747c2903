"""Output sizes by the written rules, and values against loops over windows, for random geometries."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
small = st.integers(1, 4)


def c_division(a: int, b: int) -> int:
    return int(a / b)


def pooled(size: int, kernel: int, stride: int, pad: int, any_pad: bool, ceil: bool) -> int:
    """The rule of Caffe's pooling layer, for one axis."""
    count = (math.ceil if ceil else math.floor)(np.float32(size + 2 * pad - kernel) / np.float32(stride)) + 1
    if any_pad and (count - 1) * stride >= size + pad:
        count -= 1
    return count


@st.composite
def pooling(draw) -> dict:
    kernel = draw(st.tuples(small, small))
    return {
        "kernel": kernel,
        "stride": draw(st.tuples(small, small)),
        "pad": tuple(draw(st.integers(0, k - 1)) for k in kernel),
        "size": draw(st.tuples(st.integers(1, 9), st.integers(1, 9))),
        "ceil": draw(st.booleans()),
        "method": draw(st.sampled_from(["MAX", "AVE"])),
    }


def pooling_text(g: dict) -> str:
    sides = {name: "{0}_h: {1} {0}_w: {2}".format(name, *g[name]) for name in ("kernel", "stride", "pad")}
    rounding = "CEIL" if g["ceil"] else "FLOOR"
    return f'type: "Pooling" pooling_param {{ pool: {g["method"]} {" ".join(sides.values())} round_mode: {rounding} }}'


def pool_by_loops(x: np.ndarray, g: dict, counts: tuple[int, int]) -> np.ndarray:
    y = np.zeros((*x.shape[:2], *counts))
    for position in product(*map(range, counts)):
        area, cells = 1, []
        for p, kernel, stride, pad, size in zip(position, g["kernel"], g["stride"], g["pad"], x.shape[2:]):
            start = p * stride - pad
            area *= max(min(start + kernel, size + pad) - start, 0)
            cells.append(slice(max(start, 0), max(min(start + kernel, size), 0)))
        window = x[:, :, cells[0], cells[1]]
        if g["method"] == "AVE":
            y[(..., *position)] = window.sum((2, 3)) / max(area, 1)
        else:
            y[(..., *position)] = window.max((2, 3)) if window.size else -np.finfo(np.float32).max
    return y


@quick
@given(pooling())
def test_pooling(make, g: dict):
    any_pad = any(g["pad"])
    counts = tuple(
        pooled(size, kernel, stride, pad, any_pad, g["ceil"])
        for size, kernel, stride, pad in zip(g["size"], g["kernel"], g["stride"], g["pad"])
    )
    assume(min(counts) >= 1)
    layer = make(pooling_text(g), (2, 3, *g["size"]))
    assert layer.top_shapes((2, 3, *g["size"])) == [(2, 3, *counts)]
    x = torch.randn(2, 3, *g["size"], requires_grad=True)
    y = layer(x)
    assert y.shape[2:] == counts
    np.testing.assert_allclose(y.detach().numpy(), pool_by_loops(x.detach().numpy(), g, counts), rtol=1e-5, atol=1e-6)
    y.clamp(min=-10).sum().backward()  # a window outside the image must not disturb the gradient
    assert x.grad.isfinite().all()


@quick
@given(pooling())
def test_max_pooling_names_the_winner(make, g: dict):
    any_pad = any(g["pad"])
    counts = [
        pooled(size, kernel, stride, pad, any_pad, g["ceil"])
        for size, kernel, stride, pad in zip(g["size"], g["kernel"], g["stride"], g["pad"])
    ]
    assume(min(counts) >= 1)
    layer = make(pooling_text({**g, "method": "MAX"}), (1, 2, *g["size"]), tops=2)
    x = torch.randn(1, 2, *g["size"])
    y, index = layer(x)
    index = index.long().flatten(2)
    found = x.flatten(2).gather(2, index.clamp(min=0)).reshape(y.shape)
    outside = index.reshape(y.shape) < 0
    assert torch.equal(found[~outside], y[~outside])
    assert (y[outside] == -torch.finfo(torch.float32).max).all()


@st.composite
def convolution(draw) -> dict:
    axes = draw(st.integers(1, 2))
    group = draw(st.integers(1, 2))
    per_axis = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(axes))  # noqa: E731
    return {
        "group": group,
        "channels": group * draw(st.integers(1, 2)),
        "outputs": group * draw(st.integers(1, 2)),
        "kernel": per_axis(1, 3),
        "stride": per_axis(1, 3),
        "pad": per_axis(0, 2),
        "dilation": per_axis(1, 2),
        "size": per_axis(1, 7),
    }


def text_of(g: dict) -> str:
    lists = {"kernel_size": "kernel", "stride": "stride", "pad": "pad", "dilation": "dilation"}
    fields = " ".join(f"{field}: {value}" for field, key in lists.items() for value in g[key])
    fields += f' num_output: {g["outputs"]} group: {g["group"]} bias_term: false weight_filler {{ type: "gaussian" }}'
    return f"convolution_param {{ {fields} }}"


def convolve_by_loops(x: np.ndarray, weight: np.ndarray, g: dict, counts: tuple[int, ...]) -> np.ndarray:
    """Sums over windows of the image, zeros around it."""
    y = np.zeros((x.shape[0], weight.shape[0], *counts))
    inputs, outputs = x.shape[1] // g["group"], weight.shape[0] // g["group"]
    for position in product(*map(range, counts)):
        for offset in product(*map(range, g["kernel"])):
            at = tuple(
                p * s - d + o * spread
                for p, s, d, o, spread in zip(position, g["stride"], g["pad"], offset, g["dilation"])
            )
            if any(not 0 <= a < size for a, size in zip(at, x.shape[2:])):
                continue
            for group in range(g["group"]):
                rows = slice(group * outputs, (group + 1) * outputs)
                columns = slice(group * inputs, (group + 1) * inputs)
                y[(slice(None), rows, *position)] += (
                    x[(slice(None), columns, *at)] @ weight[(rows, slice(None), *offset)].T
                )
    return y


@quick
@given(convolution())
def test_convolution(make, g: dict):
    counts = tuple(
        c_division(size + 2 * pad - (dilation * (kernel - 1) + 1), stride) + 1
        for size, pad, dilation, kernel, stride in zip(g["size"], g["pad"], g["dilation"], g["kernel"], g["stride"])
    )
    assume(min(counts) >= 1)
    shape = (2, g["channels"], *g["size"])
    layer = make(f'type: "Convolution" {text_of(g)}', shape)
    assert layer.top_shapes(shape) == [(2, g["outputs"], *counts)]
    x = torch.randn(shape)
    with torch.no_grad():
        (y,) = layer(x)
    expected = convolve_by_loops(x.numpy(), layer.blobs[0].detach().numpy(), g, counts)
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-4, atol=1e-5)


@quick
@given(convolution())
def test_deconvolution_is_the_transpose_of_convolution(make, g: dict):
    counts = tuple(
        stride * (size - 1) + dilation * (kernel - 1) + 1 - 2 * pad
        for size, pad, dilation, kernel, stride in zip(g["size"], g["pad"], g["dilation"], g["kernel"], g["stride"])
    )
    assume(min(counts) >= 1)
    shape = (2, g["channels"], *g["size"])
    up = make(f'type: "Deconvolution" {text_of(g)}', shape)
    assert up.top_shapes(shape) == [(2, g["outputs"], *counts)]
    weight = up.blobs[0].detach().numpy()
    x, y = (
        np.random.default_rng(0).standard_normal(shape),
        np.random.default_rng(1).standard_normal((2, g["outputs"], *counts)),
    )
    with torch.no_grad():
        (raised,) = up.double()(torch.from_numpy(x))
    lowered = convolve_by_loops(y, weight, g, g["size"])
    np.testing.assert_allclose(np.sum(raised.numpy() * y), np.sum(x * lowered), rtol=1e-6, atol=1e-6)


@quick
@given(convolution())
def test_im2col_times_weights_is_convolution(make, g: dict):
    g = {**g, "group": 1}
    shape = (2, g["channels"], *g["size"])
    sizes = [
        c_division(s + 2 * p - (d * (k - 1) + 1), t) + 1
        for s, p, d, k, t in zip(g["size"], g["pad"], g["dilation"], g["kernel"], g["stride"])
    ]
    assume(min(sizes) >= 1)
    columns, convolution = make(f'type: "Im2col" {text_of(g)}', shape), make(f'type: "Convolution" {text_of(g)}', shape)
    x = torch.randn(shape)
    with torch.no_grad():
        (y,) = convolution(x)
        product_ = torch.einsum("ok,nk...->no...", convolution.blobs[0].flatten(1), columns(x))
    torch.testing.assert_close(product_, y, rtol=1e-4, atol=1e-5)


def test_a_short_axis_gets_one_window_over_zeros(make):
    """(2 - 3) / 2 + 1 is 1 in C."""
    layer = make(
        'type: "Convolution" convolution_param { num_output: 1 kernel_size: 3 stride: 2 weight_filler { value: 1 } }',
        (1, 1, 2, 2),
    )
    (y,) = layer(torch.tensor([[[[1.0, 2], [3, 4]]]]))
    assert y.tolist() == [[[[10.0]]]]


def test_strides_far_beyond_the_image(make):
    """torch's backward ended the process from 100,000 on; there is one position, whatever the stride."""
    text = 'type: "Convolution" convolution_param { num_output: 4 kernel_size: 3 pad: 1 stride: %d }'
    gradients = []
    for stride in (12, 100_000, 2**31 - 1):
        torch.manual_seed(0)
        layer, x = make(text % stride, (2, 3, 10)), torch.randn(2, 3, 10, requires_grad=True)
        layer.blobs[0].data.uniform_(-1, 1)
        (y,) = layer(x)
        assert y.shape == (2, 4, 1)
        y.sum().backward()
        gradients.append(x.grad)
    assert torch.equal(gradients[0], gradients[1]) and torch.equal(gradients[0], gradients[2])
    assert gradients[0].abs().sum() > 0

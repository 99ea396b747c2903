"""A net under torch.compile with CUDA graphs, as far as a CPU can tell; tests/gpu has what only a GPU can."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from pysolver.context import Context
from pysolver.logs import notices
from pysolver.net.net import Net
from pysolver.proto import caffe_pb2
from pysolver.proto.text import parse_text

TEXT = """
layer { name: "in" type: "Input" top: "x" top: "y"
  input_param { shape { dim: 4 dim: 3 dim: 6 dim: 6 } shape { dim: 4 } } }
layer { name: "conv" type: "Convolution" bottom: "x" top: "c"
  convolution_param { num_output: 3 kernel_size: 3 weight_filler { type: "msra" } } }
layer { name: "norm" type: "BatchNorm" bottom: "c" top: "c" }
layer { name: "scale" type: "Scale" bottom: "c" top: "c" scale_param { bias_term: true } }
layer { name: "relu" type: "ReLU" bottom: "c" top: "r" }
layer { name: "ip" type: "InnerProduct" bottom: "r" top: "s"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "s" bottom: "y" top: "loss" loss_weight: 1 }
"""
LSTM = """
layer { name: "in" type: "Input" top: "x" top: "y"
  input_param { shape { dim: 4 dim: 2 dim: 3 } shape { dim: 4 dim: 2 } } }
layer { name: "lstm" type: "LSTM" bottom: "x" bottom: "y" top: "h" recurrent_param { num_output: 3 } }
"""


def build(text: str, **context) -> Net:
    torch.manual_seed(2)
    param = parse_text(text, caffe_pb2.NetParameter)
    param.state.phase = caffe_pb2.TRAIN
    return Net(param, Context(**context))


def feed(net: Net, seed: int) -> None:
    net.blobs["x"].value = torch.from_numpy(np.random.default_rng(seed).normal(size=(4, 3, 6, 6)).astype(np.float32))
    net.blobs["y"].value = torch.arange(4.0)


class Recorder:
    """Stands for torch.compile with graphs: what a pass returned is overwritten as soon as a new step is marked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.modes: list[str | None] = []
        self.marks = 0
        self._alive: list[Tensor] = []
        monkeypatch.setattr(torch, "compile", self._compile)
        monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", self._mark)

    def _compile(self, function: Callable, *, mode: str | None, backend: str, dynamic: bool) -> Callable:
        self.modes.append(mode)

        def call(*batch: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
            loss, values = function(*batch)
            self._alive += [loss, *values]
            return loss, values

        return call

    def _mark(self) -> None:
        self.marks += 1
        for tensor in self._alive:
            tensor.data.fill_(float("nan"))
        self._alive.clear()


def test_a_gpus_net_is_recorded_and_the_cpus_is_not_compiled(monkeypatch):
    recorder = Recorder(monkeypatch)
    build(TEXT, compile=True)
    assert recorder.modes == []
    with torch.device("meta"):  # which is not the CPU
        build(TEXT, compile=True, device=torch.device("meta"))
    build(TEXT).compile("aot_eager")
    assert recorder.modes == ["reduce-overhead", None]


def test_what_a_layer_keeps_for_the_next_pass_would_be_overwritten(monkeypatch):
    recorder, told = Recorder(monkeypatch), []
    ctpns = LSTM.replace('type: "LSTM"', 'type: "Lstm"').replace("recurrent_param", "lstm_param")
    for text in (LSTM, ctpns):
        build(text, listener=told.append).compile(graphs=True)
        assert told[-1] == notices.NotRecorded("lstm")
    build(ctpns.replace('bottom: "y"', "")).compile(graphs=True)  # which starts anew each time
    assert recorder.modes == [None, None, "reduce-overhead"]


def test_nothing_that_a_pass_gave_changes_with_the_next(monkeypatch):
    """Losses, outputs and blobs that somebody looks at are copies; passes that train and that test, in turns."""
    recorder = Recorder(monkeypatch)
    net, twin = build(TEXT), build(TEXT)
    net.compile(graphs=True)
    for each in (net, twin):
        each.blobs["r"].data  # noqa: B018  looked at
    kept: list[tuple[Tensor, Tensor]] = []
    for number, method in enumerate(("forward_backward", "run", "forward_backward", "forward_backward", "run")):
        for each in (net, twin):
            feed(each, number)
        kept.append((getattr(net, method)(), getattr(twin, method)()))
        kept.append((net.blobs["loss"].value, twin.blobs["loss"].value.clone()))
        kept.append((net.blobs["r"].value.clone(), twin.blobs["r"].value.clone()))
    recorder._mark()
    assert recorder.marks == 6
    for found, expected in kept:
        assert found.equal(expected)
    for mine, theirs in zip(net.learnable_params, twin.learnable_params):
        assert mine.data.equal(theirs.data) and mine.grad.equal(theirs.grad)


def test_only_the_batch_has_an_address_that_changes():
    """Else a graph would copy the weights at each pass, and could not write BatchNorm's statistics at all."""
    moving: list[list[tuple[int, ...]]] = []

    def backend(module: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable:
        places = module.graph.find_nodes(op="placeholder")
        free = [not place.meta["tensor_dict"].get("_dynamo_static_input_type") for place in places]
        moving.append([tuple(value.shape) for value, is_free in zip(inputs, free, strict=True) if is_free])
        return module.forward

    torch._dynamo.reset()
    net = build(TEXT)
    net.compile(backend)
    feed(net, 0)
    addresses = [parameter.data_ptr() for parameter in net.learnable_params]
    net.forward_backward()
    net.run()
    assert moving == [[(4, 3, 6, 6), (4,)]] * 2
    assert addresses == [parameter.data_ptr() for parameter in net.learnable_params]
    torch._dynamo.reset()


def test_statistics_of_a_scaling_batch_norm_are_compiled_three_times_at_most():
    """NVIDIA's takes the first two batches apart; after them nothing is new."""
    count = 0

    def backend(module: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable:
        nonlocal count
        count += 1
        return module.forward

    torch._dynamo.reset()
    scaling = TEXT.replace('type: "BatchNorm"', 'type: "BatchNorm" batch_norm_param { scale_bias: true }')
    net, twin = build(scaling), build(scaling)
    net.compile(backend)
    for number in range(6):
        for each in (net, twin):
            feed(each, number)
            each.forward_backward()
    assert count == 3
    for mine, theirs in zip(net.learnable_params, twin.learnable_params):
        torch.testing.assert_close(mine.data, theirs.data)
    torch._dynamo.reset()

"""`pysolver test` and `pysolver time`: a net without a solver."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import pysolver as caffe
from pysolver.commands import main, time
from pysolver.commands.time import Cost, limit

NET = """
layer { name: "in" type: "DummyData" top: "x" top: "y" dummy_data_param {
  shape { dim: 2 dim: 3 } shape { dim: 2 dim: 1 } data_filler { type: "gaussian" } data_filler { type: "gaussian" } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip"
        inner_product_param { num_output: 1 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "y" top: "loss" loss_weight: 3 }
"""


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """net.prototxt and w.caffemodel here."""
    monkeypatch.chdir(tmp_path)
    Path("net.prototxt").write_text(NET)
    caffe.Net("net.prototxt", caffe.TRAIN).save("w.caffemodel")


def test_test_tells_every_batch_and_their_means(net, capsys):
    assert main(["test", "--model=net.prototxt", "--weights=w.caffemodel", "--iterations=4"]) == 0
    lines = [line.split("] ", 1)[-1] for line in capsys.readouterr().err.splitlines()]
    lines = lines[lines.index("Running for 4 iterations.") :]
    batches = [float(line.split(" = ")[1]) for line in lines if line.startswith("Batch")]
    assert len(set(batches)) == 4
    assert float(lines[-2].removeprefix("Loss: ")) == pytest.approx(3 * np.mean(batches), rel=1e-5)
    name, value, weighted = lines[-1].split(" ", 3)[0], *lines[-1].split(" ", 3)[2:]
    assert name == "loss" and float(value) == pytest.approx(np.mean(batches), rel=1e-5)
    assert float(weighted.removeprefix("(* 3 = ").removesuffix(" loss)")) == pytest.approx(3 * float(value), rel=1e-5)


def test_time_tells_every_layer(net, capsys):
    assert main(["time", "--model=net.prototxt", "--iterations=2"]) == 0
    log = capsys.readouterr().err
    assert all(f"{name:>10}\t{way}: " in log for name in ("in", "ip", "loss") for way in ("forward", "backward"))
    assert all(text in log for text in ("*** Benchmark begins ***", "Total Time: ", " ms."))


def test_time_tells_what_limits_the_net(net, capsys):
    assert main(["time", "--model=net.prototxt", "--iterations=2", "--profile=trace.json"]) == 0
    Path("folder").mkdir()
    assert main(["time", "--model=net.prototxt", "--iterations=1", "--profile=folder"]) == 1  # it said: Wrote folder
    log = capsys.readouterr().err
    # ip: 2 items x 3 numbers x 1 output, a product and a sum each, forward and for the weights' gradient
    assert "ip\t2.4e-08 GFLOP at " in log and "% of peak" in log
    assert "As one function, as train runs it: " in log and "Limited by " in log
    assert {"traceEvents"} <= json.loads(Path("trace.json").read_text()).keys()


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_peak_is_that_of_the_precision(net, monkeypatch, precision: str, dtype: torch.dtype):
    """Else a net in half precision reaches more than all of it."""
    products, clock = [], time._milliseconds

    def note(work, device):
        if isinstance(value := work(), torch.Tensor) and value.shape == (1024, 1024):
            products.append(value.dtype)
        return clock(lambda: None, device)

    monkeypatch.setattr(time, "_milliseconds", note)
    time.time("net.prototxt", iterations=1, log=lambda event: None, precision=precision)
    assert set(products) == {dtype}


@pytest.mark.parametrize(
    ("costs", "said"),
    [
        ([("Data", True, 0, 60), ("Convolution", False, 100, 40)], "data: 60% of the time (Data 60%)"),
        (
            [("Convolution", False, 3_000_000, 50), ("InnerProduct", False, 1_000_000, 30), ("ReLU", False, 0, 20)],
            # 2 iterations of 4 MFLOP in 80 ms are 0.1 GFLOP/s
            "arithmetic: 80% of the time (Convolution 50%, InnerProduct 30%), 25% of the peak while it lasts",
        ),
        (
            [("ReLU", False, 0, 30), ("Pooling", False, 0, 40), ("ReLU", False, 0, 30)],
            "memory: 100% of the time (ReLU 60%, Pooling 40%)",
        ),
    ],
)
def test_the_limit_is_what_takes_most_of_the_time(costs, said):
    rows = [Cost("name", kind, source, flops, taken / 4, taken * 3 / 4) for kind, source, flops, taken in costs]
    assert limit(rows, iterations=2, peak=0.4) == said

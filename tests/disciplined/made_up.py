"""A tiny experiment, and the paper's on made-up data: batches of 2, as many iterations as one likes to wait for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from pysolver.data.prepare.publish import write_data_set
from pysolver.data.prepare.split import DataSet, Split
from pysolver.disciplined.paper.experiment import read_all
from pysolver.disciplined.paper.trials import DATA, trial_of
from pysolver.disciplined.trial import Backend, Command, Trial, changed
from pysolver.proto.caffe_pb2 import SolverParameter
from pysolver.proto.text import parse_text, to_text

ROOT = Path(__file__).parents[2]
SIDES = {"mnist": (1, 28), "cifar10": (3, 32), "cifar100": (3, 32), "imagenet": (3, 320)}


EXPERIMENT = """
title = "A table"
shows = "a high rate is better"
net = "net.prototxt"
data = "mnist"
batch = 6000
epochs = 2
momentum = 0.9
weight_decay = 0
draw = ["test loss"]
claims = ["gap: low = high +- 1", "loss: high < low", "loss: again < low"]
[curves.low]
rate = 1e-6
group = "first"
[curves.high]
rate = 0.1
group = "first"
[curves.again]
rate = 0.1
after = "high"
"""
NET = """
name: "tiny"
layer { name: "d" type: "Data" top: "data" top: "label" include { phase: TRAIN } transform_param { scale: 0.01 }
  data_param { source: "x" batch_size: 6 backend: LMDB } }
layer { name: "d" type: "Data" top: "data" top: "label" include { phase: TEST } transform_param { scale: 0.01 }
  data_param { source: "x" batch_size: 2000 backend: LMDB } }
layer { name: "pool" type: "Pooling" bottom: "data" top: "pool" pooling_param { pool: AVE kernel_size: 28 } }
layer { name: "ip" type: "InnerProduct" bottom: "pool" top: "ip"
  inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy" }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


def nets_of_the_paper() -> list[tuple[str, str]]:
    """Experiment and curve of each pair of net and data."""
    pairs = {(c.net, c.data): (e.name, c.name) for e in read_all(ROOT / "experiments").values() for c in e.curves}
    return sorted(pairs.values())


def make_data(folder: Path, name: str, images: int) -> None:
    """Classes that differ in brightness, so that there is something to learn."""
    channels, side = SIDES[name]
    rng = np.random.default_rng(0)
    labels = np.arange(images) % min(DATA[name].classes, 10)
    pixels = rng.integers(0, 50, (images, channels, side, side)) + 20 * labels[:, None, None, None]
    split = Split(pixels.astype(np.uint8), labels)
    (folder / name).mkdir(parents=True)
    parts = (folder / name / f"{name}_{part}" for part in ("train_lmdb", "test_lmdb", "mean.binaryproto"))
    write_data_set(DataSet(split, split), *parts)


def short_trial(experiment: str, curve: str, folder: Path, backend: Backend, iterations: int) -> Trial:
    """Its training, tested at both ends, with data that are made in the folder. The working directory is ROOT."""
    e = read_all("experiments")[experiment]
    small = replace(e.curve(curve), batch=2, after="")
    make_data(folder, small.data, 20)
    trial = trial_of(e, small, 1, folder / "out", data=folder, backend=backend, gpu=not isinstance(backend, Command))
    solver = parse_text(trial.solver, SolverParameter)
    short = {"max_iter": iterations, "test_interval": iterations, "test_iter": [1], "display": iterations // 4 or 1}
    lines = (trial.net or "").splitlines()
    lines[next(i for i, line in enumerate(lines) if "test_lmdb" in line) + 1] = "batch_size: 2"
    return replace(trial, solver=to_text(changed(solver, **short, snapshot=0)), net="\n".join(lines))

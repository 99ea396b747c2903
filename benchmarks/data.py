"""Speed of the sources beside a plain torch.utils.data.DataLoader on the same records.

    OMP_NUM_THREADS=1 python benchmarks/data.py [MNIST_LMDB CIFAR_LMDB] [--seconds 3] [--rounds 3]

Without databases it makes noise of the same shape. For MNIST (28 x 28 raw, scaled), CIFAR-10 (32 x 32 raw; mean, random
crop to 28, mirror) and JPEGs (256 x 256, random crop to 224, mirror) it prints, as medians over rounds that go through
all feeds in turn:

    alone      images/s of the feed, nothing else running
    training   images/s of a solver that takes its batches from the feed (LeNet; a 3-layer CIFAR net; one convolution)
    waits      share of the training time spent waiting for the feed
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("GLOG_minloglevel", "2")

import cv2
import h5py
import lmdb
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pysolver.component import create
from pysolver.context import Context
from pysolver.data.database_writer import new_database, write_all
from pysolver.data.databases import LMDB
from pysolver.proto import caffe_pb2
from pysolver.proto.text import parse_text
from pysolver.solver.solver import Solver

Feed = Iterator[list[Tensor]]


class Case(NamedTuple):
    name: str
    batch: int
    shape: tuple[int, int, int]  # of a record
    transform: str  # transform_param
    net: str  # layers between `data` and `score`


def _convolution(name: str, bottom: str, outputs: int, kernel: int, stride: int = 1, pad: int = 0) -> str:
    return f"""layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" convolution_param {{
        num_output: {outputs} kernel_size: {kernel} stride: {stride} pad: {pad} weight_filler {{ type: "xavier" }} }} }}
        layer {{ name: "{name}_pool" type: "Pooling" bottom: "{name}" top: "{name}_pool"
        pooling_param {{ kernel_size: 2 stride: 2 }} }}
        layer {{ name: "{name}_relu" type: "ReLU" bottom: "{name}_pool" top: "{name}_pool" }}"""


def _inner_product(name: str, bottom: str, outputs: int) -> str:
    return f"""layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}"
        inner_product_param {{ num_output: {outputs} weight_filler {{ type: "xavier" }} }} }}"""


LENET = (
    _convolution("c1", "data", 20, 5)
    + _convolution("c2", "c1_pool", 50, 5)
    + _inner_product("ip1", "c2_pool", 500)
    + _inner_product("score", "ip1", 10)
)
THREE_LAYERS = (
    _convolution("c1", "data", 32, 5, pad=2)
    + _convolution("c2", "c1_pool", 32, 5, pad=2)
    + _convolution("c3", "c2_pool", 64, 5, pad=2)
    + _inner_product("score", "c3_pool", 10)
)
ONE_CONVOLUTION = _convolution("c1", "data", 32, 11, stride=8) + _inner_product("score", "c1_pool", 10)

CASES = [
    Case("MNIST", 64, (1, 28, 28), "scale: 0.00390625", LENET),
    Case("CIFAR-10", 128, (3, 32, 32), "crop_size: 28 mirror: true mean_value: 120", THREE_LAYERS),
    Case("JPEG", 32, (3, 256, 256), "crop_size: 224 mirror: true mean_value: 120", ONE_CONVOLUTION),
]


# ---- the records ---------------------------------------------------------------------------------------------------


def make_records(path: Path, case: Case) -> None:
    """Noise as smooth as a photograph: a JPEG of 256 x 256 takes about 20 kB."""
    rng = np.random.default_rng(0)
    channels, height, width = case.shape
    raw = case.name != "JPEG"

    def records() -> Iterator[tuple[bytes, bytes]]:
        for number in range(20000 if raw else 600):
            if raw:
                data = rng.integers(0, 256, case.shape, np.uint8).tobytes()
                record = caffe_pb2.Datum(channels=channels, height=height, width=width, data=data)
            else:
                image = cv2.resize(
                    rng.integers(0, 256, (48, 48, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC
                )
                record = caffe_pb2.Datum(data=cv2.imencode(".jpg", image)[1].tobytes(), encoded=True)
            record.label = number % 10
            yield b"%08d" % number, record.SerializeToString()

    with new_database(path, LMDB) as database:
        write_all(database, records())


# ---- the feeds -----------------------------------------------------------------------------------------------------


def source_feed(text: str, cache_bytes: int = 2 << 30) -> Feed:
    """The batches of a source given by its prototxt."""
    layer = parse_text(f'name: "d" top: "data" top: "label" {text}', caffe_pb2.LayerParameter)
    layer.phase = caffe_pb2.TRAIN
    source = create(layer, Context(seed=1, cache_bytes=cache_bytes))
    source.set_up()
    try:
        while True:
            yield source.next_batch()
    finally:
        source.close()


def data_feed(case: Case, folder: Path, cache_bytes: int) -> Feed:
    return source_feed(
        f"""type: "Data" transform_param {{ {case.transform} }}
        data_param {{ source: "{folder}" backend: LMDB batch_size: {case.batch} }}""",
        cache_bytes,
    )


def image_feed(case: Case, folder: Path) -> Feed | None:
    """The same JPEGs as files."""
    if case.name != "JPEG":
        return None
    lines = []
    with lmdb.open(str(folder), readonly=True, lock=False) as environment, environment.begin() as transaction:
        for number, value in enumerate(transaction.cursor().iternext(keys=False)):
            record = caffe_pb2.Datum.FromString(value)
            (folder / f"{number}.jpg").write_bytes(record.data)
            lines.append(f"{number}.jpg {record.label}\n")
    (folder / "list.txt").write_text("".join(lines))
    return source_feed(
        f"""type: "ImageData" transform_param {{ {case.transform} }}
        image_data_param {{ source: "{folder}/list.txt" root_folder: "{folder}/" batch_size: {case.batch} }}""",
        cache_bytes=0,
    )


def hdf5_feed(case: Case, folder: Path) -> Feed | None:
    """As many rows of the size that the other feeds hand out."""
    if case.name == "JPEG":
        return None
    size = parse_text(case.transform, caffe_pb2.TransformationParameter).crop_size or case.shape[1]
    with h5py.File(folder / "rows.h5", "w") as file:
        file["data"] = np.random.default_rng(0).random((20000, case.shape[0], size, size), np.float32)
        file["label"] = np.arange(20000) % 10
    (folder / "list.txt").write_text(f"{folder}/rows.h5")
    return source_feed(f'type: "HDF5Data" hdf5_data_param {{ source: "{folder}/list.txt" batch_size: {case.batch} }}')


class Records(Dataset):
    """What a PyTorch user would write for the same database and the same transformation."""

    def __init__(self, case: Case, source: Path) -> None:
        self.param = parse_text(case.transform, caffe_pb2.TransformationParameter)
        self.source, self.transaction = str(source), None
        with lmdb.open(self.source, readonly=True, lock=False) as environment, environment.begin() as transaction:
            self.keys = list(transaction.cursor().iternext(values=False))

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> tuple[Tensor, float]:
        if self.transaction is None:  # once a worker
            self.transaction = lmdb.open(self.source, readonly=True, lock=False).begin()
        record = caffe_pb2.Datum.FromString(self.transaction.get(self.keys[index]))
        if record.encoded:
            image = cv2.imdecode(np.frombuffer(record.data, np.uint8), cv2.IMREAD_COLOR).transpose(2, 0, 1)
        else:
            image = np.frombuffer(record.data, np.uint8).reshape(record.channels, record.height, record.width)
        if size := self.param.crop_size:
            y, x = (int(np.random.randint(n - size + 1)) for n in image.shape[1:])
            image = image[:, y : y + size, x : x + size]
        if self.param.mirror and np.random.randint(2):
            image = image[:, :, ::-1]
        mean = self.param.mean_value[0] if self.param.mean_value else 0
        return (torch.from_numpy(image.copy()).float() - mean) * self.param.scale, float(record.label)


def loader_feed(case: Case, source: Path, workers: int) -> Feed:
    loader = DataLoader(
        Records(case, source), case.batch, drop_last=True, num_workers=workers, persistent_workers=workers > 0
    )
    while True:
        for data, label in loader:
            yield [data, label.float()]


FEEDS: dict[str, Callable[[Case, Path], Feed | None]] = {
    "Data, cached": lambda case, folder: data_feed(case, folder, 2 << 30),
    "Data, not cached": lambda case, folder: data_feed(case, folder, 0),
    "ImageData, not cached": image_feed,
    "HDF5Data": hdf5_feed,
    "DataLoader, 0 workers": lambda case, folder: loader_feed(case, folder, 0),
    "DataLoader, 2 workers": lambda case, folder: loader_feed(case, folder, 2),
}


# ---- measuring -----------------------------------------------------------------------------------------------------


def alone(feed: Feed, case: Case, seconds: float) -> float:
    """Images/s."""
    start, batches = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        next(feed)
        batches += 1
    return case.batch * batches / (time.perf_counter() - start)


def make_step(case: Case) -> Callable[[list[Tensor]], None]:
    """One solver iteration on a given batch."""
    size = parse_text(case.transform, caffe_pb2.TransformationParameter).crop_size or case.shape[1]
    solver = parse_text(
        f"""base_lr: 0.001 momentum: 0.9 lr_policy: "fixed" max_iter: 1000000 random_seed: 1 snapshot_after_train: false
        net_param {{
          layer {{ name: "in" type: "Input" top: "data" top: "label" input_param {{
            shape {{ dim: {case.batch} dim: {case.shape[0]} dim: {size} dim: {size} }}
            shape {{ dim: {case.batch} }} }} }}
          {case.net}
          layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" }} }}""",
        caffe_pb2.SolverParameter,
    )
    solver = Solver(solver, Context())

    def step(batch: list[Tensor]) -> None:
        solver.net.blobs["data"].value, solver.net.blobs["label"].value = batch
        solver.step(1)

    return step


def training(feed: Feed, step: Callable, case: Case, seconds: float) -> tuple[float, float]:
    """Images/s, and the share of the time spent waiting for the feed."""
    start, batches, waited = time.perf_counter(), 0, 0.0
    while time.perf_counter() - start < seconds:
        asked = time.perf_counter()
        batch = next(feed)
        waited += time.perf_counter() - asked
        step(batch)
        batches += 1
    elapsed = time.perf_counter() - start
    return case.batch * batches / elapsed, waited / elapsed


def measure(case: Case, source: Path, seconds: float, rounds: int) -> None:
    step = make_step(case)
    feeds = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, make in FEEDS.items():
            copy = shutil.copytree(source, Path(folder, name.replace(" ", "_")))  # py-lmdb opens no file twice
            if feed := make(case, copy):
                feeds[name] = feed
        compare(case, feeds, step, seconds, rounds)


def compare(case: Case, feeds: dict[str, Feed], step: Callable, seconds: float, rounds: int) -> None:
    for feed in feeds.values():  # threads, workers and the first epoch of the cache
        alone(feed, case, seconds)
        step(next(feed))
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in feeds}
    for _ in range(rounds):
        for name, feed in feeds.items():
            found[name].append((alone(feed, case, seconds), *training(feed, step, case, seconds)))
    print(f"\n{case.name}, batch {case.batch}")
    for name, results in found.items():
        speed, trained, waits = (statistics.median(column) for column in zip(*results))
        print(f"  {name:22s} alone {speed:9.0f}/s   training {trained:7.0f}/s   waits {waits:6.2%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("databases", nargs="*", metavar="LMDB", help="of MNIST and of CIFAR-10")
    parser.add_argument("--seconds", type=float, default=3.0, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate(CASES):
            source = Path(args.databases[number]) if number < len(args.databases) else Path(folder, case.name)
            if not source.exists():
                make_records(source, case)
            measure(case, source, args.seconds, args.rounds)


if __name__ == "__main__":
    main()

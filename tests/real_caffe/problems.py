"""What the real Caffe is given to train: one weight on constant data, and a small net on handwritten digits."""

from __future__ import annotations

from pathlib import Path

import lmdb
import numpy as np
from sklearn.datasets import load_digits

from pysolver.proto import caffe_pb2

TINY_NET = """
name: "Tiny"
layer { name: "data" type: "DummyData" top: "data" top: "target"
  dummy_data_param { shape { dim: 1 dim: 1 } shape { dim: 1 dim: 1 }
    data_filler { type: "constant" value: 1 } data_filler { type: "constant" value: 0.5 } } }
layer { name: "weight" type: "InnerProduct" bottom: "data" top: "product" param { lr_mult: 1e-4 }
  inner_product_param { num_output: 1 bias_term: false weight_filler { type: "constant" value: 2 } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "product" bottom: "target" }
"""

RECORDS, BATCH = 640, 32  # an epoch is 20 iterations: a run resumed after whole epochs sees the data it would have seen

DIGITS_NET = f"""
name: "Digits"
layer {{ name: "data" type: "Data" top: "data" top: "label" transform_param {{ scale: 0.0625 }}
  data_param {{ source: "digits_lmdb" backend: LMDB batch_size: {BATCH} }} }}
layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv" param {{ lr_mult: 1 }} param {{ lr_mult: 2 }}
  convolution_param {{ num_output: 8 kernel_size: 3 pad: 1 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "pool" type: "Pooling" bottom: "conv" top: "pool"
  pooling_param {{ pool: MAX kernel_size: 2 stride: 2 }} }}
layer {{ name: "hidden" type: "InnerProduct" bottom: "pool" top: "hidden"
  inner_product_param {{ num_output: 32 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "sigmoid" type: "Sigmoid" bottom: "hidden" top: "hidden" }}
layer {{ name: "score" type: "InnerProduct" bottom: "hidden" top: "score"
  inner_product_param {{ num_output: 10 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss" }}
"""

CYCLES = "lr_policy: 'triangular' base_lr: 0.02 max_lr: 0.2 stepsize: 50 "
CYCLES += "momentum: 0.95 cyclical_momentum: 0.8 cyclical_momentum: 50 "


def write_tiny(folder: Path, fields: str) -> Path:
    """A solver of the one-weight net in `folder`, with these fields."""
    (folder / "net.prototxt").write_text(TINY_NET)
    return _write_solver(folder, fields + " snapshot_after_train: false")


def write_digits(folder: Path, fields: str) -> Path:
    """A solver of the digits net in `folder`, with these fields, and its data."""
    (folder / "net.prototxt").write_text(DIGITS_NET)
    if not (folder / "digits_lmdb").exists():
        _write_digits_lmdb(folder / "digits_lmdb")
    return _write_solver(folder, fields)


def _write_solver(folder: Path, fields: str) -> Path:
    solver = folder / "solver.prototxt"
    seed = "" if "random_seed" in fields else "random_seed: 1"
    solver.write_text(f'net: "net.prototxt" snapshot_prefix: "snap" solver_mode: CPU {seed} {fields}\n')
    return solver


def _write_digits_lmdb(path: Path) -> None:
    digits = load_digits()
    with lmdb.open(str(path), map_size=1 << 24) as database, database.begin(write=True) as transaction:
        for i, (image, label) in enumerate(zip(digits.images[:RECORDS], digits.target[:RECORDS])):
            pixels = np.uint8(image).tobytes()  # 0 to 16
            datum = caffe_pb2.Datum(channels=1, height=8, width=8, data=pixels, label=int(label))
            transaction.put(f"{i:05d}".encode(), datum.SerializeToString())

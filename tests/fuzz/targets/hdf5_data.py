"""The files that an HDF5Data layer reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tests.fuzz.targets.databases import source
from tests.fuzz.targets.target import GOLDEN, target, written


def _hdf5_data_files() -> list[bytes]:
    def write(path: str, **options: Any) -> None:
        with h5py.File(path, "w") as file:
            file.create_dataset("x", data=np.arange(60, dtype=np.float32).reshape(10, 6), **options)
            file.create_dataset("l", data=np.arange(10))

    return [written(write), written(lambda path: write(path, chunks=(2, 6), compression="gzip", shuffle=True)),
            *[path.read_bytes() for path in sorted((GOLDEN / "transforms" / "h5").iterdir())][:1]]  # fmt: skip


@target("HDF5 data", _hdf5_data_files)
def _hdf5_data(data: bytes) -> None:
    Path("d.h5").write_bytes(data)
    Path("list.txt").write_text("d.h5\n")
    source('name: "d" type: "HDF5Data" top: "x" top: "l" hdf5_data_param { source: "list.txt" batch_size: 3 }')

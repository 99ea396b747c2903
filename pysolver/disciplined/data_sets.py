"""How large the data sets of a net are, and how its data layers say so. Reads no images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pysolver.errors import CaffeError
from pysolver.files import LARGEST_LIST, read_bytes, read_text
from pysolver.lmdb_file import LmdbFile
from pysolver.proto.caffe_pb2 import LayerParameter, NetParameter


def in_phase(layer: LayerParameter, phase: int) -> bool:
    """Whether a layer's include and exclude rules let it into this phase; their levels and stages aside."""
    named = {rule.phase for rule in layer.include if rule.HasField("phase")}
    excluded = {rule.phase for rule in layer.exclude if rule.HasField("phase")}
    return (not named or phase in named) and phase not in excluded


def data_layers(net: NetParameter, phase: int) -> Iterator[LayerParameter]:
    """The layers of a phase that read a data set from disk."""
    return (layer for layer in net.layer if reader(layer) is not None and in_phase(layer, phase))


def reader(layer: LayerParameter):  # noqa: ANN201  the parameter messages have no common type
    """The parameter that has a layer's `source` and `batch_size`; None if it reads no data set."""
    return {"Data": layer.data_param, "ImageData": layer.image_data_param, "HDF5Data": layer.hdf5_data_param}.get(
        layer.type
    )


def size(layer: LayerParameter) -> int | None:
    """Images (rows of an HDF5Data layer) of a data layer's set; None where they cannot be counted at a glance."""
    source = Path(reader(layer).source)
    if layer.type == "Data":
        return lmdb_size(source)
    return _lines(source) if layer.type == "ImageData" else _rows(layer)


def lmdb_size(source: Path) -> int | None:
    """Records of an LMDB; None if there is none."""
    if not (source / "data.mdb").is_file():
        return None
    try:
        return LmdbFile(str(source / "data.mdb")).entries
    except CaffeError:
        return None


def _lines(source: Path) -> int | None:
    try:
        return sum(1 for line in read_bytes(source, LARGEST_LIST).splitlines() if line.strip())
    except CaffeError:
        return None


def _rows(layer: LayerParameter) -> int | None:
    from pysolver.proto.hdf5 import open_hdf5  # h5py takes a while, and few nets need it

    total = 0
    try:
        for name in read_text(layer.hdf5_data_param.source).split():
            with open_hdf5(name) as file:
                total += file.dataset(file.root, layer.top[0]).shape[0]
    except CaffeError:  # of a dataset that is not there, too
        return None
    return total

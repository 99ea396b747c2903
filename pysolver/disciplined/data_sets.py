"""How large the data sets of a net are, and how its data layers say so. Reads no images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pysolver.errors import CaffeError
from pysolver.files import LARGEST_LIST, read_bytes, read_text
from pysolver.lmdb_file import LmdbFile
from pysolver.net.filter import is_included
from pysolver.proto.caffe_pb2 import TEST, TRAIN, LayerParameter, NetParameter, NetState, SolverParameter


def in_phase(layer: LayerParameter, phase: int) -> bool:
    """Whether a layer's include and exclude rules let it into this phase; their levels and stages aside."""
    named = {rule.phase for rule in layer.include if rule.HasField("phase")}
    excluded = {rule.phase for rule in layer.exclude if rule.HasField("phase")}
    return (not named or phase in named) and phase not in excluded


def data_layers(net: NetParameter, phase: int, state: NetState | None = None) -> Iterator[LayerParameter]:
    """The layers of a phase that read a data set from disk.

    state: with the level and the stages that a solver asks for in this phase; None: these are left aside.
    """
    readers = (layer for layer in net.layer if reader(layer) is not None)
    if state is None:
        return (layer for layer in readers if in_phase(layer, phase))
    whole = NetState()
    whole.CopyFrom(net.state)
    whole.MergeFrom(state)
    whole.phase = phase  # type: ignore[assignment]  # a number is one
    return (layer for layer in readers if is_included(layer, whole, lambda event: None))


def tested(solver: SolverParameter, net: NetParameter) -> NetState:
    """The state of the test net that is judged by: of several test_state the one that reads other data than training.

    CaffeError if that is not one. Those of the solver's test_net come first, and are not this net's.
    """
    elsewhere = len(solver.test_net) + len(solver.test_net_param)
    states = list(solver.test_state)[elsewhere:]
    if len(states) < 2:
        return states[0] if states else NetState()
    known = {reader(layer).source for layer in data_layers(net, TRAIN, solver.train_state)}
    other = [state for state in states if {reader(x).source for x in data_layers(net, TEST, state)} - known]
    if len(other) != 1:
        raise CaffeError(
            f"test_state is given {len(states)} times, and {len(other)} of them read a data set that is not the "
            "training set: leave the one to judge by, with its test_iter"
        )
    return other[0]


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

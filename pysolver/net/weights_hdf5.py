"""Weights as HDF5: /data/<layer>/<index>, and /diff/... on request (Net::ToHDF5, CopyTrainedLayersFromHDF5).

Caffe cannot save layers with a slash in their names; here they become nested groups, which h5py reads back.
"""

from __future__ import annotations

import io

import h5py
from torch import nn

from pysolver.errors import CaffeError
from pysolver.files import write_atomic
from pysolver.logs import events as e
from pysolver.logs import notices
from pysolver.net.weights import Weighted, assign, shape_mismatch, solver_state_given, tell_unloaded
from pysolver.proto.hdf5 import Hdf5File, open_sealed, type_class
from pysolver.proto.seal import seal_hdf5


def to_bytes(net: Weighted, with_diff: bool = False) -> bytes:
    """The content of a .caffemodel.h5."""
    names = net.layer_names
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise CaffeError(f"two layers are called '{twice}': a net can be saved as HDF5 only if its layer names differ")
    owned = {id(slot.blob) for slot in net.parameters.slots if slot.owner is None}
    net.flush_params()
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver=("earliest", "v108")) as file:
        data = file.create_group("data")
        diff = file.create_group("diff") if with_diff else None
        for layer in net.layers:
            group = data.require_group(layer.name)
            diff_group = diff.require_group(layer.name) if diff is not None else None
            for index, blob in enumerate(layer.blobs):
                if id(blob) in owned:
                    group.create_dataset(str(index), data=blob.detach().cpu().numpy())
                if diff_group is not None:
                    diff_group.create_dataset(str(index), data=blob.grad.cpu().numpy())
    return seal_hdf5(buffer.getvalue())


def save(net: Weighted, path: str, with_diff: bool = False) -> None:
    """Write a .caffemodel.h5, whole or not at all."""
    write_atomic(path, to_bytes(net, with_diff))


def load(net: Weighted, path: str) -> list[nn.Parameter]:
    """Load by layer name (of two layers of one name the last), all checks before the first copy; the parameters."""
    targets = {layer.name: layer for layer in net.layers}
    sharers = {id(slot.blob) for slot in net.parameters.slots if slot.owner is not None}
    copies, classes = [], dict[str, None]()
    with open_sealed(path) as file:
        data = file.group("data")
        if data is None:
            if "iter" in file.root:
                raise solver_state_given(path)
            raise CaffeError(f"{path}: no group /data: this HDF5 file holds no weights of a net")
        given = []
        for name, group in _layers(file, data):
            given += [name] if len(group) else []
            layer = targets.get(name)
            if layer is None:
                net.context.emit(e.IgnoringSourceLayer(name))
                continue
            if len(group) > len(layer.blobs):
                raise CaffeError(
                    f"{path}: Incompatible number of blobs for layer {name} ({layer.type_name}): "
                    f"the source has {len(group)}, the net {len(layer.blobs)}"
                )
            for index, blob in enumerate(layer.blobs):
                values = file.dataset(group, str(index))
                if values is None:
                    if id(blob) in sharers:
                        continue
                    raise CaffeError(f"{path}: Incompatible number of blobs for layer {name}: no dataset {index}")
                if tuple(values.shape) != tuple(blob.shape):
                    raise shape_mismatch(layer, index, tuple(values.shape), tuple(blob.shape), path)
                copies.append((blob, file.numbers(values)))
                classes.setdefault(type_class(values))
    for name in classes:
        net.context.emit(notices.DatatypeClass(name))
    net.flush_params()
    for blob, values in copies:
        assign(blob, values)
    tell_unloaded(net, path, given)
    return [blob for blob, _ in copies]


def _layers(file: Hdf5File, data: h5py.Group) -> list[tuple[str, h5py.Group]]:
    """Layer groups by name; a group of groups is a name with slashes."""
    found: list[tuple[str, h5py.Group]] = []
    seen = {h5py.h5o.get_info(data.id).addr}

    def visit(prefix: str, group: h5py.Group) -> bool:
        """Adds the layers below; whether the group holds a blob itself."""
        has_blob = False
        for name, item in file.items(group):
            has_blob |= isinstance(item, h5py.Dataset)
            if isinstance(item, h5py.Group):
                address = h5py.h5o.get_info(item.id).addr
                if address in seen:  # a tree of them has two to the power of its depth names
                    raise CaffeError(f"{file.path}: the group {item.name} has a second name: not allowed")
                seen.add(address)
                place = len(found)
                if visit(f"{prefix}{name}/", item) or not len(item):
                    found.insert(place, (prefix + name, item))
        return has_blob

    visit("", data)
    return found

"""HDF5 files from strangers: links, storage elsewhere, sizes that are not there, damage to the checksum's own name."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from pysolver.context import Context
from pysolver.errors import CaffeError
from pysolver.net import weights_hdf5
from pysolver.net.net import Net
from pysolver.proto import caffe_pb2
from pysolver.proto.hdf5 import open_hdf5, open_sealed
from pysolver.proto.text import parse_text
from pysolver.solver import state_file

NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 3 } }
"""


@pytest.fixture
def net() -> Net:
    return Net(parse_text(NET, caffe_pb2.NetParameter), context=Context(seed=1))


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def external_link(file: h5py.File) -> None:
    with h5py.File("other.h5", "w") as other:
        other["0"] = np.zeros((3, 2), np.float32)
    file["data/ip/0"] = h5py.ExternalLink("other.h5", "/0")


def external_group(file: h5py.File) -> None:
    with h5py.File("other.h5", "w") as other:
        other["0"] = np.zeros((3, 2), np.float32)
    del file["data/ip"]
    file["data/ip"] = h5py.ExternalLink("other.h5", "/")


def external_storage(file: h5py.File) -> None:
    Path("secret").write_bytes(b"the words of its user...")
    file["data/ip"].create_dataset("0", (3, 2), np.float32, external=[(os.path.abspath("secret"), 0, 24)])


def virtual_storage(file: h5py.File) -> None:
    with h5py.File("other.h5", "w") as other:
        other["0"] = np.zeros((3, 2), np.float32)
    layout = h5py.VirtualLayout((3, 2), np.float32)
    layout[:] = h5py.VirtualSource("other.h5", "0", (3, 2))
    file["data/ip"].create_virtual_dataset("0", layout)


def circle(file: h5py.File) -> None:
    file["data/ip/0"] = np.zeros((3, 2), np.float32)
    file["data/more"] = file["data"]


def tree_of_two_names_each(file: h5py.File) -> None:
    file["data/ip/0"] = np.zeros((3, 2), np.float32)
    group = file.create_group("data/tree")
    for _ in range(30):  # 2 ** 30 paths
        inner = group.create_group("a")
        group["b"] = inner
        group = inner


TRAPS = {
    external_link: "/data/ip/0 is a link to another place",
    external_group: "/data/ip is a link to another place",
    external_storage: "/data/ip/0 lies in other files",
    virtual_storage: "/data/ip/0 lies in other files",
    circle: "the group /data/more has a second name",
    tree_of_two_names_each: "the group /data/tree/a.*/b has a second name",
}


@pytest.mark.timeout(20)  # the tree took for ever
@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap.__name__)
def test_weights_lie_in_their_file_under_one_name(net, trap) -> None:
    with h5py.File("w.h5", "w") as file:
        file.create_group("data/ip")["1"] = np.zeros(3, np.float32)
        trap(file)
    before = [blob.detach().clone() for blob in net.layers[-1].blobs]
    with pytest.raises(CaffeError, match=f"^w.h5: {TRAPS[trap]}.*not allowed"):
        net.copy_trained_layers_from("w.h5")
    assert all((blob == old).all() for blob, old in zip(net.layers[-1].blobs, before))


def test_a_file_that_is_one_of_several() -> None:
    """The driver's block is of whatever size it claims: HDF5 took two gigabytes for a file of two kilobytes."""
    with h5py.File("part%d.h5", "w", driver="family", memb_size=1 << 20) as file:
        file["x"] = np.arange(3)
    with pytest.raises(CaffeError, match=r"^part0.h5: a file of several .*not allowed"), open_hdf5("part0.h5"):
        pass


@pytest.mark.parametrize("version", ["earliest", "latest"])
@pytest.mark.parametrize("block", [0, 512, 2048])
def test_a_file_behind_a_block_of_the_users(version, block) -> None:
    """MATLAB's are."""
    with h5py.File("a.h5", "w", libver=version, userblock_size=block) as file:
        file["x"] = np.arange(3)
    with open_hdf5("a.h5") as opened:
        assert opened.numbers(opened.dataset(opened.root, "x")).tolist() == [0, 1, 2]


def test_a_state_that_claims_gigabytes(monkeypatch) -> None:
    with h5py.File("s.solverstate.h5", "w") as file:
        file["iter"], file["current_step"], file["learned_net"] = [1], [0], np.bytes_(b"m.caffemodel.h5\0")
        file.create_dataset("history/0", (900, 1_000_000), np.float32)  # never written: takes no room
    assert os.path.getsize("s.solverstate.h5") < 10_000
    with pytest.raises(CaffeError, match="/history/0 claims 900000000 values, more than the file has room for"):
        state_file.read("s.solverstate.h5")


def test_a_state_of_one_blob_under_ten_thousand_names() -> None:
    with h5py.File("s.solverstate.h5", "w") as file:
        file["iter"], file["current_step"], file["learned_net"] = [1], [0], np.bytes_(b"m.caffemodel.h5\0")
        zeros = np.zeros((1000, 1000), np.float32)
        file.create_dataset("history/0", data=zeros, chunks=zeros.shape, compression="gzip")
        for index in range(1, 3000):
            file[f"history/{index}"] = file["history/0"]
    with pytest.raises(CaffeError, match="more than the file has room for"):
        state_file.read("s.solverstate.h5")


def sealed_files(net: Net) -> list[str]:
    weights_hdf5.save(net, "w.caffemodel.h5")
    state = state_file.State(7, "w.caffemodel.h5", 0, [np.ones((3, 2), np.float32)])
    Path("s.solverstate.h5").write_bytes(state_file.to_bytes(state, hdf5=True))
    return ["w.caffemodel.h5", "s.solverstate.h5"]


def test_damage_to_any_bit_of_the_checksum_is_noticed(net) -> None:
    """The name of the checksum too: without it the check was silently left out."""
    for path in sealed_files(net):
        intact = Path(path).read_bytes()
        read = state_file.read if "state" in path else lambda path: net.copy_trained_layers_from(path)
        read(path)
        for bit in range(8 * 19):
            damaged = bytearray(intact)
            damaged[-19 + bit // 8] ^= 1 << bit % 8
            Path(path).write_bytes(damaged)
            with pytest.raises(CaffeError, match=f"{path}: damaged"):
                read(path)


@pytest.mark.parametrize("libver", ["earliest", "v108", "latest"])
def test_files_of_others_end_where_they_say(libver) -> None:
    """Superblocks of versions 0, 2 and 3."""
    with h5py.File("s.solverstate.h5", "w", libver=libver) as file:
        file["iter"], file["current_step"], file["learned_net"] = [5], [0], np.bytes_(b"m.caffemodel.h5\0")
        file["history/0"] = np.ones(4, np.float32)
    assert state_file.read("s.solverstate.h5").iteration == 5
    with open("s.solverstate.h5", "ab") as file:
        file.write(b"x" * 19)
    with pytest.raises(CaffeError, match="damaged: 19 bytes behind the end of the HDF5 file"):
        state_file.read("s.solverstate.h5")


def test_a_device_is_no_file() -> None:
    """A state may name any path as its model: /dev/zero was read until the memory was full."""
    for open_file in (open_sealed, open_hdf5):
        for path in ("/dev/zero", "."):
            with pytest.raises(CaffeError, match=f"^{path}: HDF5 is read from plain files only"), open_file(path):
                pass

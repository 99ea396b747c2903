"""Weights out and in: by layer name, binary and HDF5, with Caffe's checks."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch

from pysolver.context import Context
from pysolver.errors import CaffeError
from pysolver.layers import fillers
from pysolver.logs import notices
from pysolver.net import weights, weights_hdf5
from pysolver.net.net import Net
from pysolver.net.pretrained import pretrained
from pysolver.proto import blobproto, caffe_pb2
from pysolver.proto.text import parse_text
from pysolver.solver import state_file

NET = """
name: "pair"
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "h" loss_weight: 1
        inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "a/b" type: "InnerProduct" bottom: "h" top: "z"
        inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
"""


def build(text: str = NET) -> Net:
    return Net(parse_text(text, caffe_pb2.NetParameter))


def values(net: Net) -> list[torch.Tensor]:
    return [p.detach().clone() for p in net.learnable_params]


@pytest.mark.parametrize("module", [weights, weights_hdf5])
def test_what_is_saved_loads_into_another_net(tmp_path, module):
    source, target = build(), build()
    path = str(tmp_path / "net.anything")  # the content decides, not the name
    module.save(source, path)
    assert not torch.equal(values(source)[0], values(target)[0])
    target.copy_trained_layers_from(path)
    for one, two in zip(values(source), values(target)):
        assert torch.equal(one, two)


def test_a_caffemodel_holds_every_layer_as_it_is_used():
    net = build()
    proto = net.to_proto()
    assert [layer.name for layer in proto.layer] == ["in", "ip", "h_ip_0_split", "a/b"]
    assert proto.name == "pair"
    assert all(layer.HasField("phase") for layer in proto.layer)
    assert list(proto.layer[1].blobs[0].shape.dim) == [4, 3]
    np.testing.assert_array_equal(
        np.array(proto.layer[1].blobs[0].data, np.float32), net.learnable_params[0].detach().numpy().ravel()
    )
    assert not proto.layer[1].blobs[0].diff
    assert len(net.to_proto(with_diff=True).layer[1].blobs[0].diff) == 12


def test_hdf5_has_caffes_layout_and_slashes_nest(tmp_path):
    net = build()
    weights_hdf5.save(net, str(tmp_path / "w.h5"), with_diff=True)
    with h5py.File(tmp_path / "w.h5") as file:
        assert set(file) == {"data", "diff"}
        assert file["data/ip/0"].shape == (4, 3)
        assert file["data/ip/0"].dtype == np.float32
        assert len(file["data/in"]) == 0
        assert file["data/a/b/1"].shape == (2,)


def test_layers_match_by_name_and_others_are_told(tmp_path, capsys):
    source = build()
    path = str(tmp_path / "w.caffemodel")
    weights.save(source, path)
    target = build(NET.replace('"a/b"', '"new"'))
    kept = values(target)[2]
    capsys.readouterr()
    target.copy_trained_layers_from(path)
    assert torch.equal(values(target)[0], values(source)[0])
    assert torch.equal(values(target)[2], kept)
    assert "Ignoring source layer a/b" in capsys.readouterr().err


def test_a_bias_in_the_old_four_axis_form_loads(tmp_path):
    net = build()
    proto = net.to_proto()
    blob = proto.layer[1].blobs[1]
    blob.ClearField("shape")
    blob.num, blob.channels, blob.height, blob.width = 1, 1, 1, 4
    del blob.data[:]
    blob.data.extend([1, 2, 3, 4])
    path = tmp_path / "old.caffemodel"
    path.write_bytes(proto.SerializeToString())
    net.copy_trained_layers_from(str(path))
    assert net.learnable_params[1].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("module", [weights, weights_hdf5])
def test_another_shape_is_refused_and_nothing_is_loaded(tmp_path, module):
    source = build(NET.replace("num_output: 2", "num_output: 5"))
    path = str(tmp_path / "w")
    module.save(source, path)
    target = build()
    before = values(target)
    with pytest.raises(
        CaffeError, match=r"Cannot copy param 0 weights from layer 'a/b'; shape mismatch.*5 4 \(20\).*2 4 \(8\)"
    ):
        target.copy_trained_layers_from(path)
    assert all(torch.equal(one, two) for one, two in zip(before, values(target)))


def test_a_blob_without_all_its_values_is_named_and_nothing_is_loaded(tmp_path):
    proto, target = build().to_proto(), build()
    del proto.layer[3].blobs[1].data[-1]
    path = tmp_path / "short.caffemodel"
    path.write_bytes(proto.SerializeToString())
    before = values(target)
    with pytest.raises(CaffeError, match=r"short.caffemodel: .*layer 'a/b', blob 1: .* needs 2 values, the file has 1"):
        target.copy_trained_layers_from(str(path))
    assert all(torch.equal(one, two) for one, two in zip(before, values(target)))


def test_another_number_of_blobs_is_refused(tmp_path):
    source = build(NET.replace("num_output: 2", "num_output: 2 bias_term: false"))
    path = str(tmp_path / "w")
    weights.save(source, path)
    with pytest.raises(CaffeError, match="Incompatible number of blobs for layer a/b .*has 1, the net 2"):
        build().copy_trained_layers_from(path)


@pytest.mark.parametrize("hdf5", [False, True])
def test_a_solver_state_belongs_to_snapshot(tmp_path, hdf5):
    net, state = build(), tmp_path / "snap_iter_3.solverstate"
    history = [value.numpy() for value in values(net)]
    state.write_bytes(state_file.to_bytes(state_file.State(3, "snap_iter_3.caffemodel", 0, history), hdf5))
    with pytest.raises(CaffeError, match=r"\.solverstate: this is a solver state, not a model: give it to --snapshot"):
        net.copy_trained_layers_from(str(state))


def test_a_missing_file_is_called_missing():
    with pytest.raises(CaffeError, match="nowhere.caffemodel: .*No such file"):
        build().copy_trained_layers_from("nowhere.caffemodel")


def test_a_test_net_uses_the_train_nets_memory():
    train, test = build(), build()
    test.share_trained_layers_with(train)
    train.learnable_params[0].data[0, 0] = 42
    assert test.layers[1].blobs[0][0, 0] == 42


def test_fillers_of_what_the_files_have_never_run(tmp_path, monkeypatch):
    """A new layer is filled by its law; shared memory that one of its layers is given stays as given."""
    layer = (
        'layer {{ name: "{}" type: "InnerProduct" bottom: "x" top: "{}" param {{ name: "{}" }} inner_product_param '
        '{{ num_output: 3 bias_term: false weight_filler {{ type: "{}" min: 7 max: 8 }} }} }}'
    )
    start = 'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }'
    param = parse_text(
        start + "".join(layer.format(name, name, of, "uniform") for name, of in ("aa", "bs", "cs", "dd")),
        caffe_pb2.NetParameter,
    )
    values = np.arange(9, dtype=np.float32).reshape(3, 3)
    stored = caffe_pb2.NetParameter()
    for name, factor in (("a", 1), ("c", 2)):
        stored.layer.add(name=name, type="InnerProduct").blobs.append(blobproto.from_array(factor * values))
    (tmp_path / "w.caffemodel").write_bytes(stored.SerializeToString())
    filled = []
    law = fillers._LAWS["uniform"]
    monkeypatch.setitem(fillers._LAWS, "uniform", lambda tensor, filler: (filled.append(tensor), law(tensor, filler)))
    net = pretrained(param, Context(listener=lambda event: None), [str(tmp_path / "w.caffemodel")])
    a, b, c, d = (layer.blobs[0].detach().numpy() for layer in net.layers if layer.blobs)
    np.testing.assert_array_equal([a, b, c], [values, 2 * values, 2 * values])
    assert d.min() >= 7 and d.max() <= 8 and len(filled) == 2  # d's, and c's own memory, which it gave up for b's
    with pytest.raises(CaffeError, match="net.prototxt: layer 'a' .*: Unknown filler name: gauss"):
        bad = parse_text(start + layer.format("a", "a", "a", "gauss"), caffe_pb2.NetParameter)
        pretrained(bad, Context(listener=lambda event: None), [str(tmp_path / "w.caffemodel")], "net.prototxt")


def heard(text: str, path: str) -> list:
    told: list = []
    Net(parse_text(text, caffe_pb2.NetParameter), Context(listener=told.append)).copy_trained_layers_from(path)
    return [event for event in told if isinstance(event, (notices.NothingLoaded, notices.PartlyLoaded))]


@pytest.mark.parametrize("module", [weights, weights_hdf5])
def test_layers_that_get_no_weights_are_told(tmp_path, module):
    """Caffe trains them from scratch without a word."""
    path = str(tmp_path / "net.caffemodel")
    module.save(build(), path)
    assert heard(NET, path) == []
    other = NET.replace('"ip"', '"fc"')
    assert heard(other, path) == [notices.PartlyLoaded(path, 1, 2, "fc")]
    other = other.replace('"a/b"', '"c"')
    given = "ip, a/b" if module is weights else "a/b, ip"  # HDF5 has them by name
    assert heard(other, path) == [notices.NothingLoaded(path, "fc, c", given)]

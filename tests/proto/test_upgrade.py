"""Old nets and solvers against what Caffe's own upgrade tools made of them, and the rules those do not show."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pysolver.errors import CaffeError
from pysolver.proto import upgrade_files
from pysolver.proto.blobproto import shapes_equal, to_array
from pysolver.proto.caffe_pb2 import NetParameter, SolverParameter, V1LayerParameter
from pysolver.proto.text import parse_text, read_text, to_text
from pysolver.proto.upgrade import net_needs_upgrade, read_net, read_solver, read_weights, try_upgrade_net, upgrade_net
from pysolver.proto.upgrade_v0 import TYPES as V0_TYPES
from pysolver.proto.upgrade_v1 import TYPES as V1_TYPES

DATA = Path(__file__).parents[1] / "golden/upgrade"
INDEX = json.loads((DATA / "index.json").read_text())


@pytest.fixture
def log(capsys):
    """What was logged: [severity, text] of each line."""
    return lambda: [[line[0], line.split("] ", 1)[1]] for line in capsys.readouterr().err.splitlines()]


def net(text: str) -> NetParameter:
    return parse_text(text, NetParameter)


# Caffe's own upgrades


@pytest.mark.parametrize("name", INDEX)
def test_upgrade_tools_do_what_caffes_do(name, tmp_path, monkeypatch, log):
    shutil.copy(DATA / f"{name}.prototxt", tmp_path)
    monkeypatch.chdir(tmp_path)
    tool = getattr(upgrade_files, INDEX[name]["tool"])
    assert tool(f"{name}.prototxt", f"{name}.upgraded.prototxt") == INDEX[name]["exit_status"]
    assert log() == INDEX[name]["messages"]
    wanted = (DATA / f"{name}.upgraded.prototxt").read_text()
    assert (tmp_path / f"{name}.upgraded.prototxt").read_text() == wanted
    kind = NetParameter if "net" in INDEX[name]["tool"] else SolverParameter
    assert read_text(tmp_path / f"{name}.upgraded.prototxt", kind) == parse_text(wanted, kind)


@pytest.mark.parametrize("name", [name for name in INDEX if "solver" not in name])
def test_what_is_upgraded_is_of_the_present_form(name, log):
    assert not net_needs_upgrade(read_text(DATA / f"{name}.upgraded.prototxt", NetParameter)) or "batchnorm" in name
    assert read_net(DATA / f"{name}.prototxt") == read_text(DATA / f"{name}.upgraded.prototxt", NetParameter)


def test_old_weights_are_upgraded_to_the_same_bytes(tmp_path, log):
    source, target = DATA / "v1_weights/v1.caffemodel", tmp_path / "new.caffemodel"
    assert upgrade_files.upgrade_net_proto_binary(source, target) == 0
    assert target.read_bytes() == (DATA / "v1_weights/upgraded.caffemodel").read_bytes()
    assert log()[-1] == ["I", f"Wrote upgraded NetParameter binary proto to {target}"]


@pytest.mark.parametrize("model", ["v1.caffemodel", "upgraded.caffemodel"])
def test_old_weights_have_the_values_that_a_net_got_from_them(model, log):
    params = np.load(DATA / "v1_weights/params.npz")
    blobs = {}
    for layer in read_weights(DATA / "v1_weights" / model).layer:
        blobs |= {f"{layer.name}/{index}": blob for index, blob in enumerate(layer.blobs)}
    for key in ("conv/0", "conv/1", "fc/0", "fc/1"):
        assert shapes_equal(params[key].shape, blobs[key])
        np.testing.assert_array_equal(to_array(blobs[key]).reshape(params[key].shape), params[key])


# V0


def test_every_v0_type_has_its_v1_type():
    numbers = [V1LayerParameter.LayerType.Value(name) for name in V0_TYPES.values()]
    assert sorted(numbers) == list(range(1, 25))  # V1 began with the types of V0
    with pytest.raises(CaffeError, match=r"old: layer 'x': unknown type 'convolution'; known: accuracy, bnll, concat"):
        upgrade_net(net("layers { layer { name: 'x' type: 'convolution' } }"), "old")


def test_v0_fields_without_a_place_are_error_lines_and_the_rest_goes_on(log):
    old = net(
        "layers { layer { name: 'r' type: 'relu' num_output: 3 pad: 1 source: 's' shuffle_images: true scale: 2 "
        "hdf5_output_param { file_name: 'f' } } }"
    )
    new, clean = try_upgrade_net(old, "old.prototxt")
    assert not clean
    assert [text for severity, text in log() if severity == "E"] == [
        "Unknown parameter num_output for layer type relu",
        "Unknown parameter pad for layer type relu",
        "Unknown parameter source for layer type relu",
        "Unknown parameter shuffle for layer type relu",
        "Unknown parameter hdf5_output_param for layer type relu",
        "Warning: had one or more problems upgrading V0NetParameter to NetParameter (see above); continuing anyway.",
    ]
    assert new == net("layer { name: 'r' type: 'ReLU' transform_param { scale: 2 } }")


def test_v0_images_windows_and_outputs(log):
    old = net(
        """layers { layer { name: 'i' type: 'images' source: 's' batchsize: 4 rand_skip: 2 new_height: 3 new_width: 5
                    shuffle_images: true meanfile: 'm' cropsize: 2 mirror: true } top: 'i' }
           layers { layer { name: 'w' type: 'window_data' source: 's' batchsize: 4 det_fg_threshold: 0.5
                    det_bg_threshold: 0.25 det_fg_fraction: 0.125 det_context_pad: 16 det_crop_mode: 'square' }
                    top: 'w' }
           layers { layer { name: 'c' type: 'concat' concat_dim: 0 } bottom: 'i' bottom: 'w' top: 'c' }
           layers { layer { name: 'g' type: 'infogain_loss' source: 'h' } bottom: 'i' bottom: 'w' }
           layers { layer { name: 'o' type: 'hdf5_output' hdf5_output_param { file_name: 'f' } } bottom: 'c' }"""
    )
    assert upgrade_net(old, "") == net(
        """layer { name: 'i' type: 'ImageData' top: 'i' transform_param { mean_file: 'm' crop_size: 2 mirror: true }
             image_data_param { source: 's' batch_size: 4 rand_skip: 2 new_height: 3 new_width: 5 shuffle: true } }
           layer { name: 'w' type: 'WindowData' top: 'w' window_data_param { source: 's' batch_size: 4
             fg_threshold: 0.5 bg_threshold: 0.25 fg_fraction: 0.125 context_pad: 16 crop_mode: 'square' } }
           layer { name: 'c' type: 'Concat' bottom: 'i' bottom: 'w' top: 'c' concat_param { concat_dim: 0 } }
           layer { name: 'g' type: 'InfogainLoss' bottom: 'i' bottom: 'w' infogain_loss_param { source: 'h' } }
           layer { name: 'o' type: 'HDF5Output' bottom: 'c' hdf5_output_param { file_name: 'f' } }"""
    )


PADDING = "input: 'x' layers { layer { name: 'p' type: 'padding' pad: 2 } bottom: 'x' top: 'p' } "


def test_v0_padding_goes_into_the_layer_behind_it(log):
    new = upgrade_net(net(PADDING + "layers { layer { name: 'c' type: 'pool' } bottom: 'p' top: 'c' }"), "")
    assert new == net("layer { name: 'c' type: 'Pooling' bottom: 'x' top: 'c' pooling_param { pad: 2 } }")


@pytest.mark.parametrize(
    "text, error",
    [
        (
            PADDING + "layers { layer { name: 'r' type: 'relu' } bottom: 'p' top: 'r' }",
            "padding goes into a conv or pool",
        ),
        (
            PADDING + "layers { layer { name: 'c' type: 'conv' } bottom: 'p' bottom: 'x' }",
            "one bottom and one top each",
        ),
        ("layers { layer { name: 'c' type: 'conv' } bottom: 'nowhere' }", "layer 'c': unknown bottom blob 'nowhere'"),
    ],
)
def test_v0_connections_that_make_no_net(text, error, log):
    with pytest.raises(CaffeError) as caught:
        upgrade_net(net(text), "old.prototxt")
    assert str(caught.value).startswith("old.prototxt: layer '")
    assert error in str(caught.value)


# V1


def test_every_v1_type_has_a_name():
    assert set(V1_TYPES) == set(V1LayerParameter.LayerType.keys())


def test_v1_lists_become_one_spec_for_each_blob(log):
    old = net(
        "layers { name: 'c' type: CONVOLUTION param: 'w' blobs_lr: 1 blobs_lr: 2 weight_decay: 0 weight_decay: 3 "
        "weight_decay: 4 blob_share_mode: STRICT blob_share_mode: PERMISSIVE }"
    )
    assert upgrade_net(old, "") == net(
        "layer { name: 'c' type: 'Convolution' param { name: 'w' share_mode: STRICT lr_mult: 1 decay_mult: 0 } "
        "param { share_mode: PERMISSIVE lr_mult: 2 decay_mult: 3 } param { decay_mult: 4 } }"
    )


def test_v1_transform_leaves_both_messages_behind_in_every_data_layer(log):
    """So does Caffe, once any layer needs it."""
    old = net("layers { type: DATA data_param { mirror: true } } layers { type: WINDOW_DATA }")
    assert upgrade_net(old, "") == net(
        "layer { type: 'Data' data_param { } transform_param { mirror: true } } "
        "layer { type: 'WindowData' window_data_param { } transform_param { } }"
    )


def test_both_forms_in_one_net_are_refused():
    with pytest.raises(CaffeError, match="both.prototxt: Refusing to upgrade inconsistent NetParameter"):
        upgrade_net(net("layer { name: 'a' } layers { name: 'b' }"), "both.prototxt")


# Inputs


def test_input_fields_become_the_first_layer(log):
    old = net("input: 'a' input: 'b' input_dim: [1, 2, 3, 4, 5, 6, 7, 8] layer { name: 'x' type: 'ReLU' }")
    assert upgrade_net(old, "") == net(
        "layer { name: 'input' type: 'Input' top: 'a' top: 'b' input_param { shape { dim: [1, 2, 3, 4] } "
        "shape { dim: [5, 6, 7, 8] } } } layer { name: 'x' type: 'ReLU' }"
    )


def test_inputs_without_shape_are_dropped(log):
    assert upgrade_net(net("input: 'a' layer { name: 'x' }"), "") == net("layer { name: 'x' }")


@pytest.mark.parametrize(
    "text, error",
    [
        ("input: 'a' input: 'b' input_dim: [1, 2, 3, 4, 5, 6, 7]", "2 input blobs need 8 input_dim, not 7"),
        ("input: 'a' input: 'b' input_shape { dim: 1 }", "2 input blobs, but only 1 input_shape"),
    ],
)
def test_too_few_input_dimensions(text, error, log):
    with pytest.raises(CaffeError, match=f"^old.prototxt: {error}$"):
        upgrade_net(net(text), "old.prototxt")


# Solvers


@pytest.mark.parametrize(
    "old, new",
    [
        ("SGD", "SGD"),
        ("NESTEROV", "Nesterov"),
        ("ADAGRAD", "AdaGrad"),
        ("3", "RMSProp"),
        ("ADADELTA", "AdaDelta"),
        ("ADAM", "Adam"),
    ],
)
def test_solver_type_becomes_type(old, new, tmp_path, log):
    path = tmp_path / "solver.prototxt"
    path.write_text(f"solver_type: {old} snapshot_prefix: 'p'")
    assert to_text(read_solver(path)) == f'snapshot_prefix: "p"\ntype: "{new}"\n'


def test_solver_type_and_type_are_refused(tmp_path, log):
    path = tmp_path / "solver.prototxt"
    path.write_text("solver_type: ADAM type: 'Adam'")
    with pytest.raises(CaffeError, match="cannot be both specified in solver proto text"):
        read_solver(path)


@pytest.mark.parametrize(
    "text, prefix, line",
    [
        ("", "nets/lenet.fast", "snapshot_prefix was not specified and is set to nets/lenet.fast"),
        ("'out'", "out/lenet.fast", "snapshot_prefix was a directory and is replaced to out/lenet.fast"),
        ("'out/'", "out/lenet.fast", "snapshot_prefix was a directory and is replaced to out/lenet.fast"),
        ("'out/x'", "out/x", None),
        ("''", "", None),
    ],
)
def test_snapshot_prefix(text, prefix, line, tmp_path, monkeypatch, log):
    (tmp_path / "nets").mkdir()
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    Path("nets/lenet.fast.prototxt").write_text(f"snapshot_prefix: {text}" if text else "")
    assert read_solver("nets/lenet.fast.prototxt").snapshot_prefix == prefix
    assert log() == ([["I", line]] if line else [])


# The tools' exit status


def test_tools_say_when_a_file_cannot_be_read(tmp_path, log):
    source = tmp_path / "bad.prototxt"
    source.write_text("nosuch: 1")
    assert upgrade_files.upgrade_net_proto_text(source, tmp_path / "out") == 2
    assert log() == [
        ["E", f"{source}:1:1: NetParameter has no field 'nosuch'"],
        ["E", f"Failed to parse input text file as NetParameter: {source}"],
    ]
    assert upgrade_files.upgrade_net_proto_binary(source, tmp_path / "out") == 2
    assert upgrade_files.upgrade_solver_proto_text(source, tmp_path / "out") == 2
    assert not (tmp_path / "out").exists()


def test_tools_write_what_could_be_upgraded_and_fail(tmp_path, log):
    source = tmp_path / "old.prototxt"
    source.write_text("layers { layer { name: 'r' type: 'relu' pad: 1 } }")
    assert upgrade_files.upgrade_net_proto_text(source, tmp_path / "out") == 1
    assert read_net(tmp_path / "out") == net("layer { name: 'r' type: 'ReLU' }")
    assert ["E", "Encountered error(s) while upgrading prototxt; see details above."] in log()


def test_a_field_of_a_fork_that_has_no_place_in_the_present_form():
    old = NetParameter()
    old.layers.add(name="down", type=V1LayerParameter.RELU).relu6_param.SetInParent()  # there as another message
    with pytest.raises(CaffeError, match="layer 'down': relu6_param has no place"):
        upgrade_net(old, "net.prototxt", lambda event: None)

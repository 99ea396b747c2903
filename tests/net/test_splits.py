"""Split insertion against Caffe's written rules (src/caffe/util/insert_splits.cpp and its unit tests' cases)."""

from __future__ import annotations

import pytest

from pysolver.errors import CaffeError
from pysolver.net.splits import insert_splits
from pysolver.proto import caffe_pb2
from pysolver.proto.text import parse_text


def split(text: str, losses: tuple[str, ...] = ("EuclideanLoss",)) -> list[tuple]:
    net = insert_splits(parse_text(text, caffe_pb2.NetParameter), lambda name: name in losses)
    return [(la.name, list(la.bottom), list(la.top), list(la.loss_weight)) for la in net.layer]


DATA = "layer { name: 'data' type: 'Input' top: 'data' top: 'label' } "


def test_a_net_without_second_readers_stays_as_it_is():
    assert split(DATA + "layer { name: 'l' type: 'EuclideanLoss' bottom: 'data' bottom: 'label' top: 'loss' }") == [
        ("data", [], ["data", "label"], []),
        ("l", ["data", "label"], ["loss"], []),
    ]


def test_second_readers_get_numbered_copies_in_file_order():
    layers = split(
        DATA
        + "layer { name: 'a' type: 'InnerProduct' bottom: 'data' top: 'a' }"
        + "layer { name: 'b' type: 'InnerProduct' bottom: 'data' top: 'b' }"
        + "layer { name: 'l1' type: 'EuclideanLoss' bottom: 'a' bottom: 'label' }"
        + "layer { name: 'l2' type: 'EuclideanLoss' bottom: 'b' bottom: 'label' }"
    )
    assert [name for name, *_ in layers] == [
        "data", "data_data_0_split", "label_data_1_split", "a", "b", "l1", "l2",
    ]  # fmt: skip
    assert layers[1][2] == ["data_data_0_split_0", "data_data_0_split_1"]
    assert layers[4][1] == ["data_data_0_split_1"]
    assert layers[5][1] == ["a", "label_data_1_split_0"]
    assert layers[6][1] == ["b", "label_data_1_split_1"]


def test_an_in_place_layer_starts_a_new_version():
    layers = split(
        DATA
        + "layer { name: 'ip' type: 'InnerProduct' bottom: 'data' top: 'x' }"
        + "layer { name: 'relu' type: 'ReLU' bottom: 'x' top: 'x' }"
        + "layer { name: 'a' type: 'InnerProduct' bottom: 'x' top: 'a' }"
        + "layer { name: 'b' type: 'InnerProduct' bottom: 'x' top: 'b' }"
    )
    assert layers[3] == ("x_relu_0_split", ["x"], ["x_relu_0_split_0", "x_relu_0_split_1"], [])
    assert layers[1][2] == ["x"]


def test_a_loss_weight_takes_the_first_copy():
    layers = split(
        DATA
        + "layer { name: 'l' type: 'EuclideanLoss' bottom: 'data' bottom: 'label' top: 'loss' loss_weight: 3 }"
        + "layer { name: 'p' type: 'Power' bottom: 'loss' top: 'p' }"
    )
    assert layers[1] == ("l", ["data", "label"], ["loss"], [0.0])
    assert layers[2] == ("loss_l_0_split", ["loss"], ["loss_l_0_split_0", "loss_l_0_split_1"], [3.0, 0.0])
    assert layers[3][1] == ["loss_l_0_split_1"]


def test_splitting_one_top_keeps_the_weights_of_the_others():
    layers = split(
        "layer { name: 'in' type: 'Input' top: 'a' top: 'b' loss_weight: 2 loss_weight: 5 }"
        "layer { name: 'p' type: 'Power' bottom: 'a' top: 'p' }"
    )
    assert layers[0][3] == [0.0, 5.0]
    assert layers[1][3] == [2.0, 0.0]


def test_a_loss_that_is_read_keeps_its_default_weight():
    layers = split(
        DATA
        + "layer { name: 'l' type: 'EuclideanLoss' bottom: 'data' bottom: 'label' top: 'loss' }"
        + "layer { name: 'p' type: 'Power' bottom: 'loss' top: 'p' }"
    )
    assert layers[1][3] == [0.0]
    assert layers[2][3] == [1.0, 0.0]


def test_an_unknown_bottom_names_blob_layer_and_index():
    with pytest.raises(CaffeError, match=r"Unknown bottom blob 'nowhere' \(layer 'p', bottom index 0\)"):
        split("layer { name: 'p' type: 'Power' bottom: 'nowhere' top: 'p' }")


@pytest.mark.parametrize(
    "bottom, hint",
    [
        ("conv1x", "; did you mean 'conv1'[?]"),
        ("pool7", "; did you mean 'pool2', which a layer further down makes[?]"),
        ("late", ": layer 'b' makes it, but stands further down"),
        ("elephant", r": no layer of the TEST net makes it \(there are: conv1\)"),
    ],
)
def test_an_unknown_bottom_says_what_may_be_meant(bottom, hint):
    layers = [("i", "Input", None, "conv1"), ("a", "ReLU", bottom, "x"), ("b", "ReLU", "x", "late")]
    net = caffe_pb2.NetParameter()
    net.state.phase = caffe_pb2.TEST
    for name, kind, reads, makes in [*layers, ("p", "ReLU", "x", "pool2")]:
        net.layer.add(name=name, type=kind, bottom=[reads] if reads else [], top=[makes])
    with pytest.raises(CaffeError, match=f"Unknown bottom blob '{bottom}' .layer 'a', bottom index 0.{hint}$"):
        insert_splits(net, lambda name: False)

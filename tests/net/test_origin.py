"""Errors of a net say in which line of which file the layer stands."""

from __future__ import annotations

import cv2
import lmdb
import numpy as np
import pytest

from pysolver.errors import CaffeError
from pysolver.net.filter import read_net_for
from pysolver.net.net import Net
from pysolver.proto import caffe_pb2

TWICE = """# the same name in both phases
layer { name: "in" type: "DummyData" top: "x" include { phase: TRAIN } dummy_data_param { shape { dim: 2 } } }
layer {
  name: "in" type: "DummyData" top: "x" include { phase: TEST }
  dummy_data_param { shape { dim: 2 } data_filler { type: "nothing" } }
}
"""
LABELS = """
layer { name: "in" type: "DummyData" top: "x" top: "y" dummy_data_param {
  shape { dim: 2 dim: 3 } shape { dim: 2 } data_filler { } data_filler { type: "constant" value: 3 } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "x" bottom: "y" top: "loss" }
"""
OLD = (
    'layers { name: "in" type: DUMMY_DATA top: "x"\n dummy_data_param { num: 1 } }\n\nlayers { name: "l" type: POWER }'
)


@pytest.fixture
def net(tmp_path, monkeypatch):
    def build(text: str, phase: int = 0) -> Net:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "n.prototxt").write_text(text)
        return Net(read_net_for("n.prototxt", phase), origin="n.prototxt")

    return build


def test_of_layers_with_one_name_the_one_of_the_phase(net) -> None:
    net(TWICE)
    with pytest.raises(CaffeError, match=r"^n.prototxt:3: layer 'in' .*Unknown filler name: nothing"):
        net(TWICE, phase=1)


def test_of_the_old_form(net) -> None:
    with pytest.raises(CaffeError, match=r"^n.prototxt:4: layer 'l' \(Power\): .*takes 1 bottom"):
        net(OLD.replace("num: 1", "num: 1 channels: 1 height: 1 width: 1"))


@pytest.mark.parametrize("pass_", [Net.run, Net.forward_backward, Net.forward])
def test_of_what_goes_wrong_later(net, pass_) -> None:
    built = net(LABELS)
    with pytest.raises(CaffeError, match=r"^n.prototxt:4: layer 'loss' \(SoftmaxWithLoss\): label 3 is outside"):
        pass_(built)


def test_once_in_a_pass_within_a_pass(net) -> None:
    built = net(LABELS)
    built.layer_by_layer = True
    with pytest.raises(CaffeError) as caught:
        built.forward_backward()
    assert str(caught.value).count("n.prototxt") == 1


def test_a_file_that_is_gone_has_no_line(net, tmp_path) -> None:
    built = net(LABELS)
    (tmp_path / "n.prototxt").unlink()
    with pytest.raises(CaffeError, match=r"^n.prototxt: layer 'loss' "):
        built.run()


def test_sharing_names_both_nets(net) -> None:
    text = 'layer {{ name: "in" type: "DummyData" top: "x" dummy_data_param {{ shape {{ dim: 1 dim: {} }} }} }}\n'
    text += 'layer {{ name: "ip" type: "InnerProduct" bottom: "x" top: "y" inner_product_param {{ num_output: 1 }} }}'
    train, test = net(text.format(3)), net(text.format(4), phase=1)
    with pytest.raises(
        CaffeError, match=r"^n.prototxt \(TRAIN to TEST\): Cannot share param 0 weights from layer 'ip'"
    ):
        test.share_trained_layers_with(train)


RECORDS = """
layer { name: "in" type: "%s" top: "x" top: "y" %s }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "z" inner_product_param { num_output: 5 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "z" bottom: "y" top: "loss" }
"""


@pytest.mark.parametrize("labels, place", [([0, 4, 1, 5, 2, 3, 0], 3), ([9, 0, 0, 0, 0], 0), ([0, 0, 0, 0, 0, -1], 5)])
def test_a_wrong_label_names_its_record(labels, place, net, tmp_path) -> None:
    """In the third batch and beyond, too, across the end of the data."""
    for number in range(len(labels)):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.zeros((2, 2, 3), np.uint8))
    (tmp_path / "list.txt").write_text("".join(f"{number}.png {label}\n" for number, label in enumerate(labels)))
    with lmdb.open(str(tmp_path / "db")) as base, base.begin(write=True) as transaction:
        for number, label in enumerate(labels):
            datum = caffe_pb2.Datum(channels=1, height=1, width=1, data=b"x", label=label)
            transaction.put(b"%08d" % number, datum.SerializeToString())
    for kind, field, where in (
        ("Data", 'data_param { source: "db" batch_size: 2 backend: LMDB }', f"record {place}, counted from 0, of db"),
        ("ImageData", 'image_data_param { source: "list.txt" batch_size: 2 }', f"list.txt:{place + 1}: {place}.png"),
    ):
        made = net(RECORDS % (kind, field))
        for run in (made.run, made.forward_backward, made.forward):
            error = rf"^n.prototxt:4: layer 'loss' .*label {labels[place]} is outside .*5 classes \({where}\)$"
            with pytest.raises(CaffeError, match=error):
                for _ in range(2 * len(labels)):
                    run()
        made.close()

"""Drawing a net: what is in the graph, and pictures with and without Graphviz."""

from __future__ import annotations

import re
import shutil

import pytest

from pysolver.errors import CaffeError
from pysolver.proto import caffe_pb2
from pysolver.proto.text import parse_text
from pysolver.pycaffe import draw

NET = parse_text(
    """name: 'drawn "net"'
    layer { name: 'd' type: 'Data' top: 'data' top: 'label' data_param { batch_size: 64 } include { phase: TRAIN } }
    layer { name: 'in' type: 'Input' top: 'data' include { phase: TEST } }
    layer { name: 'conv' type: 'Convolution' bottom: 'data' top: 'a>=b' param { lr_mult: 0.5 }
            convolution_param { num_output: 20 kernel_size: 3 kernel_size: 5 pad: 1 } }
    layer { name: 'relu' type: 'ReLU' bottom: 'a>=b' top: 'a>=b' }
    layer { name: 'pool' type: 'Pooling' bottom: 'a>=b' top: 'pool'
            pooling_param { pool: AVE kernel_h: 2 kernel_w: 3 } }
    layer { name: 'ip' type: 'InnerProduct' bottom: 'pool' top: 'ip' inner_product_param { num_output: 10 } }
    layer { name: 'loss' type: 'SoftmaxWithLoss' bottom: 'ip' bottom: 'label' top: 'loss' exclude { phase: TEST } }""",
    caffe_pb2.NetParameter,
)


def test_labels():
    labels = {key: node.label for key, node in draw.net_graph(NET, "TB", display_lrm=True).nodes.items()}
    assert labels["conv_Convolution"] == "conv (Convolution) kernel size: 3x5 stride: 1 pad: 1 lr mult: 0.5, 1.0"
    assert labels["pool_Pooling"] == "pool (Pooling AVE) kernel size: 2x3 stride: 1 pad: 0"
    assert labels["a>=b_blob"] == "a>=b"
    assert draw.net_graph(NET, "LR").nodes["relu_ReLU"].label == "relu\n(ReLU)"


def test_edges():
    edges = draw.net_graph(NET, "LR").edges
    assert ("d_Data", "data_blob", "Batch 64") in edges
    assert ("conv_Convolution", "a>=b_blob", "20") in edges
    assert ("a>=b_blob", "relu_ReLU", "") in edges and ("relu_ReLU", "a>=b_blob", "") in edges
    assert ("ip_InnerProduct", "ip_blob", "10") in edges
    assert {label for *_, label in draw.net_graph(NET, "LR", label_edges=False).edges} == {""}


def test_nets_in_the_old_form():
    old = parse_text("layers { name: 'c' type: RELU bottom: 'x' top: 'y' }", caffe_pb2.NetParameter)
    before = old.SerializeToString()
    assert list(draw.net_graph(old, "LR").nodes) == ["c_ReLU", "x_blob", "y_blob"]
    assert old.SerializeToString() == before


def test_phases():
    def layers(phase):
        return {layer.split("_")[0] for layer in draw.net_graph(NET, "LR", phase=phase).nodes if "_blob" not in layer}

    common = {"conv", "relu", "pool", "ip"}
    assert layers(caffe_pb2.TRAIN) == common | {"d", "loss"}
    assert layers(caffe_pb2.TEST) == common | {"in"}
    assert layers(None) == common | {"d", "in", "loss"}


def test_dot_text_is_what_pydot_reads():
    pytest.importorskip("pydot")
    graph = draw.get_pydot_graph(NET, "BT")
    assert graph.get_rankdir() == "BT"
    assert len(graph.get_nodes()) == len(draw.net_graph(NET, "BT").nodes)
    assert len(graph.get_edges()) == 14
    assert draw.draw_net(NET, "LR", "raw").decode() == draw.net_graph(NET, "LR").to_dot()


def test_layout_puts_layers_after_their_bottoms():
    where = {key: box.place for key, box in draw.net_graph(NET, "LR").picture().boxes.items()}
    column = {key: x for key, (x, _) in where.items()}
    assert column["data_blob"] < column["conv_Convolution"] < column["a>=b_blob"] < column["pool_Pooling"]
    assert column["ip_blob"] < column["loss_SoftmaxWithLoss"] > column["label_blob"]
    assert len(set(where.values())) == len(where)


@pytest.mark.parametrize("rankdir", ["LR", "TB", "BT", "RL"])
def test_pictures_without_graphviz(rankdir, monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    pytest.importorskip("matplotlib")
    assert draw.draw_net(NET, rankdir).startswith(b"\x89PNG\r\n")
    file = tmp_path / "net.svg"
    draw.draw_net_to_file(NET, str(file), rankdir)
    assert re.search(rb"<svg", file.read_bytes())


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_pictures_with_graphviz():
    assert draw.draw_net(NET, "LR").startswith(b"\x89PNG\r\n")
    picture = draw.draw_net(NET, "LR", "svg").decode()
    assert picture.count('class="node"') == len(draw.net_graph(NET, "LR").nodes)
    assert "a&gt;=b" in picture


def test_errors(monkeypatch):
    with pytest.raises(ValueError, match="rankdir"):
        draw.draw_net(NET, "XY")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    pytest.importorskip("matplotlib")
    with pytest.raises(CaffeError, match="'gv'"):
        draw.draw_net(NET, "LR", "gv")
    both = parse_text("layer { name: 'x' include { } exclude { } }", caffe_pb2.NetParameter)
    with pytest.raises(ValueError, match="'x'"):
        draw.net_graph(both, "LR", phase=caffe_pb2.TEST)


def test_empty_net(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    pytest.importorskip("matplotlib")
    assert draw.draw_net(caffe_pb2.NetParameter(), "LR").startswith(b"\x89PNG")

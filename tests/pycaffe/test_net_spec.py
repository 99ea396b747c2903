"""NetSpec: names, order, places of fields; LeNet and AlexNet as text and back."""

from __future__ import annotations

import numpy as np
import pytest

from pysolver.proto import caffe_pb2
from pysolver.proto.text import parse_text, to_text
from pysolver.pycaffe.net_spec import NetSpec, to_proto
from pysolver.pycaffe.net_spec import layers as L
from pysolver.pycaffe.net_spec import params as P


def _alexnet():
    """Krizhevsky et al. 2012 with the two groups, pooling before normalisation."""
    n = NetSpec()
    n.data = L.Input(shape=dict(dim=[1, 3, 227, 227]))
    n.conv1 = L.Convolution(n.data, num_output=96, kernel_size=11, stride=4)
    n.relu1 = L.ReLU(n.conv1, in_place=True)
    n.norm1 = L.LRN(n.relu1, local_size=5, alpha=1e-4, beta=0.75)
    n.pool1 = L.Pooling(n.norm1, pool=P.Pooling.MAX, kernel_size=3, stride=2)
    n.conv2 = L.Convolution(n.pool1, num_output=256, pad=2, kernel_size=5, group=2)
    n.relu2 = L.ReLU(n.conv2, in_place=True)
    n.norm2 = L.LRN(n.relu2, local_size=5, alpha=1e-4, beta=0.75)
    n.pool2 = L.Pooling(n.norm2, pool=P.Pooling.MAX, kernel_size=3, stride=2)
    below = n.pool2
    for index, (channels, group) in enumerate([(384, 1), (384, 2), (256, 2)], 3):
        n[f"conv{index}"] = L.Convolution(below, num_output=channels, pad=1, kernel_size=3, group=group)
        n[f"relu{index}"] = below = L.ReLU(n[f"conv{index}"], in_place=True)
    n.pool5 = L.Pooling(below, pool=P.Pooling.MAX, kernel_size=3, stride=2)
    n.fc6 = L.InnerProduct(n.pool5, num_output=4096)
    n.relu6 = L.ReLU(n.fc6, in_place=True)
    n.drop6 = L.Dropout(n.relu6, dropout_ratio=0.5, in_place=True)
    n.fc7 = L.InnerProduct(n.drop6, num_output=4096)
    n.relu7 = L.ReLU(n.fc7, in_place=True)
    n.drop7 = L.Dropout(n.relu7, dropout_ratio=0.5, in_place=True)
    n.fc8 = L.InnerProduct(n.drop7, num_output=1000)
    n.prob = L.Softmax(n.fc8)
    return n.to_proto()


def _lenet():
    n = NetSpec()
    n.data, n.label = L.DummyData(shape=[dict(dim=[64, 1, 28, 28]), dict(dim=64)], ntop=2)
    n.conv1 = L.Convolution(n.data, kernel_size=5, num_output=20, weight_filler=dict(type="xavier"))
    n.pool1 = L.Pooling(n.conv1, kernel_size=2, stride=2, pool=P.Pooling.MAX)
    n.conv2 = L.Convolution(n.pool1, kernel_size=5, num_output=50, weight_filler=dict(type="xavier"))
    n.pool2 = L.Pooling(n.conv2, kernel_size=2, stride=2, pool=P.Pooling.MAX)
    n.ip1 = L.InnerProduct(n.pool2, num_output=500, weight_filler=dict(type="xavier"))
    n.relu1 = L.ReLU(n.ip1, in_place=True)
    n.ip2 = L.InnerProduct(n.relu1, num_output=10, weight_filler=dict(type="xavier"))
    n.loss = L.SoftmaxWithLoss(n.ip2, n.label)
    return n.to_proto()


@pytest.mark.parametrize("make", [_lenet, _alexnet])
def test_text_round_trips(make):
    net = make()
    assert parse_text(to_text(net), caffe_pb2.NetParameter) == net
    assert parse_text(str(net), caffe_pb2.NetParameter) == net


def test_lenet_layers():
    net = _lenet()
    names = "data conv1 pool1 conv2 pool2 ip1 relu1 ip2 loss"
    assert " ".join(layer.name for layer in net.layer) == names
    data, conv1, relu1, loss = net.layer[0], net.layer[1], net.layer[6], net.layer[8]
    assert list(data.top) == ["data", "label"]
    assert [list(shape.dim) for shape in data.dummy_data_param.shape] == [[64, 1, 28, 28], [64]]
    assert list(conv1.convolution_param.kernel_size) == [5]
    assert conv1.convolution_param.weight_filler.type == "xavier"
    assert relu1.bottom == relu1.top == ["ip1"]
    assert list(loss.bottom) == ["ip2", "label"]


def test_lenet_as_text():
    conv1 = caffe_pb2.NetParameter(layer=[_lenet().layer[1]])
    assert to_text(conv1) == (
        'layer {\n  name: "conv1"\n  type: "Convolution"\n  bottom: "data"\n  top: "conv1"\n'
        '  convolution_param {\n    num_output: 20\n    kernel_size: 5\n    weight_filler {\n      type: "xavier"\n'
        "    }\n  }\n}\n"
    )


@pytest.mark.parametrize(("make", "count"), [(_lenet, 431_080), (_alexnet, 60_965_224)])
def test_built_nets_have_the_published_number_of_parameters(make, count, tmp_path):
    import pysolver as caffe

    file = tmp_path / "net.prototxt"
    file.write_text(to_text(make()))
    net = caffe.Net(str(file), caffe.TEST)
    assert sum(blob.count for blobs in net.params.values() for blob in blobs) == count


def test_unnamed_layers_count_by_type():
    data, label = L.Data(ntop=2)
    first = L.InnerProduct(data, num_output=3)
    second = L.InnerProduct(L.ReLU(first, in_place=True), num_output=2)
    net = L.SoftmaxWithLoss(second, label).to_proto()
    assert [layer.name for layer in net.layer] == [
        "Data1",
        "InnerProduct1",
        "ReLU1",
        "InnerProduct2",
        "SoftmaxWithLoss1",
    ]
    assert list(net.layer[0].top) == ["Data1", "Data2"]
    assert list(net.layer[2].top) == ["InnerProduct1"]
    assert list(net.layer[4].bottom) == ["InnerProduct2", "Data2"]
    assert to_proto(first, second).layer[1].name == "InnerProduct1"


def test_layers_come_in_order_of_assignment_after_what_they_need():
    n = NetSpec()
    n.data = L.Input()
    hidden = L.Power(n.data)
    n.b = L.Power(hidden)
    n.a = L.Power(n.data)
    n["inner/name"] = L.Concat(n.a, n.b)
    assert [layer.name for layer in n.to_proto().layer] == ["data", "Power1", "b", "a", "inner/name"]
    assert n["inner/name"] is n.tops["inner/name"]
    assert list(n.to_proto().layer[4].bottom) == ["a", "b"]


def test_no_tops():
    n = NetSpec()
    n.data = L.DummyData(shape=dict(dim=[3]))
    n.quiet = L.Silence(n.data, ntop=0)
    layer = n.to_proto().layer[1]
    assert (layer.name, list(layer.bottom), list(layer.top)) == ("quiet", ["data"], [])


def test_where_parameters_go():
    top = L.Convolution(
        L.Input(),
        name="given",
        param=[dict(lr_mult=1), dict(lr_mult=2, decay_mult=0)],
        convolution_param=dict(num_output=4, kernel_size=[3, 5]),
        include=dict(phase=caffe_pb2.TRAIN),
        loss_weight=0.5,
        pad=np.int64(1),
    )
    layer = top.to_proto().layer[1]
    assert layer.name == "given"
    assert [spec.lr_mult for spec in layer.param] == [1, 2]
    assert layer.param[1].HasField("decay_mult") and not layer.param[0].HasField("decay_mult")
    assert list(layer.convolution_param.kernel_size) == [3, 5] and list(layer.convolution_param.pad) == [1]
    assert [rule.phase for rule in layer.include] == [caffe_pb2.TRAIN] and list(layer.loss_weight) == [0.5]
    data = (
        L.Data(source="db", backend=P.Data.LMDB, transform_param=dict(scale=0.5, mean_value=[1, 2])).to_proto().layer[0]
    )
    assert data.data_param.backend == caffe_pb2.DataParameter.LMDB == 1
    assert list(data.transform_param.mean_value) == [1, 2]
    assert L.Pooling(top, pool=P.Pooling.AVE).to_proto().layer[2].pooling_param.pool == 1


def test_errors():
    pair = L.DummyData(ntop=2)
    with pytest.raises(TypeError, match=r"^Silence input 0 is not a Top \(type is <class 'tuple'>\)$"):
        L.Silence(pair, ntop=0)
    with pytest.raises(TypeError, match=r"^Eltwise input 1 is not a Top \(type is <class 'str'>\)$"):
        L.Eltwise(pair[0], "data")
    with pytest.raises(AttributeError, match="no field 'num_outputs'"):
        L.Convolution(pair[0], num_outputs=3).to_proto()
    with pytest.raises(AttributeError, match="no top 'missing'"):
        NetSpec().missing  # noqa: B018
    with pytest.raises(AttributeError, match="NothingParameter"):
        P.Nothing  # noqa: B018

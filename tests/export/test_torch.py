"""Plain PyTorch modules of nets: the same numbers as pysolver's own layers, and the weights back again."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import pysolver as caffe
from pysolver.errors import CaffeError
from pysolver.export import to_torch
from pysolver.export.module import load_back, save_torch, torch_form
from pysolver.export.program import program_of
from pysolver.export.reference import compute
from pysolver.proto import caffe_pb2
from pysolver.proto.text import to_text

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = sorted([*(GOLDEN / "layers").glob("*.npz"), *(GOLDEN / "layers_ssd").glob("*.npz")])
REFUSED = {"detection_output": "non-maximum suppression"}
ONLY_TO_TRAIN = ("accuracy", "contrastive", "dummydata", "euclidean", "hinge", "input_shapes", "mlogloss", "split",
                 "detection_evaluate")  # fmt: skip

RESNET = """
name: 'tiny-resnet 8'
layer { name: 'data' type: 'Input' top: 'data' input_param { shape { dim: 2 dim: 3 dim: 9 dim: 9 } } }
layer { name: 'conv/1' type: 'Convolution' bottom: 'data' top: 'conv/1'
        convolution_param { num_output: 4 kernel_size: 3 pad: 1 bias_term: false } }
layer { name: 'bn1' type: 'BatchNorm' bottom: 'conv/1' top: 'conv/1' }
layer { name: 'scale1' type: 'Scale' bottom: 'conv/1' top: 'conv/1' scale_param { bias_term: true } }
layer { name: 'relu1' type: 'ReLU' bottom: 'conv/1' top: 'conv/1' }
layer { name: 'conv2' type: 'Convolution' bottom: 'conv/1' top: 'conv2'
        convolution_param { num_output: 4 kernel_size: 3 pad: 1 } }
layer { name: 'sum' type: 'Eltwise' bottom: 'conv/1' bottom: 'conv2' top: 'sum' }
layer { name: 'pool' type: 'Pooling' bottom: 'sum' top: 'pool' pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: 'ip' type: 'InnerProduct' bottom: 'pool' top: 'ip' inner_product_param { num_output: 5 } }
"""
SOURCE = """
class TinyResnet8(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv_1 = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4, eps=1e-05, momentum=0.001)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.ip = nn.Linear(100, 5)

    def forward(self, data):
        conv_1 = self.conv_1(data)
        conv_1 = F.relu(self.bn1(conv_1))
        conv2 = self.conv2(conv_1)
        sum = conv_1 + conv2
        pool = self.pool(sum)
        ip = self.ip(pool.flatten(1))
        return ip
"""


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_computes_what_caffe_computes(path, tmp_path):
    case = dict(np.load(path))
    (tmp_path / "net.prototxt").write_text(str(case["prototxt"]))
    net = caffe.Net(str(tmp_path / "net.prototxt"), caffe.TRAIN if str(case["phase"]) == "TRAIN" else caffe.TEST)
    for key, value in case.items():
        if key.startswith("param."):
            layer, index = key[6:].rsplit(".", 1)
            net.params[layer][int(index)].data[...] = value
    if path.stem.startswith((*REFUSED, *ONLY_TO_TRAIN)) and path.stem != "split_implicit":
        words = REFUSED["detection_output"] if path.stem.startswith("detection_output") else "nothing to export"
        with pytest.raises(CaffeError, match=words):
            to_torch(net)
        return
    program = program_of(net.core)
    inputs = {value.name: case[f"in.{value.name}"] for value in program.inputs}
    with torch.no_grad():
        found = to_torch(net)(*map(torch.from_numpy, inputs.values()))
    found = found if isinstance(found, tuple) else (found,)
    ours = compute(program, inputs)
    for value, top in zip(program.outputs, found, strict=True):
        np.testing.assert_allclose(top, ours[value.name], atol=1e-6 * np.abs(ours[value.name]).max(initial=0), rtol=0)
        if f"out.{value.name}" in case:
            expected = case[f"out.{value.name}"]
            assert top.shape == expected.shape
            error = np.abs(top.numpy() - expected) / np.maximum(1, np.abs(expected))
            np.testing.assert_array_less(np.nan_to_num(error, nan=np.inf), float(case["tolerance"]))


def test_the_code_is_what_a_user_of_pytorch_would_write(net_of):
    text = torch_form(net_of(RESNET), "deploy.prototxt", "tiny.safetensors").text
    assert text.startswith('"""TinyResnet8, written by pysolver from deploy.prototxt.\n')
    assert text.endswith(SOURCE)
    assert "import torch.nn.functional as F\nfrom torch import nn\n" in text and "pysolver import" not in text


EVIL = [
    'x"); open("owned", "w"); ("',
    "a\nopen('owned', 'w')\n#",
    '''"""\nopen("owned", "w")\n"""''',
    "\\",
    "self",
    "nan",
    "nan()",
]


def test_names_of_layers_and_files_are_no_code(net_of, tmp_path, monkeypatch):
    """A net of a stranger's is exported, and the module imported: nothing of its names runs."""
    monkeypatch.chdir(tmp_path)
    net, blob = caffe_pb2.NetParameter(name=EVIL[0]), "in\n"
    net.layer.add(name="in\nput", type="Input", top=[blob]).input_param.shape.add(dim=[1, 3])
    for number, name in enumerate(EVIL):
        layer = net.layer.add(name=name, type="InnerProduct", bottom=[blob], top=[f"{name}{number}"])
        layer.inner_product_param.num_output, blob = 3, f"{name}{number}"
    odd = net.layer.add(name="odd", type="Power", bottom=[blob], top=["nan"])
    odd.power_param.scale = math.nan
    form = torch_form(net_of(to_text(net)), EVIL[2], EVIL[2])
    Path("module.py").write_text(form.text)
    scope: dict = {}
    exec(compile(form.text, "module.py", "exec"), scope)  # noqa: S102
    made = scope[form.source.name]()
    assert not Path("owned").exists() and form.build()(torch.ones(1, 3)).isnan().all()
    assert len(list(made.parameters())) == 2 * len(EVIL)


def test_the_files_stand_alone(net_of, tmp_path):
    """In a Python that cannot import pysolver."""
    pytest.importorskip("safetensors")
    net = net_of(RESNET)
    data = np.random.default_rng(0).standard_normal((2, 3, 9, 9)).astype(np.float32)
    net.blobs["data"].data[...] = data
    net.forward()
    np.save(tmp_path / "data.npy", data)
    save_torch(torch_form(net, weights="tiny.safetensors"), tmp_path / "tiny.py", tmp_path / "tiny.safetensors")
    script = """
import sys; sys.modules['pysolver'] = None
import numpy, safetensors.torch, torch
from tiny import TinyResnet8
net = TinyResnet8()
net.load_state_dict(safetensors.torch.load_file("tiny.safetensors"))
with torch.no_grad(): numpy.save("ip.npy", net.eval()(torch.from_numpy(numpy.load("data.npy"))).numpy())
"""
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    np.testing.assert_allclose(np.load(tmp_path / "ip.npy"), net.blobs["ip"].data, rtol=1e-5)


@pytest.mark.parametrize("layer", [
    "type: 'Convolution' convolution_param { num_output: 2 kernel_size: 4 stride: 2 }",
    "type: 'Im2col' convolution_param { kernel_size: 4 stride: 2 }",
    "type: 'Deconvolution' convolution_param { num_output: 2 kernel_size: 4 stride: 2 }",
])  # fmt: skip
def test_kernels_larger_than_the_picture(layer, net_of):
    """C divides towards zero: a convolution has a window there, a deconvolution is as ever."""
    text = """layer { name: 'data' type: 'Input' top: 'data' input_param { shape { dim: 1 dim: 3 dim: 3 dim: 3 } } }"""
    net = net_of(f"{text} layer {{ name: 'y' bottom: 'data' top: 'y' {layer} }}")
    data = np.random.default_rng(0).standard_normal((1, 3, 3, 3)).astype(np.float32)
    net.blobs["data"].data[...] = data
    net.forward()
    found = to_torch(net)(torch.from_numpy(data)).detach()
    np.testing.assert_allclose(found, net.blobs["y"].data, rtol=1e-5, atol=1e-6)  # sums of 48 products


def test_torch_export_takes_it(net_of):
    module = to_torch(net_of(RESNET))
    data = torch.randn(2, 3, 9, 9)
    torch.testing.assert_close(torch.export.export(module, (data,)).module()(data), module(data))


def test_weights_trained_in_torch_come_back(net_of, tmp_path):
    files = pytest.importorskip("safetensors.torch")
    net = net_of(RESNET)
    module = to_torch(net).train()
    optimiser = torch.optim.SGD(module.parameters(), 1e-6)
    for _ in range(3):
        optimiser.zero_grad()
        module(torch.randn(2, 3, 9, 9)).square().sum().backward()
        optimiser.step()
    files.save_file(module.state_dict(), str(tmp_path / "trained.safetensors"))
    load_back(torch_form(net), tmp_path / "trained.safetensors")
    data = torch.randn(2, 3, 9, 9)
    net.blobs["data"].data[...] = data
    net.forward()
    expected = module.eval()(data).detach().numpy()
    np.testing.assert_allclose(net.blobs["ip"].data, expected, atol=1e-6 * np.abs(expected).max(), rtol=0)


def test_layers_that_share_all_are_one_module(net_of):
    text = """layer { name: 'data' type: 'Input' top: 'data' input_param { shape { dim: 2 dim: 4 } } }
              layer { name: 'a' type: 'InnerProduct' bottom: 'data' top: 'a' param { name: 'w' }
                      inner_product_param { num_output: 4 bias_term: false } }
              layer { name: 'b' type: 'InnerProduct' bottom: 'a' top: 'b' param { name: 'w' }
                      inner_product_param { num_output: 4 bias_term: false } }"""
    module = to_torch(net_of(text))
    assert list(module.state_dict()) == ["a.weight"]
    data = torch.randn(2, 4)
    torch.testing.assert_close(module(data), data @ module.a.weight.t() @ module.a.weight.t())


@pytest.mark.parametrize("first, second", [("", "transpose: true"), ("transpose: true", "")])
def test_tied_weights(first, second, net_of):
    """An autoencoder's decoder: the encoder's matrix on its side."""
    text = f"""layer {{ name: 'data' type: 'Input' top: 'data' input_param {{ shape {{ dim: 2 dim: 4 }} }} }}
               layer {{ name: 'a' type: 'InnerProduct' bottom: 'data' top: 'a' param {{ name: 'w' }}
                        inner_product_param {{ num_output: 3 {first} }} }}
               layer {{ name: 'b' type: 'InnerProduct' bottom: 'a' top: 'b' param {{ name: 'w' }}
                        inner_product_param {{ num_output: 4 {second} }} }}"""
    net = net_of(text)
    module = to_torch(net)
    data = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    net.blobs["data"].data[...] = data
    net.forward()
    np.testing.assert_allclose(module(torch.from_numpy(data)).detach(), net.blobs["b"].data, rtol=1e-5)
    assert sorted(module.state_dict()) == ["a.bias", "a.weight", "b_bias"]


def test_layers_and_blobs_may_have_any_name(net_of):
    """Names that torch's modules, Python, or the file itself use."""
    names = ["half", "type", "forward", "lambda", "F", "torch", "self", "nn", "T_destination", "1x1", "a/b", "a_b"]
    layers = "".join(
        f"layer {{ name: '{name}' type: 'InnerProduct' bottom: '{bottom}' top: '{name}'"
        " inner_product_param { num_output: 4 } }"
        for bottom, name in zip(["data", *names], names)
    )
    data = "layer { name: 'data' type: 'Input' top: 'data' input_param { shape { dim: 2 dim: 4 } } }"
    net = net_of(f"name: 'f' {data} {layers}")
    data = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    net.blobs["data"].data[...] = data
    net.forward()
    found = to_torch(net)(torch.from_numpy(data)).detach()
    np.testing.assert_allclose(found, net.blobs["a_b"].data, rtol=1e-5)  # twelve sums of four products


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda t: t.pop("ip.bias"), "lacks ip.bias"),
        (lambda t: t.update(fc=torch.zeros(1)), "has fc, which"),
        (lambda t: t.update({"ip.bias": torch.zeros(6)}), r"ip.bias has the shape \[6\], the net needs \[5\]"),
    ],
)
def test_tensors_of_another_net_are_refused(change, words, net_of, tmp_path):
    files = pytest.importorskip("safetensors.torch")
    net = net_of(RESNET)
    before = net.params["conv2"][0].data.copy()
    tensors = dict(to_torch(net).state_dict())
    tensors["conv2.weight"] = torch.zeros_like(tensors["conv2.weight"])
    change(tensors)
    files.save_file(tensors, str(tmp_path / "t.safetensors"))
    with pytest.raises(CaffeError, match=words):
        load_back(torch_form(net), tmp_path / "t.safetensors")
    np.testing.assert_array_equal(net.params["conv2"][0].data, before)


@pytest.mark.parametrize("content", [None, b"", b"not tensors at all"])
def test_files_that_are_no_tensors(content, net_of, tmp_path):
    pytest.importorskip("safetensors")
    path = tmp_path / "t.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CaffeError, match="t.safetensors: (file not found|not a safetensors file)"):
        load_back(torch_form(net_of(RESNET)), path)

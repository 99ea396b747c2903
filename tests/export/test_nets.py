"""Well-known nets with random weights: ONNX Runtime and PyTorch beside pysolver."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pysolver.export import check
from pysolver.export.convert import to_onnx
from pysolver.export.files import open_net
from pysolver.export.module import save_torch, torch_form
from pysolver.export.onnx.model import save, verify
from pysolver.net.net import Net

NETS = Path(__file__).parents[2] / "examples" / "nets"
QUICK = ("siamese_mnist", "googlenet")


def cases() -> list:
    return [
        pytest.param(path, marks=[] if path.stem in QUICK else pytest.mark.long, id=path.stem)
        for path in sorted(NETS.glob("*.prototxt"))
    ]


def opened(path: Path) -> Net:
    """The TEST net; statistics of BatchNorm as after a training: sums of weight 2.5."""
    torch.manual_seed(0)
    net = open_net(str(path))
    for layer in net.layers:
        if layer.type_name == "BatchNorm":
            mean, variance, weight = layer.blobs
            weight.data.fill_(2.5)
            mean.data.normal_(0, 0.3).mul_(2.5)
            variance.data.uniform_(0.5, 1.5).mul_(2.5)
    return net


@pytest.mark.parametrize("path", cases())
def test_onnx(path, tmp_path):
    pytest.importorskip("onnxruntime")
    net = opened(path)
    for folded in (False, True):
        model = to_onnx(net, folded=folded)
        verify(model)
        (file,) = save(model, tmp_path / "net.onnx")
        found = list(check.differences(net, file))
        assert found and all(difference.is_small for difference in found), found
        assert len(model.graph.node) < 2 * len(net.layers)


@pytest.mark.parametrize("path", [case for case in cases() if case.id != "ssd300"])
def test_torch(path, tmp_path):
    pytest.importorskip("safetensors")
    form = torch_form(opened(path))
    save_torch(form, tmp_path / "net.py", tmp_path / "net.safetensors")
    for difference in check.differences_of_module(form, tmp_path / "net.safetensors"):
        assert difference.largest <= 1e-6 * difference.scale, difference

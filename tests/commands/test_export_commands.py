"""pysolver export, import, draw and summary as a user calls them."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import onnx
import pytest

import pysolver as caffe
from pysolver.commands import main

pytest.importorskip("onnxruntime")
pytest.importorskip("safetensors")

NET = """name: 'small'
layer { name: 'data' type: 'DummyData' top: 'data' top: 'label'
        transform_param { mean_value: 100 scale: 0.01 }
        dummy_data_param { data_filler { type: 'gaussian' } data_filler { type: 'uniform' max: 0.5 }
                           shape { dim: 2 dim: 3 dim: 8 dim: 8 } shape { dim: 2 } } }
layer { name: 'conv' type: 'Convolution' bottom: 'data' top: 'conv'
        convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: 'xavier' } } }
layer { name: 'relu' type: 'ReLU' bottom: 'conv' top: 'conv' }
layer { name: 'ip' type: 'InnerProduct' bottom: 'conv' top: 'ip'
        inner_product_param { num_output: 5 weight_filler { type: 'xavier' } } }
layer { name: 'accuracy' type: 'Accuracy' bottom: 'ip' bottom: 'label' top: 'accuracy' include { phase: TEST } }
layer { name: 'loss' type: 'SoftmaxWithLoss' bottom: 'ip' bottom: 'label' top: 'loss' }
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("net.prototxt").write_text(NET)
    Path("solver.prototxt").write_text('net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 9')
    caffe.Net("net.prototxt", caffe.TEST).save("net.caffemodel")
    return tmp_path


def run(*words: str) -> int:
    return main([words[0], "--model=net.prototxt", *words[1:]])


def test_export_checks_what_it_has_written(capsys):
    options = ["--fold", "--batch", "dynamic", "--check", "--solver=solver.prototxt"]
    assert run("export", "--weights=net.caffemodel", "net.onnx", *options) == 0
    said = capsys.readouterr().out
    assert "inputs: data (N, 3, 8, 8)" in said and "outputs: prob (N, 5)" in said
    assert "left out: accuracy" in said
    assert (
        len(re.findall(r"prob: largest difference \S+, largest number \S+ \((random input|its own data)\)", said)) == 2
    )
    facts = {entry.key: entry.value for entry in onnx.load("net.onnx").metadata_props}
    assert facts["caffe.model"] == "net.prototxt" and facts["caffe.solver.base_lr"] == "0.1"
    assert len(facts["caffe.weights.sha256"]) == 64


def test_export_with_preprocessing_is_checked_too():
    assert run("export", "--weights=net.caffemodel", "net.onnx", "--preprocess", "--check") == 0
    assert [node.name for node in onnx.load("net.onnx").graph.node][:2] == ["data/mean", "data/scale"]


def test_a_difference_is_exit_status_1(monkeypatch, capsys):
    from pysolver.export import check

    monkeypatch.setattr(check, "TOLERANCE", 0.0)
    assert run("export", "--weights=net.caffemodel", "net.onnx", "--check") == 1
    assert "differs by more than" in capsys.readouterr().err


def test_to_torch_and_back(capsys):
    files = ["--to", "torch", "small.py", "small.safetensors"]
    assert run("export", "--weights=net.caffemodel", *files, "--check") == 0
    assert "class Small(nn.Module):" in Path("small.py").read_text()
    assert run("import", "small.safetensors", "back.caffemodel") == 0
    before, after = (caffe.Net("net.prototxt", caffe.TEST, weights=f"{name}.caffemodel") for name in ("net", "back"))
    for name in before.params:
        for old, new in zip(before.params[name], after.params[name], strict=True):
            np.testing.assert_array_equal(old.data, new.data)


@pytest.mark.parametrize(
    "words, status, message",
    [
        (["--weights=net.caffemodel", "no/net.onnx"], 1, "no/net.onnx: cannot be written: there is no folder no"),
        (["--weights=none.caffemodel", "net.onnx"], 1, "none.caffemodel"),
        (["net.onnx"], 2, "--weights=FILE"),
        (["--weights=net.caffemodel", "a.onnx", "b.onnx"], 2, "one ONNX file"),
        (["--weights=net.caffemodel", "--to", "torch", "a.py"], 2, "two files"),
        (["--weights=net.caffemodel", "--to", "torch", "--fold", "a.py", "a.st"], 2, "--fold is for ONNX"),
        (["--weights=net.caffemodel", "--opset", "3", "net.onnx"], 1, "opset 3 is not between"),
        (["--weights=net.caffemodel", "--batch", "0", "net.onnx"], 2, "at least 1"),
    ],
)
def test_wrong_calls_are_one_line_and_write_nothing(words, status, message, folder, capsys):
    before = sorted(path.name for path in folder.iterdir())
    try:
        found = run("export", *words)
    except SystemExit as leaving:  # argparse
        found = leaving.code
    assert found == status
    said = capsys.readouterr().err.strip().splitlines()
    assert message in said[-1]
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize("outs", ["net.onnx", "--to torch net.onnx a.st", "--to torch a.py net.onnx"])
def test_a_folder_is_no_output(outs, folder, capsys):
    Path("net.onnx").mkdir()
    before = sorted(path.name for path in folder.iterdir())
    assert run("export", "--weights=net.caffemodel", *outs.split()) == 1
    assert capsys.readouterr().err == "pysolver: net.onnx: cannot be written: it is a folder\n"
    assert sorted(path.name for path in folder.iterdir()) == before


def test_the_way_of_a_net_is_not_logged(capsys):
    """What is said is the answer: nothing on stderr where all is well, one line where it is not."""
    for words in (["summary"], ["export", "--weights=net.caffemodel", "net.onnx"], ["draw", "net.svg"]):
        assert run(*words) == 0
        assert capsys.readouterr().err == ""
    assert run("export", "--weights=none.caffemodel", "net.onnx") == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_weights_of_another_net_are_refused(capsys):
    Path("other.prototxt").write_text(NET.replace("'ip'", "'fc'"))
    caffe.Net("other.prototxt", caffe.TEST).save("other.caffemodel")
    capsys.readouterr()
    assert run("export", "--weights=other.caffemodel", "net.onnx") == 1
    said = capsys.readouterr().err
    assert "no weights for layer 'ip' (InnerProduct)" in said and said.count("\n") == 1
    assert not Path("net.onnx").exists()


def test_a_net_that_only_trains_has_nothing_to_export(capsys):
    Path("net.prototxt").write_text(NET.replace("layer { name", "layer { include { phase: TRAIN } name")
                                    .replace(" include { phase: TEST }", ""))  # fmt: skip
    assert run("export", "--weights=net.caffemodel", "net.onnx") == 1
    assert capsys.readouterr().err == (
        "pysolver: net.prototxt: net 'small': nothing to export: in this phase it has beside its sources no layer that "
        "computes\n"
    )


def test_summary(capsys):
    assert run("summary") == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split() for line in lines if not line.startswith("-")}
    assert rows["conv"][:4] == ["conv", "Convolution", "2x4x6x6", str(4 * 3 * 9 + 4)]
    assert rows["ip"][2:4] == ["2x5", str(5 * 144 + 5)]
    assert "6 layers, 837 parameters" in lines[-1]  # no split among them


@pytest.mark.parametrize("name", ["net.svg", "net.html"])
def test_draw(name):
    assert run("draw", name) == 0
    text = Path(name).read_text()
    for part in ("conv", "+ relu (ReLU)", "2x4x6x6", "112 parameters"):
        assert part in text
    svg = ET.fromstring(text[text.index("<svg") : text.index("</svg>") + 6])
    assert len(svg.findall("{*}g")) == 5  # relu is in the box of conv
    assert ("<table>" in text) == name.endswith("html")


def test_draw_wants_a_format(capsys):
    assert run("draw", "net") == 2
    assert run("draw", "net.xyz") == 1
    assert "xyz" in capsys.readouterr().err and not Path("net.xyz").exists()

"""What is wrong with a net is said with the name of its file and the line of the layer, whoever builds it."""

from __future__ import annotations

import pytest

import pysolver as caffe
from pysolver.commands import main
from pysolver.commands.time import time
from pysolver.errors import CaffeError, visible

NET = """
layer {{ name: "in" type: "Input" top: "x" input_param {{ shape {{ dim: 1 dim: 3 }} }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "x" top: "y" inner_product_param {{ num_output: {outputs} }} }}
"""


@pytest.mark.parametrize(
    "build",
    [
        lambda: time("bad.prototxt"),
        lambda: caffe.Net("bad.prototxt", caffe.TEST),
        lambda: caffe.SGDSolver("trains.prototxt"),
        lambda: caffe.SGDSolver("tests.prototxt"),
    ],
)
def test_the_file_of_the_net_is_named(tmp_path, monkeypatch, build):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.prototxt").write_text(NET.format(outputs=0))
    (tmp_path / "good.prototxt").write_text(NET.format(outputs=1))
    common = 'base_lr: 1 lr_policy: "fixed" max_iter: 1 snapshot_prefix: "s" '
    (tmp_path / "trains.prototxt").write_text(common + 'net: "bad.prototxt"')
    (tmp_path / "tests.prototxt").write_text(
        common + 'train_net: "good.prototxt" test_net: "bad.prototxt" test_iter: 1 test_interval: 1'
    )
    with pytest.raises(CaffeError, match=r"^bad.prototxt:3: layer 'ip' \(InnerProduct\): num_output must be positive"):
        build()


@pytest.mark.parametrize(
    "text, shown",
    [("a\nb", r"a\nb"), ("\x1b[2J\r", r"\x1b[2J\r"), ("\u202ex", r"\u202ex"), ("Größe 5 $x \\n", "Größe 5 $x \\n")],
)
def test_what_would_move_the_cursor_is_shown(text, shown):
    assert visible(text) == shown


def test_an_error_is_one_line_whatever_a_layer_is_called(tmp_path, capsys):
    net = tmp_path / "n.prototxt"
    net.write_text('layer { name: "a\\n\\033[2JI1128 x" type: "Nothing" }')
    assert main(["time", f"--model={net}"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(rf"pysolver: {net}:1: layer 'a\n\x1b[2JI1128 x': Unknown layer type: Nothing")

"""The command line: gflags' forms, exit statuses, one clear line for every error."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from pathlib import Path

import pytest

from pysolver import commands
from pysolver.commands import main

SOLVER = 'net: "{net}" base_lr: 0.5 lr_policy: "fixed" momentum: 0.25 max_iter: 3 snapshot_prefix: "{prefix}"'
NET = """
layer { name: "in" type: "DummyData" top: "x" top: "y"
        dummy_data_param { shape { dim: 2 dim: 3 } shape { dim: 2 dim: 1 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param { num_output: 1 } }
layer { name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "y" top: "loss" }
"""


@pytest.fixture
def solver(tmp_path: Path) -> str:
    """A solver file of three iterations."""
    (tmp_path / "net.prototxt").write_text(NET)
    path = tmp_path / "solver.prototxt"
    path.write_text(SOLVER.format(net=tmp_path / "net.prototxt", prefix=tmp_path / "snap"))
    return str(path)


FORMS = [
    ["schedule", "--solver={}"],
    ["schedule", "--solver", "{}"],
    ["schedule", "-solver={}"],
    ["schedule", "-solver", "{}"],
    ["--solver={}", "schedule"],
    ["-solver", "{}", "schedule"],
]


@pytest.mark.parametrize("form", FORMS)
def test_flag_forms_of_gflags(form, solver, capsys):
    assert main([word.format(solver) for word in form]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["iter"], row["lr"], row["momentum"]) for row in rows] == [(str(i), "0.5", "0.25") for i in range(3)]


def test_train_writes_its_snapshot_and_logs_to_stderr(solver, tmp_path, capsys):
    assert main(["train", f"--solver={solver}", "--logtostderr=1"]) == 0
    assert (tmp_path / "snap_iter_3.caffemodel").exists() and (tmp_path / "snap_iter_3.solverstate").exists()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.rstrip().endswith("caffe.cpp:250] Optimization Done.")


def test_minloglevel_silences_the_log(solver, capsys, monkeypatch):
    monkeypatch.setenv("GLOG_minloglevel", "0")  # so that it is restored afterwards
    assert main(["train", f"--solver={solver}", "--minloglevel=2"]) == 0
    assert capsys.readouterr().err == ""


WRONG = [
    (["train"], 2, "Need a solver definition to train"),
    (["test", "--model=m"], 2, "Need model weights to score"),
    (["time"], 2, "Need a model definition to time"),
    (["train", "--solver=nowhere.prototxt"], 1, "nowhere.prototxt: file not found"),
    (["train", "--solver={}", "--weights=w", "--snapshot=s"], 1, "Give a snapshot to resume training or weights"),
    (["train", "--solver={}", "--sigint_effect=explode"], 1, 'Invalid signal effect "explode"'),
    (["schedule", "--solver={}", "--csv", "/nowhere/a.csv"], 1, "/nowhere/a.csv: cannot be written: No such file"),
    (["data", "letters", "out"], 1, "letters"),
    (["run", "nowhere.py"], 1, "nowhere.py"),
]


@pytest.mark.parametrize(("words", "status", "message"), WRONG)
def test_errors_are_one_line_with_a_status(words, status, message, solver, capsys):
    assert main([word.format(solver) for word in words]) == status
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("pysolver: ")]
    assert len(lines) == 1 and message in lines[0]


@pytest.mark.parametrize(
    "words", [[], ["trian"], ["train", "--slover=x"], ["train", "--keep=0"], ["test", "--iterations=x"]]
)
def test_wrong_usage_is_status_2(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert "usage: pysolver" in capsys.readouterr().err


def test_help_lists_every_command_and_needs_no_torch():
    code = """
import sys
from pysolver.commands import main
try:
    main(["--help"])
finally:
    assert not {"torch", "numpy", "matplotlib"} & set(sys.modules), sorted(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    listed = done.stdout.partition("commands:\n")[2].partition("\n\n")[0]
    told = dict(line.split(None, 1) for line in listed.splitlines())
    files = {path.stem for path in Path(commands.__file__).parent.glob("[a-z]*.py")}
    assert set(told) == files and len(files) >= 19 and all(text.strip() for text in told.values())


@pytest.mark.parametrize("name", commands.names())
def test_every_command_explains_itself(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    told = capsys.readouterr().out
    assert stop.value.code == 0 and told.startswith(f"usage: pysolver {name}") and "--debug" in told


def test_a_command_is_a_file(tmp_path, monkeypatch, capsys):
    """Dropped into the package it is there, for `pysolver` and for a tool; no list names it."""
    text = '"""Say a word."""\n\ndef options(parser): parser.add_argument("word")\n\ndef call(args): print(args.word)\n'
    (tmp_path / "say.py").write_text(text)
    monkeypatch.setattr(commands, "__path__", [*commands.__path__, str(tmp_path)])
    assert main(["say", "hello"]) == 0
    monkeypatch.setattr(sys, "argv", ["tools/say.py", "again"])
    assert commands.tool("tools/say.py") == 0
    assert capsys.readouterr().out == "hello\nagain\n"


def test_a_near_miss_is_named(capsys):
    with pytest.raises(SystemExit):
        main(["trian"])
    assert "there is no command 'trian'; did you mean train?" in capsys.readouterr().err


def test_a_scripts_own_error_keeps_its_traceback(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", ["", *sys.path])  # run_script replaces the first entry
    script = tmp_path / "script.py"
    script.write_text("1 / 0")
    assert main(["run", str(script)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("Traceback") and error.endswith("ZeroDivisionError: division by zero\n")
    assert str(script) in error


def test_an_unforeseen_error_is_one_line_too(solver, monkeypatch, capsys):
    def breaks(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("pysolver.commands.train.main", breaks)
    assert main(["train", f"--solver={solver}"]) == 1
    assert "pysolver: ZeroDivisionError: division by zero (--debug shows where)" in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError):
        main(["train", f"--solver={solver}", "--debug"])

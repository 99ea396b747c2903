"""What a slip on the command line is answered with."""

from __future__ import annotations

from pathlib import Path

import lmdb
import pytest

from pysolver.commands import main

ROOT = Path(__file__).parents[2]
NET = "".join(
    f"""layer {{ name: "d" type: "Data" top: "x" top: "l" include {{ phase: {phase} }}
    data_param {{ source: "db" batch_size: 1 backend: LMDB }} }} """
    for phase in ("TRAIN", "TEST")
)


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["train", "--solvr=s.prototxt"], "--solvr=s.prototxt; did you mean --solver=s.prototxt?"),
        (["train", "-no-progress", "--solver=s"], "-no-progress; did you mean --no-progress?"),
        (["train", "s.prototxt"], "s.prototxt; did you mean --solver=s.prototxt?"),
        (["time", "n.prototxt"], "n.prototxt; did you mean --model=n.prototxt?"),
        (["test", "w.caffemodel"], "w.caffemodel; did you mean --weights=w.caffemodel?"),
        (["train", "--frobnicate"], "unrecognized arguments: --frobnicate"),
        (["test", "--iterations=ten"], "must be a whole number, not 'ten'"),
        (["time", "--level=99999999999999999999"], "must be at most 2147483647, not 99999999999999999999"),
    ],
)
def test_arguments(words, answer, capsys) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.splitlines()[-1].endswith(answer)


@pytest.mark.parametrize("flag", ["zero", "-1", "0,", "0 1", "99999999999"])
def test_gpus_that_are_no_ids(flag, tmp_path, monkeypatch, capsys) -> None:
    """Told even where there is no GPU at all."""
    monkeypatch.chdir(tmp_path)
    Path("s.prototxt").write_text('net: "n.prototxt"')
    assert main(["train", "--solver=s.prototxt", f"--gpu={flag}"]) == 1
    assert capsys.readouterr().err.endswith(f"--gpu={flag}: give ids separated by commas, 0,2 say, or all\n")


@pytest.mark.parametrize(
    "code", ['print "x"', "xrange(3)", "import cPickle", "{}.iteritems()", "x = 0777", "try:\n  1\nexcept A, e:\n  1"]
)
def test_scripts_of_python_2(code, tmp_path, capsys) -> None:
    script = tmp_path / "old.py"
    script.write_text(code)
    assert main(["run", str(script)]) == 1
    assert capsys.readouterr().err.endswith(f"{script} is written for Python 2, it seems; this is Python 3\n")


@pytest.mark.parametrize("code", ["print 1 +", "nothing", "import nothing", "{}.nothing", "raise KeyError('xrange')"])
def test_scripts_that_are_just_wrong(code, tmp_path, capsys) -> None:
    script = tmp_path / "wrong.py"
    script.write_text(code.replace("print 1 +", "1 +"))
    assert main(["run", str(script)]) == 1
    assert "Python 2" not in capsys.readouterr().err


def test_a_folder_is_no_script(tmp_path, capsys) -> None:
    assert main(["run", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"pysolver: {tmp_path}: a folder, not a script\n"


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--solver=s.prototxt", "--processes=2000"],
        ["time", "--model=n.prototxt", "--processes=2000"],
        ["tune", "--solver=s.prototxt", "--out=out", "--jobs=2000"],
        ["tune", "--solver=s.prototxt", "--out=out", "--processes=2000"],
        ["reproduce", "table1", "--jobs=2000", f"--folder={ROOT / 'experiments'}"],
    ],
)
def test_more_processes_than_the_memory_holds(words, tmp_path, monkeypatch, capsys) -> None:
    """Once they were all started: the system ended whatever it liked, other people's work too."""
    monkeypatch.chdir(tmp_path)
    Path("s.prototxt").write_text('net: "n.prototxt" max_iter: 9 base_lr: 0.1 lr_policy: "fixed"')
    Path("n.prototxt").write_text(NET)
    with lmdb.open("db") as base, base.begin(write=True) as transaction:
        transaction.put(b"0", b"")
    monkeypatch.setattr("pysolver.solver.starter.LocalElasticAgent", None)
    monkeypatch.setattr("pysolver.disciplined.session.tune_recipe", None)
    assert main(words) == 1
    assert "=2000: there are" in capsys.readouterr().err

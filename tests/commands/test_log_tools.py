"""The tools as a person calls them: what they print and write, and their exit status."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pysolver.disciplined.clues import KINDS

ROOT = Path(__file__).resolve().parents[2]
LOGS = ROOT / "tests" / "golden" / "logs"
TOOLS = ("parse_log", "plot_log", "plot_range_test", "diagnose_log", "log_to_tensorboard", "check_solver")


def tool(name: str, *arguments: object, cwd: Path, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "tools" / f"{name}.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, **options)


@pytest.mark.parametrize("name", TOOLS)
def test_help_shows_examples(tmp_path, name):
    done = tool(name, "--help", cwd=tmp_path)
    assert done.returncode == 0 and "examples:" in done.stdout and f"{name}.py" in done.stdout


@pytest.mark.parametrize("name", TOOLS)
def test_wrong_usage_is_status_2(tmp_path, name):
    assert tool(name, "--no-such-option", cwd=tmp_path).returncode == 2
    assert tool(name, cwd=tmp_path).returncode == 2


@pytest.mark.parametrize("content", [b"", b"\x7fELF\0\0\0", b"hello\n", None])
@pytest.mark.parametrize("name", TOOLS[:5])
def test_bad_input_is_one_line_and_status_1(tmp_path, name, content):
    """An empty file, a binary one, one without iterations, a folder: nothing is written."""
    path = tmp_path / "bad.log"
    path.write_bytes(content) if content is not None else path.mkdir()
    arguments = ["-o", "x.png"] if name.startswith("plot") else []
    done = tool(name, path, *arguments, cwd=tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and "bad.log" in done.stderr and done.stderr.startswith(f"{name}.py: ")
    assert [p.name for p in tmp_path.iterdir()] == ["bad.log"]


def test_wrong_arguments_are_one_line_and_status_1(tmp_path):
    """Standard input twice, a delimiter that is none, two logs that would share a folder."""
    log = LOGS / "range_test.log.gz"
    (tmp_path / log.name).write_bytes(log.read_bytes())
    for name, *arguments in (
        ("plot_log", "-", "-", "-o", "x.png"),
        ("parse_log", log, "--delimiter", ""),
        ("parse_log", log, "--delimiter", "ab"),
        ("log_to_tensorboard", log, log.name, "-o", "board"),
        ("plot_log", log, "-o", "nowhere/a.png"),
        ("plot_log", log, "-o", f"{log.name}/a.png"),
        ("plot_log", log, "-o", "a.xyz"),
    ):
        done = tool(name, *arguments, cwd=tmp_path, stdin=subprocess.DEVNULL)
        assert done.returncode == 1 and done.stdout == "" and len(done.stderr.splitlines()) == 1, done.stderr
        if name == "plot_log" and arguments[0] == log:
            assert done.stderr.startswith(f"plot_log.py: {arguments[-1]}: ")
    assert [p.name for p in tmp_path.iterdir()] == [log.name]


def test_debug_shows_where(tmp_path):
    done = tool("parse_log", "none.log", "--debug", cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_parse_log(tmp_path):
    done = tool("parse_log", LOGS / "range_test.log.gz", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.split() == ["range_test.log.train", "range_test.log.test"]
    assert (tmp_path / "range_test.log.test").read_text().splitlines()[1].startswith("0.0,")
    text = tool("parse_log", LOGS / "range_test.log.gz", "--json", cwd=tmp_path).stdout
    assert json.loads(text)["solver"]["max_lr"] == 3
    assert tool("parse_log", LOGS / "range_test.log.gz", "nowhere", cwd=tmp_path).returncode == 1


def test_standard_input(tmp_path):
    with (LOGS / "range_test.log.gz").open("rb") as file:
        import gzip

        text = gzip.decompress(file.read()).decode()
    done = tool("parse_log", "-", ".", cwd=tmp_path, input=text)
    assert done.returncode == 0 and sorted(p.name for p in tmp_path.iterdir()) == ["stdin.test", "stdin.train"]


def test_plot_log_needs_no_display(tmp_path):
    logs = sorted(LOGS.glob("*.log.gz"))[:3]
    done = tool(
        "plot_log", *logs, "-o", "a.png", "--rates", cwd=tmp_path, env={"PATH": "", "MPLCONFIGDIR": str(tmp_path)}
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_range_test_for_a_person_and_for_a_script(tmp_path):
    log = LOGS / "clipping_cut_off.log.gz"
    done = tool("plot_range_test", log, "-o", "r.svg", cwd=tmp_path)
    assert (
        done.returncode == 0
        and "breaks at 0.51" in done.stdout
        and "max_lr: 0.4 " in done.stdout
        and (tmp_path / "r.svg").exists()
    )
    told = json.loads(tool("plot_range_test", log, "--json", cwd=tmp_path).stdout)
    assert told["break_seen"] is True and told["min_lr"] == pytest.approx(told["max_lr"] / 10)


def test_diagnose_log(tmp_path):
    done = tool("diagnose_log", LOGS / "clipping_cut_off.log.gz", "-o", "d.svg", cwd=tmp_path)
    assert done.returncode == 0 and "instability: iterations" in done.stdout and "lower max_lr" in done.stdout
    assert "instability" in (tmp_path / "d.svg").read_text()
    told = tool("diagnose_log", "--help", cwd=tmp_path).stdout
    assert all(f"{kind.name}: {kind.meaning}" in told and kind.advice in told for kind in KINDS.values())


def test_check_solver(tmp_path):
    (tmp_path / "s.prototxt").write_text(
        'base_lr: 0.01 max_lr: 0.1 lr_policy: "1cycle" stepsize: 450 max_iter: 1000 momentum: 0.95\n'
        "cyclical_momentum: 0.85 cyclical_momentum: 400 display: 10 weight_decay: 0.0001\n"
        'test_iter: 1 test_interval: 100 train_net: "gone.prototxt"'
    )
    done = tool("check_solver", "s.prototxt", cwd=tmp_path)
    assert done.returncode == 1 and "cyclical_momentum: half a cycle" in done.stdout
    assert "error: net: gone.prototxt is not there" in done.stdout
    (tmp_path / "s.prototxt").write_text('lr_policy: "1cycle"')
    assert tool("check_solver", "s.prototxt", cwd=tmp_path).returncode == 1
    (tmp_path / "s.prototxt").write_text("base_rl: 0.01")
    done = tool("check_solver", "s.prototxt", cwd=tmp_path)
    assert done.returncode == 1 and "s.prototxt:1" in done.stderr and "base_lr" in done.stderr


def test_log_to_tensorboard(tmp_path):
    pytest.importorskip("tensorboardX")
    done = tool("log_to_tensorboard", LOGS / "new_format_1cycle.log.gz", "-o", "board", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("board/new_format_1cycle: ")
    assert len(list((tmp_path / "board" / "new_format_1cycle").iterdir())) == 1

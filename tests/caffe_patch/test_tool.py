"""The tool: all or nothing, idempotent, every byte restored, and clear about what it refuses."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import stand_in

import caffe_patch
from caffe_patch import tree
from caffe_patch.cli import main

PACKAGE = Path(caffe_patch.__file__).parent
SGD = "src/caffe/solvers/sgd_solver.cpp"
PROTO = "src/caffe/proto/caffe.proto"
HEADER = "include/caffe/sgd_solvers.hpp"


@pytest.fixture(params=sorted(stand_in.LINES))
def line(request, tmp_path):
    return stand_in.build(tmp_path / "caffe", request.param)


@pytest.fixture
def root(tmp_path):
    return stand_in.build(tmp_path / "caffe", "bvlc-master")


def refused(capsys, command: str, root: Path) -> str:
    """Run a command that must fail and change nothing; its message."""
    before = stand_in.contents(root) if root.is_dir() else {}
    capsys.readouterr()
    assert main([command, str(root)]) == 1
    assert (stand_in.contents(root) if root.is_dir() else {}) == before
    message = capsys.readouterr().err
    assert message.startswith("caffe_patch: ") and message.endswith("Nothing was changed.\n")
    return message


def test_apply_twice_and_revert(line, capsys):
    plain = stand_in.contents(line)
    assert main(["check", str(line)]) == 1 and "not patched" in capsys.readouterr().out
    assert main(["apply", str(line)]) == 0
    patched = stand_in.contents(line)
    assert patched != plain
    assert main(["check", str(line)]) == 0
    assert main(["apply", str(line)]) == 0
    assert stand_in.contents(line) == patched
    assert main(["revert", str(line)]) == 0
    assert stand_in.contents(line) == plain
    assert main(["revert", str(line)]) == 0
    assert stand_in.contents(line) == plain


def test_windows_line_ends(line):
    for path in line.rglob("*.*"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    plain = stand_in.contents(line)
    main(["apply", str(line)])
    for path in line.rglob("*.*"):
        assert path.read_bytes().count(b"\n") == path.read_bytes().count(b"\r\n"), path
    assert main(["check", str(line)]) == 0
    main(["revert", str(line)])
    assert stand_in.contents(line) == plain


def test_mixed_line_ends_odd_bytes_and_no_last_newline(root):
    sgd = root / SGD
    sgd.write_bytes(b"\xef\xbb\xbf// \xff\xa9 \x0c \xe2\x80\xa8\r\n" + sgd.read_bytes().rstrip())
    plain = stand_in.contents(root)
    main(["apply", str(root)])
    main(["revert", str(root)])
    assert stand_in.contents(root) == plain


def test_modes_are_kept(root):
    (root / SGD).chmod(0o755)
    (root / HEADER).chmod(0o640)
    main(["apply", str(root)])
    assert (root / SGD).stat().st_mode & 0o777 == 0o755
    assert (root / HEADER).stat().st_mode & 0o777 == 0o640
    assert (root / "src/caffe/util/cyclical_policy.cpp").stat().st_mode == (root / PROTO).stat().st_mode


def test_places_are_found_by_meaning(root):
    """Another layout of the same code, with decoys, moves every place."""
    sgd = root / SGD
    text = sgd.read_text()
    text = text.replace("} else {\n    LOG(FATAL)", "}\n  else\n  {\n    LOG(FATAL)")
    text = text.replace("SGDSolver<Dtype>::PreSolve() {", "SGDSolver< Dtype >::\n    PreSolve( )\n{")
    text = text.replace(
        "namespace caffe {\n", "namespace caffe {\n/* SGDSolver<Dtype>::PreSolve() { this->param_.momentum() */\n", 1
    )
    sgd.write_text("\n" * 50 + text)
    plain = stand_in.contents(root)
    assert main(["apply", str(root)]) == 0
    patched = sgd.read_text()
    assert "}\n  else\n  {\n    LOG(FATAL)" in patched
    assert "PreSolve( )\n{\n  CheckCyclicalPolicy(this->param_);\n" in patched
    assert "{ this->param_.momentum() */" in patched
    main(["revert", str(root)])
    assert stand_in.contents(root) == plain


def test_edits_elsewhere_do_not_matter(root):
    main(["apply", str(root)])
    sgd = root / SGD
    sgd.write_text(sgd.read_text().replace("history_.clear();", "history_.clear();  // ours"))
    assert main(["check", str(root)]) == 0
    assert main(["revert", str(root)]) == 0
    assert "// ours" in sgd.read_text() and "Cyclical" not in sgd.read_text()


def test_a_solver_of_ones_own_is_served_too(root):
    own = root / "src/caffe/solvers/own_solver.cpp"
    own.write_text("void OwnSolver::Update() { m = this->param_.momentum(); }\n")
    main(["apply", str(root)])
    assert "m = this->CurrentMomentum();" in own.read_text()
    main(["revert", str(root)])
    assert "m = this->param_.momentum();" in own.read_text()


def test_documentation_and_tests_may_be_absent(root):
    (root / "docs/tutorial/solver.md").unlink()
    (root / "src/caffe/test/test_caffe_main.cpp").unlink()
    plain = stand_in.contents(root)
    assert main(["apply", str(root)]) == 0
    assert not list((root / "src/caffe/test").iterdir())
    main(["revert", str(root)])
    assert stand_in.contents(root) == plain


def test_refuses_what_is_no_caffe(tmp_path, capsys):
    assert "is not a Caffe tree" in refused(capsys, "apply", tmp_path)
    assert "is not a folder" in refused(capsys, "apply", tmp_path / "nowhere")


@pytest.mark.parametrize("command", ["apply", "revert", "check", "diff"])
def test_refuses_a_half_patched_tree(command, root, capsys):
    plain = {path: (root / path).read_bytes() for path in (SGD, HEADER)}
    main(["apply", str(root)])
    (root / SGD).write_bytes(plain[SGD])
    message = refused(capsys, command, root)
    assert "half patched" in message
    assert "sgd_solver.cpp: the last branch of SGDSolver::GetLearningRate" in message
    assert "sgd_solvers.hpp" not in message


@pytest.mark.parametrize(
    "path, theirs, changed, place",
    [
        (SGD, "GetLearningRate() {", "ComputeRate() {", "the definition of SGDSolver::GetLearningRate"),
        (SGD, '", lr = " << rate', '", lr = " << r', "the line that prints the learning rate"),
        (SGD, "::PreSolve() {", "::Prepare() {", "the definition of SGDSolver::PreSolve"),
        (SGD, "this->param_.momentum()", "my_momentum", "the momentum that SGDSolver reads"),
        (PROTO, "message SolverParameter {\n  //", "message Solving {\n  //", "the message SolverParameter"),
        (HEADER, "void PreSolve();", "", "the declaration of SGDSolver::PreSolve"),
        (HEADER, "class RMSPropSolver", "class RootSolver", "the class RMSPropSolver"),
        ("docs/tutorial/solver.md", "### AdaDelta", "", "the section on AdaDelta"),
    ],
)
def test_names_the_place_that_local_edits_took_away(path, theirs, changed, place, root, capsys):
    text = (root / path).read_text()
    assert theirs in text
    (root / path).write_text(text.replace(theirs, changed))
    message = refused(capsys, "apply", root)
    assert f"{path}: {place}" in message and "not found" in message


def test_names_every_lost_place(root, capsys):
    (root / SGD).write_text((root / SGD).read_text().replace("PreSolve", "Prepare").replace("lr = ", "rate = "))
    message = refused(capsys, "apply", root)
    assert "SGDSolver::PreSolve" in message and "prints the learning rate" in message


def test_refuses_a_field_or_policy_of_someone_elses(root, capsys):
    (root / PROTO).write_text((root / PROTO).read_text().replace("weights = 42", "max_lr = 42"))
    (root / SGD).write_text((root / SGD).read_text().replace('"sigmoid"', '"triangular"'))
    message = refused(capsys, "apply", root)
    assert "it has a field max_lr already" in message and "it has a policy triangular already" in message


def test_refuses_a_patch_that_was_edited(root, capsys):
    main(["apply", str(root)])
    (root / HEADER).write_text((root / HEADER).read_text().replace("CyclicalMomentum(this->", "Mine(this->"))
    assert "SGDSolver::PreSolve" in refused(capsys, "revert", root)
    law = root / "src/caffe/util/cyclical_policy.cpp"
    law.write_text(law.read_text() + "// mine\n")
    assert "is not what the patch puts there" in refused(capsys, "revert", root)


def test_refuses_a_foreign_file_where_a_new_one_goes(root, capsys):
    (root / "include/caffe/util/cyclical_policy.hpp").write_text("// someone else's\n")
    assert "include/caffe/util/cyclical_policy.hpp" in refused(capsys, "apply", root)


@pytest.mark.parametrize("path", [SGD, "src/caffe/util"])
def test_refuses_a_read_only_tree(path, root, capsys):
    (root / path).chmod(0o555)
    try:
        assert f"read-only:\n  {(root / path).resolve()}" in refused(capsys, "apply", root)
    finally:
        (root / path).chmod(0o755)


@pytest.mark.parametrize("path", [SGD, "src/caffe/solvers", "include/caffe/util"])
def test_refuses_a_link_out_of_the_tree(path, root, tmp_path, capsys):
    outside = tmp_path / "outside"
    (root / path).rename(outside)
    (root / path).symlink_to(outside)
    assert "leads out of the tree" in refused(capsys, "apply", root)
    (root / path).unlink()
    (root / path).symlink_to((root / path).name)  # to itself
    assert refused(capsys, "apply", root)


def test_a_link_within_the_tree_stays_a_link(root):
    moved = root / "src/caffe/real_sgd.cpp"
    (root / SGD).rename(moved)
    (root / SGD).symlink_to(moved)
    main(["apply", str(root)])
    assert (root / SGD).is_symlink() and "Cyclical" in moved.read_text()


@pytest.mark.parametrize("failing", range(11))
def test_a_failure_while_writing_leaves_everything_as_it_was(failing, root, capsys, monkeypatch):
    plain = stand_in.contents(root)
    calls = iter(range(1000))
    replace = os.replace

    def break_once(source, target):
        if next(calls) == failing:
            raise OSError("no space left")
        replace(source, target)

    monkeypatch.setattr(tree.os, "replace", break_once)
    assert main(["apply", str(root)]) == 1
    assert "no space left" in capsys.readouterr().err
    assert stand_in.contents(root) == plain


def test_interrupt_while_writing_leaves_everything_as_it_was(root, monkeypatch):
    plain = stand_in.contents(root)
    stage = tree._stage

    def interrupted(target, text, model):
        if target.name == "caffe.proto":
            raise KeyboardInterrupt
        return stage(target, text, model)

    monkeypatch.setattr(tree, "_stage", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main(["apply", str(root)])
    assert stand_in.contents(root) == plain


def test_usage_error():
    with pytest.raises(SystemExit) as error:
        main(["apply"])
    assert error.value.code == 2


def test_runs_on_python_3_8_with_nothing_but_the_standard_library(root):
    own = {"__future__", "caffe_patch"}
    for path in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(), feature_version=(3, 8))):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert {name.split(".")[0] for name in names} <= own | sys.stdlib_module_names
    command = [sys.executable, "-I", "-S", "-c", "import sys; sys.path[:0] = [sys.argv.pop(1)]; import runpy; "]
    command[-1] += "runpy.run_module('caffe_patch', run_name='__main__')"
    done = subprocess.run([*command, str(PACKAGE.parent), "apply", str(root)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "patched src/caffe/solvers/nesterov_solver.cpp" in done.stdout


SOURCES = [SGD, PROTO, HEADER, "src/caffe/solvers/nesterov_solver.cpp", "docs/tutorial/solver.md"]


@pytest.mark.parametrize("path", SOURCES)
def test_whatever_line_is_lost_it_refuses_or_restores(path, root):
    """Each line of an unpatched file taken out in turn: a refusal that changes nothing, or a full round trip."""
    lines = (root / path).read_bytes().splitlines(keepends=True)
    for i in range(len(lines)):
        (root / path).write_bytes(b"".join(lines[:i] + lines[i + 1 :]))
        before = stand_in.contents(root)
        if main(["apply", str(root)]) == 0:
            assert main(["check", str(root)]) == 0
            assert main(["revert", str(root)]) == 0
        assert stand_in.contents(root) == before, lines[i]


@pytest.mark.parametrize("path", SOURCES)
def test_whatever_line_of_a_patched_file_is_lost_it_refuses_or_reverts(path, root):
    """No piece of the patch stays behind in a tree that `revert` says it has restored."""
    plain = (root / path).read_bytes()
    main(["apply", str(root)])
    patched = {root / name: content for name, (_, content) in stand_in.contents(root).items()}
    lines = patched[root / path].splitlines(keepends=True)
    for i in range(len(lines)):
        for file, content in patched.items():
            file.write_bytes(content)
        (root / path).write_bytes(b"".join(lines[:i] + lines[i + 1 :]))
        before = stand_in.contents(root)
        if main(["revert", str(root)]) == 1:
            assert stand_in.contents(root) == before, lines[i]
        else:
            assert set((root / path).read_bytes().splitlines()) <= set(plain.splitlines()), lines[i]


@pytest.mark.timeout(30)
def test_refuses_a_pipe_in_the_tree(root, capsys):
    """An archive may hold one; it would wait for somebody to write."""
    (root / "src/caffe/proto/caffe.proto").unlink()
    os.mkfifo(root / "src/caffe/proto/caffe.proto")
    assert main(["apply", str(root)]) == 1
    assert "caffe.proto cannot be read: it is a folder, a pipe or a device" in capsys.readouterr().err

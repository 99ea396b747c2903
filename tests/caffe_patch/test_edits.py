"""What the patch writes, and where: on stand-ins for every line of Caffe it serves."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import stand_in
from google.protobuf import descriptor_pb2
from grpc_tools import protoc

from caffe_patch import edits, source
from caffe_patch.cli import main

PATCH = Path(edits.__file__).with_name("bvlc-master.patch")
SGD = "src/caffe/solvers/sgd_solver.cpp"


@pytest.fixture(params=sorted(stand_in.LINES))
def patched(request, tmp_path):
    root = stand_in.build(tmp_path / request.param, request.param)
    assert main(["apply", str(root)]) == 0
    return root


def solver_fields(root: Path) -> dict[str, tuple[int, int, int]]:
    """Number, label and type of each field of SolverParameter, as protoc understands the patched schema."""
    target = root / "caffe.desc"
    folder = root / "src/caffe/proto"
    assert protoc.main(["protoc", f"-I{folder}", f"--descriptor_set_out={target}", "caffe.proto"]) == 0
    file = descriptor_pb2.FileDescriptorSet.FromString(target.read_bytes()).file[0]
    message = next(message for message in file.message_type if message.name == "SolverParameter")
    return {field.name: (field.number, field.label, field.type) for field in message.field}


def test_schema_compiles_with_the_three_fields(patched):
    fields = solver_fields(patched)
    kind = descriptor_pb2.FieldDescriptorProto
    assert fields["max_lr"][1:] == (kind.LABEL_OPTIONAL, kind.TYPE_FLOAT)
    assert fields["cyclical_momentum"][1:] == (kind.LABEL_REPEATED, kind.TYPE_FLOAT)
    assert fields["start_lr_policy"][1:] == (kind.LABEL_OPTIONAL, kind.TYPE_INT32)
    assert len({number for number, _, _ in fields.values()}) == len(fields)


@pytest.mark.parametrize(
    "line, numbers",
    [
        ("bvlc-rc3", (43, 44, 45)),
        ("bvlc-1.0", (43, 44, 45)),
        ("bvlc-master", (43, 44, 45)),
        ("ssd", (46, 47, 45)),
        ("nvidia-0.17", (245, 246, 247)),
        ("intel", (152, 153, 45)),
    ],
)
def test_field_numbers_are_ours_where_free(line, numbers, tmp_path):
    root = stand_in.build(tmp_path, line)
    main(["apply", str(root)])
    fields = solver_fields(root)
    assert tuple(fields[name][0] for name in ("max_lr", "cyclical_momentum", "start_lr_policy")) == numbers
    note = re.search(r"the next available ID is (\d+)", (root / "src/caffe/proto/caffe.proto").read_text())
    assert int(note.group(1)) == max(number for number, _, _ in fields.values()) + 1


def test_every_update_rule_reads_the_current_momentum(patched):
    """The appendix of the paper changes SGDSolver alone: its own Nesterov runs would not have cycled."""
    for name in ("nesterov", "adam", "adadelta"):
        text = (patched / f"src/caffe/solvers/{name}_solver.cpp").read_text()
        assert text.count("this->CurrentMomentum()") == 1 and "param_.momentum()" not in text
    sgd = (patched / SGD).read_text()
    assert edits.momentum_reads(sgd) == []
    update = sgd[slice(*source.method_body(sgd, "SGDSolver", "ComputeUpdateValue"))]
    assert "this->CurrentMomentum()" in update or "= GetMomentum()" in update


def test_the_literal_appendix_is_not_the_patch(tmp_path, capsys):
    """A patched tree whose Nesterov solver reads the constant momentum counts as half patched."""
    root = stand_in.build(tmp_path, "bvlc-master")
    main(["apply", str(root)])
    nesterov = root / "src/caffe/solvers/nesterov_solver.cpp"
    nesterov.write_text(nesterov.read_text().replace("this->CurrentMomentum()", "this->param_.momentum()"))
    assert main(["check", str(root)]) == 1
    assert "nesterov_solver.cpp: the momentum that NesterovSolver reads" in capsys.readouterr().err


def test_policies_come_last_in_the_chain(patched):
    sgd = (patched / SGD).read_text()
    chain = sgd[slice(*source.method_body(sgd, "SGDSolver", "GetLearningRate"))]
    assert chain.index('"sigmoid"') < chain.index("IsCyclicalPolicy(lr_policy)") < chain.index("Unknown learning rate")
    assert chain.count("{") == chain.count("}")


def test_settings_are_checked_in_the_constructor(patched):
    sgd = (patched / SGD).read_text()
    assert sgd[source.method_body(sgd, "SGDSolver", "PreSolve")[0] :].lstrip().startswith("CheckCyclicalPolicy(")
    header = (patched / "include/caffe/sgd_solvers.hpp").read_text()
    for name in ("AdaGrad", "RMSProp"):
        assert f'RefuseCyclicalMomentum(this->param_, "{name}");' in header[header.index(f"class {name}Solver") :]


def test_rate_line(patched):
    """In the order of the paper's logs: lr, momentum, weight decay."""
    sgd = (patched / SGD).read_text()
    statement = sgd[sgd.index('"Iteration "') :].split(";")[0]
    assert re.findall(r'"([^"]*)"', statement) == ["Iteration ", ", lr = ", ", momentum = ", ", weight decay = "]


def test_nvidia_prints_its_own_items_in_a_second_line(tmp_path):
    root = stand_in.build(tmp_path, "nvidia-0.17")
    main(["apply", str(root)])
    statements = [part for part in (root / SGD).read_text().split(";") if '"Iteration "' in part]
    assert [re.findall(r'", (.*?) = "', part) for part in statements] == [
        ["lr", "momentum", "weight decay"],
        ["m", "wd"],
    ]


def test_nvidia_momentum_method_gets_the_law(tmp_path):
    root = stand_in.build(tmp_path, "nvidia-0.17")
    main(["apply", str(root)])
    sgd = (root / SGD).read_text()
    method = sgd[slice(*source.method_body(sgd, "SGDSolver", "GetMomentum"))]
    assert method.index("cyclical_momentum_size() > 0") < method.index("momentum_policy")
    assert "this->param_.momentum()" in method, "without cyclical_momentum their policies go on as before"
    assert "cyclical_momentum and momentum_policy exclude each other" in sgd


def test_intel_has_two_momentum_sites_and_keeps_its_correction(tmp_path):
    root = stand_in.build(tmp_path, "intel")
    main(["apply", str(root)])
    sgd = (root / SGD).read_text()
    assert sgd.count("Dtype momentum = this->CurrentMomentum();") == 2
    assert "momentum = momentum * (rate / prev_rate);" in sgd


def test_documentation_section_stands_between_sgd_and_adadelta(patched):
    chapter = (patched / "docs/tutorial/solver.md").read_text()
    heading = chapter.index("#### Cyclical learning rates and momentum")
    assert chapter.index("### SGD") < heading < chapter.index("### AdaDelta")


@pytest.mark.parametrize("command", [["git", "apply"], ["patch", "-s", "-p1", "-i"]])
def test_plain_patch_does_what_the_tool_does(command, tmp_path):
    by_tool, by_patch = (stand_in.build(tmp_path / name, "bvlc-master") for name in ("tool", "patch"))
    main(["apply", str(by_tool)])
    subprocess.run([*command, str(PATCH)], cwd=by_patch, check=True, env={"PATH": "/usr/bin:/bin", "HOME": "/"})
    for path in by_patch.rglob("*.orig"):  # patch keeps one where it had to look for the place
        path.unlink()
    assert stand_in.contents(by_patch) == stand_in.contents(by_tool)


def test_diff_on_a_stand_in_is_the_plain_patch(tmp_path, capfdbinary):
    root = stand_in.build(tmp_path, "bvlc-master")
    assert main(["diff", str(root)]) == 0
    unpatched = capfdbinary.readouterr().out.decode()
    main(["apply", str(root)])
    capfdbinary.readouterr()
    assert main(["diff", str(root)]) == 0
    assert capfdbinary.readouterr().out.decode() == unpatched
    assert _without_line_numbers(unpatched) == _without_line_numbers(PATCH.read_text())


def _without_line_numbers(diff: str) -> str:
    return re.sub(r"^@@ .*$", "@@", diff, flags=re.MULTILINE)


@pytest.mark.timeout(20)  # once quadratic: 42 s for these
def test_a_class_that_opens_twenty_thousand_times():
    with pytest.raises(source.PlaceNotFound, match="the class SGDSolver: not found"):
        source.class_body("class SGDSolver {\n" * 20_000, "SGDSolver")
    with pytest.raises(source.PlaceNotFound, match="the class SGDSolver: found 20000 times"):
        source.class_body("class SGDSolver {}\n" * 20_000, "SGDSolver")
    text = "} class SGDSolver; { class SGDSolver { int f() { } } }"
    assert text[slice(*source.class_body(text, "SGDSolver"))] == " int f() { } "


def test_what_is_no_field_number_and_a_message_in_one_line(tmp_path, capsys):
    root = stand_in.build(tmp_path, "bvlc-master")
    schema = root / "src/caffe/proto/caffe.proto"
    text = schema.read_text()
    start, end = source.message_body(text, "SolverParameter")
    schema.write_text(text[:start] + text[start:end].replace("= 1;", f"= {'9' * 6000};", 1) + text[end:])
    assert main(["check", str(root)]) == 1 and "every place" in capsys.readouterr().out
    body = re.sub(r"//[^\n]*", "", text[start:end]).replace("\n", " ")
    schema.write_text(text[:start] + body + text[end:])
    assert main(["apply", str(root)]) == 1
    assert "Nothing was changed" in capsys.readouterr().err


@pytest.mark.timeout(30)  # each was quadratic
@pytest.mark.parametrize("text", ["/*" * 200_000, '"' + '\\"' * 200_000, "class A " * 100_000, "'\\'" * 100_000])
def test_texts_that_never_end(text):
    with pytest.raises(source.PlaceNotFound, match="the class A: not found"):
        source.class_body(text, "A")


def test_what_ends_nowhere_ends_with_its_line_or_with_the_file():
    assert source.code_of('int a; "b {\nint c; /* d {') == "int a;     \nint c;       "
    assert source.code_of("1'000; {\nx") == "1'000; {\nx"

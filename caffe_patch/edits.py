"""What the patch changes in a Caffe, place by place.

There are three kinds of edit, and each can be undone from the patched text alone, because what it writes can be
recognised: an `Insertion` adds lines that occur once, an `Exchange` writes a name that no Caffe has, a new file is
compared as a whole. So `revert` needs no records, and also works on a tree that got the patch from a plain diff.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from caffe_patch import source
from caffe_patch.source import PlaceNotFound

PROTO = "src/caffe/proto/caffe.proto"
HEADER = "include/caffe/sgd_solvers.hpp"
SOLVERS = "src/caffe/solvers"
SGD = f"{SOLVERS}/sgd_solver.cpp"
DOCUMENTATION = "docs/tutorial/solver.md"
TESTS = "src/caffe/test"

MOMENTUM_SOLVERS = {f"{SOLVERS}/{name.lower()}_solver.cpp": name for name in ("SGD", "Nesterov", "Adam", "AdaDelta")}
NO_MOMENTUM = {f"{SOLVERS}/{name.lower()}_solver.cpp": name for name in ("AdaGrad", "RMSProp")}

_HERE = Path(__file__).parent
_NUMBERS = {"max_lr": 43, "cyclical_momentum": 44, "start_lr_policy": 45}
_NOTE = "SolverParameter next available ID"  # a comment that not every line of Caffe has
_OUR_NOTE = "// (caffe_patch added three fields: the next available ID is "


@dataclass(frozen=True)
class Insertion:
    """Lines put at one place. `text` has "\\n" line ends and may depend on the file; `pattern` recognises it there."""

    what: str
    place: Callable[[str], int]
    text: Callable[[str], str]
    pattern: str

    def present(self, text: str) -> bool:
        return len(re.findall(self.pattern, text)) == 1

    def apply(self, text: str) -> str:
        at = self.place(text)
        return text[:at] + self.text(text).replace("\n", line_end(text)) + text[at:]

    def remove(self, text: str) -> str:
        return re.sub(self.pattern, "", text)


@dataclass(frozen=True)
class Exchange:
    """Every read of the constant momentum in a file becomes a read of the current one."""

    what: str
    theirs = "this->param_.momentum()"
    ours = "this->CurrentMomentum()"

    def present(self, text: str) -> bool:
        return self.ours in text

    def apply(self, text: str) -> str:
        reads = momentum_reads(text)
        if not reads:
            raise PlaceNotFound(f"{self.what}: found no {self.theirs}")
        for start, end in reversed(reads):
            text = text[:start] + self.ours + text[end:]
        return text

    def remove(self, text: str) -> str:
        return text.replace(self.ours, self.theirs)


def line_end(text: str) -> str:
    """The line end that most lines of a text have."""
    return "\r\n" if 2 * text.count("\r\n") > text.count("\n") else "\n"


def momentum_reads(text: str) -> list[tuple[int, int]]:
    """Where a solver's source reads the constant momentum, except in a GetMomentum of its own (NVIDIA)."""
    spared = [source.method_body(text, "SGDSolver", "GetMomentum")] if has_method(text, "GetMomentum") else []
    reads = [match.span() for match in source.find_all(text, r"\bthis->param_\.momentum\(\)")]
    return [(start, end) for start, end in reads if not any(a <= start < b for a, b in spared)]


def has_method(sgd: str, name: str) -> bool:
    """Whether SGDSolver has a method of that name defined in this text."""
    return bool(source.find_all(sgd, rf"\bSGDSolver\s*<\s*\w+\s*>\s*::\s*{name}\s*\("))


def edits_of(files: dict[str, str]) -> dict[str, list]:
    """The edits of each file of a Caffe, given the text of its sources by path (PROTO, HEADER, SOLVERS/*.cpp ...)."""
    own_momentum = has_method(files[SGD], "GetMomentum")
    own_decay = has_method(files[SGD], "GetWeightDecay")
    edits: dict[str, list] = {
        PROTO: [_fields()],
        HEADER: [_include(), _method(), *(_refusal(name) for name in NO_MOMENTUM.values())],
        SGD: [_branch(), _check(own_momentum), _rate_line(own_momentum, own_decay)],
    }
    if _NOTE in files[PROTO] or _OUR_NOTE in files[PROTO]:
        edits[PROTO].insert(0, _next_id())  # first: it counts the numbers that the fields are about to take
    if own_momentum:
        edits[SGD].append(_get_momentum())
    for path, text in files.items():
        if path.startswith(SOLVERS) and path not in NO_MOMENTUM:
            if path in MOMENTUM_SOLVERS and not (path == SGD and own_momentum):
                edits.setdefault(path, []).append(Exchange(f"the momentum that {MOMENTUM_SOLVERS[path]}Solver reads"))
            elif momentum_reads(text) or Exchange.ours in text:
                edits.setdefault(path, []).append(Exchange("the momentum that this solver reads"))
    if DOCUMENTATION in files:
        edits[DOCUMENTATION] = [_section()]
    return edits


def new_files(files: dict[str, str]) -> dict[str, str]:
    """The files that the patch adds: text by path. The solver tests are for trees whose Solver is a template."""
    names = ["include/caffe/util/cyclical_policy.hpp", "src/caffe/util/cyclical_policy.cpp"]
    if f"{TESTS}/test_caffe_main.cpp" in files:
        names.append(f"{TESTS}/test_cyclical_policy.cpp")
        if source.find_all(files[HEADER], r"\bclass\s+SGDSolver\s*:\s*public\s+Solver\s*<"):
            names.append(f"{TESTS}/test_cyclical_solver.cpp")
    return {name: (_HERE / "new" / name).read_text(encoding="ascii") for name in names}


def _fixed(what: str, place: Callable[[str], int], text: str) -> Insertion:
    return Insertion(what, place, lambda _: text, _pattern(text))


def _pattern(text: str) -> str:
    """A regular expression for a text of an edit with whatever line ends; <name> stands for a number."""
    return re.sub(r"<\w+>", r"\\d+", re.escape(text).replace("\\\n", "\n")).replace("\n", "\\r?\n")


def _fields() -> Insertion:
    template = (_HERE / "solver_fields.proto").read_text(encoding="ascii")

    def place(text: str) -> int:
        start, end = source.message_body(text, "SolverParameter")
        for name in _NUMBERS:
            if source.find_all(text, rf"\b{name}\s*=", (start, end)):
                raise PlaceNotFound(f"the end of SolverParameter: it has a field {name} already, not from this patch")
        line = text.rfind("\n", start, end)
        if line < 0:
            raise PlaceNotFound("the end of SolverParameter: the message stands in one line")
        return line + 1

    def numbered(text: str) -> str:
        filled = template
        for name, number in _free_numbers(text).items():
            filled = filled.replace(f"<{name}>", str(number))
        return filled

    return Insertion("the end of SolverParameter", place, numbered, _pattern(template))


def _free_numbers(text: str) -> dict[str, int]:
    """A number for each new field: its own where that is free, else the next one above all others."""
    used = {int(match.group(1)) for match in _numbers_in_message(text)}
    numbers = {name: number for name, number in _NUMBERS.items() if number not in used}
    for name in _NUMBERS:
        if name not in numbers:
            numbers[name] = max(used.union(numbers.values(), _NUMBERS.values())) + 1
    return numbers


def _numbers_in_message(text: str) -> list[re.Match]:
    # protobuf's numbers end at 536,870,911
    return source.find_all(text, r"=\s*(\d{1,9})\s*[;\[]", source.message_body(text, "SolverParameter"))


def _next_id() -> Insertion:
    what = "the note on the next free field number"
    note = f"{_OUR_NOTE}<id>)\n"

    def place(text: str) -> int:
        if _NOTE not in text:
            raise PlaceNotFound(f"{what}: not found")
        return source.after_line(text, text.index(_NOTE))

    def numbered(text: str) -> str:
        used = {int(match.group(1)) for match in _numbers_in_message(text)}
        return note.replace("<id>", str(max(used.union(_free_numbers(text).values())) + 1))

    return Insertion(what, place, numbered, _pattern(note))


def _include() -> Insertion:
    def place(text: str) -> int:
        includes = [match for match in re.finditer(r'^#include "caffe/solver\.hpp"', text, re.MULTILINE)]
        if len(includes) != 1:
            raise PlaceNotFound('the include of "caffe/solver.hpp": not found')
        return source.after_line(text, includes[0].start())

    return _fixed("the includes of sgd_solvers.hpp", place, '#include "caffe/util/cyclical_policy.hpp"\n')


def _method() -> Insertion:
    what = "the declaration of SGDSolver::PreSolve"

    def place(text: str) -> int:
        found = source.find_one(text, r"\bvoid\s+PreSolve\s*\(\s*\)\s*;", source.class_body(text, "SGDSolver"), what)
        return source.after_line(text, found.end())

    return _fixed(
        what,
        place,
        "  // The momentum of this iteration, which every update rule reads.\n"
        "  float CurrentMomentum() const {\n"
        "    return CyclicalMomentum(this->param_, this->iter_);\n"
        "  }\n",
    )


def _refusal(name: str) -> Insertion:
    what = f"the sanity check of {name}Solver's constructor"

    def place(text: str) -> int:
        span = source.class_body(text, f"{name}Solver")
        found = source.find_one(text, r"\bvoid\s+constructor_sanity_check\s*\(\s*\)\s*\{", span, what)
        return source.after_line(text, found.end())

    return _fixed(what, place, f'    RefuseCyclicalMomentum(this->param_, "{name}");\n')


def _branch() -> Insertion:
    what = "the last branch of SGDSolver::GetLearningRate"

    def place(text: str) -> int:
        start, end = span = source.method_body(text, "SGDSolver", "GetLearningRate")
        if list(source.literals(text, "triangular", span)):
            raise PlaceNotFound(f"{what}: it has a policy triangular already, not from this patch")
        unknown = list(source.literals(text, "Unknown learning rate policy", span))
        closing = source.find_all(text, r"\}\s*else\s*\{", (start, unknown[0][0] if unknown else start))
        if len(unknown) != 1 or not closing:
            raise PlaceNotFound(f"{what}: found no final else with its message")
        return closing[-1].start()

    return _fixed(
        what,
        place,
        "} else if (IsCyclicalPolicy(lr_policy)) {\n    rate = CyclicalLearningRate(this->param_, this->iter_);\n  ",
    )


def _check(own_momentum: bool) -> Insertion:
    def place(text: str) -> int:
        return source.after_line(text, source.method_body(text, "SGDSolver", "PreSolve")[0])

    one_law = (
        "  CHECK(this->param_.cyclical_momentum_size() == 0 ||\n"
        '        this->param_.momentum_policy() == "fixed")\n'
        '      << "cyclical_momentum and momentum_policy exclude each other:"\n'
        '      << " remove one of them";\n'
    )
    lines = "  CheckCyclicalPolicy(this->param_);\n" + (one_law if own_momentum else "")
    return _fixed("the beginning of SGDSolver::PreSolve", place, lines)


def _rate_line(own_momentum: bool, own_decay: bool) -> Insertion:
    """Where a Caffe prints its own momentum behind the rate (NVIDIA), that goes into a second line."""
    what = "the line that prints the learning rate"

    def place(text: str) -> int:
        printed = list(source.literals(text, ", lr = ", (0, len(text))))
        if len(printed) != 1:
            raise PlaceNotFound(f"{what}: " + ("not found" if not printed else f"found {len(printed)} times"))
        end = r"<<" if own_momentum else ";"
        rate = re.compile(rf"\s*<<\s*rate\b(?=\s*{end})").match(source.code_of(text), printed[0][1])
        if not rate:
            raise PlaceNotFound(f"{what}: the variable rate not found behind its name, or not with what follows it")
        return rate.end()

    momentum = "GetMomentum()" if own_momentum else "CurrentMomentum()"
    decay = "GetWeightDecay()" if own_decay else "this->param_.weight_decay()"
    lines = f'\n        << ", momentum = " << {momentum}\n        << ", weight decay = " << {decay}'
    return _fixed(what, place, lines + (';\n    LOG(INFO) << "Iteration " << this->iter_' if own_momentum else ""))


def _get_momentum() -> Insertion:
    def place(text: str) -> int:
        return source.after_line(text, source.method_body(text, "SGDSolver", "GetMomentum")[0])

    return _fixed(
        "the beginning of SGDSolver::GetMomentum",
        place,
        "  if (this->param_.cyclical_momentum_size() > 0) {\n    return CurrentMomentum();\n  }\n",
    )


def _section() -> Insertion:
    def place(text: str) -> int:
        heading = re.search(r"^### AdaDelta\b", text, re.MULTILINE)
        if not heading:
            raise PlaceNotFound("the section on AdaDelta, which follows the one on SGD: not found")
        return heading.start()

    section = (_HERE / "solver_section.md").read_text(encoding="ascii")
    return _fixed("the end of the chapter's section on SGD", place, section)

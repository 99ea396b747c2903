"""Whatever the writer can write, the parser reads back equal; and texts of other Caffes are understood."""

from __future__ import annotations

import ast
import io
import math
import re
import typing
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pysolver
from pysolver.context import Context
from pysolver.logs import events as e
from pysolver.logs import grammar, notices
from pysolver.logs.writer import CaffeLog


def printed(value: float) -> float:
    """The float that six digits leave of it."""
    return float(f"{value:g}")


FLOATS = st.floats(width=32).map(printed)
WORDS = st.from_regex(r"[A-Za-z0-9_/.-]{1,12}", fullmatch=True)
ODD_NAMES = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=12)


def field_values(form: grammar.Form, names: st.SearchStrategy[str]) -> st.SearchStrategy[dict]:
    """Random values for the fields that a form spells, the given ones for the others."""
    hints = typing.get_type_hints(form.event)
    kinds = {name: next(k for k in (typing.get_args(h) or (h,)) if k is not type(None)) for name, h in hints.items()}
    texts = names if names is WORDS else st.lists(names, min_size=1, max_size=3).map(" ".join)
    dumps = st.lists(texts, max_size=3).map(lambda rows: "".join(row + "\n" for row in rows))
    by_kind = {int: st.integers(0, 10**9), float: FLOATS, str: dumps if form.tail else texts}
    return st.fixed_dictionaries({name: by_kind[kinds[name]] for name in form.spelled}).map(
        lambda values: {**values, **dict(form.given)}
    )


def same(a: e.Event, b: e.Event | None) -> bool:
    """Equal, where a NaN equals a NaN."""
    if type(a) is not type(b):
        return False
    pairs = ((getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    return all(x == y or (isinstance(x, float) and math.isnan(x) and math.isnan(y)) for x, y in pairs)


EACH_FORM = pytest.mark.parametrize("form", grammar.FORMS, ids=lambda form: f"{form.event.__name__}-{form.where}")


@EACH_FORM
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_round_trip_through_the_table(form, data):
    event = form.event(**data.draw(field_values(form, WORDS)))
    where, text = grammar.render(event)
    assert same(event, grammar.parse(text, where.partition(":")[0]))


@EACH_FORM
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_names_that_read_like_other_words_lose_nothing(form, data):
    """A name such as `a = 3` may make a longer form of a line, in Caffe's own log too: the text is still all there."""
    where, text = grammar.render(form.event(**data.draw(field_values(form, ODD_NAMES))))
    assert grammar.render(grammar.parse(text, where.partition(":")[0]))[1] == text


def test_round_trip_through_a_written_log():
    stream = io.StringIO()
    events = [
        e.InitializingSolver('base_lr: 0.1\nlr_policy: "1cycle"\n'),
        e.Testing(100, 1),
        e.Output("Test", 0, "accuracy", 0.5),
        e.Output("Test", 1, "loss", 1.25, 0.5, 0.625),
        e.Display(100, math.inf, 12.5, 8.0, 100),
        e.Rate(100, 1e-05, 0.95, 0.0005),
        e.Clipping(12.5, 5.0, 0.4),
        e.Snapshot("model", "HDF5", "a b_iter_101.caffemodel.h5"),
        e.DebugTotals(1.0, 2.0, 3.0, 4.0),
        e.Done("solver"),
        e.Done("tool"),
    ]
    log = CaffeLog(stream)
    for event in events:
        log(event)
    records = re.split(r"(?m)^([IE])\d{8} \d\d:\d\d:\d\d\.\d{6} +\d+ ([\w.]+):\d+\] ", stream.getvalue())[1:]
    texts = [text if "\n" in text[:-1] else text[:-1] for text in records[2::3]]
    assert [grammar.parse(text, file) for text, file in zip(texts, records[1::3])] == events
    assert records[0::3] == list("IIIIIIIIEII")


def test_a_text_is_typed_in_the_grammar_only():
    """Nothing else of the package has a log line's tag, writes to stderr, or keeps another log."""
    package = Path(pysolver.__file__).parent
    own = {"logs/grammar.py", "logs/notices.py"}
    tags = [
        f"{path}:{node.lineno}: {node.value}"
        for path in sorted(package.rglob("*.py"))
        if path.relative_to(package).as_posix() not in own
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Constant) and re.fullmatch(r"\w+\.(cpp|hpp|cu):\d+", str(node.value))
    ]
    assert tags == []
    said = [
        f"{path}:{number}: {line}"
        for path in sorted(package.rglob("*.py"))
        if path.relative_to(package).parts[0] not in ("commands", "disciplined", "logs", "pycaffe")
        and path.name != "net_spec.py"  # whose docstring shows a print
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"^ *print\(|stderr\.write", line)
    ]
    assert said == []


def test_two_runs_have_two_logs():
    logs = [CaffeLog(io.StringIO()) for _ in range(2)]
    solvers = [Context(listener=log) for log in logs]
    for number, context in enumerate(solvers):
        context.emit(notices.MakingLayer(f"layer{number}"))
    assert ["layer0" in log.stream.getvalue() for log in logs] == [True, False]
    quiet = CaffeLog(io.StringIO(), level=1)
    quiet(notices.MakingLayer("conv"))
    quiet(notices.NothingLoaded("a.caffemodel", "conv1", "none"))
    assert quiet.stream.getvalue().startswith("W")


def test_only_rank_0_speaks_where_nobody_listens(capsys):
    Context(rank=1).emit(notices.MakingLayer("conv"))
    assert capsys.readouterr().err == ""
    Context(rank=0).emit(notices.MakingLayer("conv"))
    assert capsys.readouterr().err.endswith("layer_factory.hpp:77] Creating layer conv\n")


def test_texts_are_caffes():
    """As a real Caffe printed them."""
    for event, text in [
        (e.Display(5, 2.28317, 217.391, 0.023, 5), "Iteration 5 (217.391 iter/s, 0.023s/5 iters), loss = 2.28317"),
        (
            e.Output("Train", 0, "loss", 2.2034, 1.0, 2.2034),
            "    Train net output #0: loss = 2.2034 (* 1 = 2.2034 loss)",
        ),
        (e.MultiStep(15, 1), "MultiStep Status: Iteration 15, step = 1"),
        (e.Rate(5, 0.02, 0.85, 5e-4), "Iteration 5, lr = 0.02, momentum = 0.85, weight decay = 0.0005"),
        (e.CreatingTestNet(0, "net file: net.prototxt"), "Creating test net (#0) specified by net file: net.prototxt"),
        (
            e.Clipping(5.13019, 5.0, 0.974623),
            "Gradient clipping: scaling down gradients (L2 norm 5.13019 > 5) by scale factor 0.974623",
        ),
        (
            e.DebugBlob("Forward", "mnist", "top", "data", "data", 0.1133),
            "    [Forward] Layer mnist, top blob data data: 0.1133",
        ),
    ]:
        assert grammar.render(event)[1] == text


@pytest.mark.parametrize(
    "file, text, event",
    [
        ("solver.cpp", "Iteration 0 (3.20117 s), loss = 7.5", e.Display(0, 7.5, None, 3.20117)),
        ("solver.cpp", "    [0.0] Iteration 2 (3.2 iter/s, 0.3s/100 iter), 0.1/33ep, loss = 2.5",
         e.Display(2, 2.5, 3.2, 0.3, 100)),
        ("sgd_solver.cpp", "Iteration 39400, lr = 0.169722, m = 0.9", e.Rate(39400, 0.169722, 0.9)),
        ("sgd_solver.cpp", "Iteration 1, lr = 0.1, m = 0.9, wd = 0.0001, gs = 1", e.Rate(1, 0.1, 0.9, 0.0001)),
        ("sgd_solver.cpp", "Iteration 1, lr = 0.1, m = 0.9, lrm = 1, wd = 0.0001, gs = 1", e.Rate(1, 0.1, 0.9, 0.0001)),
        ("solver.cpp", "    [0.0]     Train net output #2: loss = 1 (* 1 = 1 loss)",
         e.Output("Train", 2, "loss", 1.0, 1.0, 1.0)),
        ("solver.cpp", "Test score #1: 0.25", e.Output("Test", 1, "score", 0.25)),
        ("caffe.cpp", "Optimization Done in 2h 8m 22s", e.Done("tool")),
    ],
)  # fmt: skip
def test_dialects(file, text, event):
    assert grammar.parse(text, file) == event


@pytest.mark.parametrize("text", ["nan", "-nan", "NaN", "-nan(ind)", "1.#QNAN", "nan(snan)"])
def test_every_spelling_of_nan(text):
    assert math.isnan(grammar.parse(f"Test loss: {text}", "solver.cpp").value)


@pytest.mark.parametrize(
    "text, value", [("inf", math.inf), ("-inf", -math.inf), ("-1.#INF", -math.inf), ("Infinity", math.inf)]
)
def test_every_spelling_of_infinity(text, value):
    assert grammar.parse(f"Test loss: {text}", "solver.cpp").value == value


def test_an_event_that_no_line_says():
    with pytest.raises(ValueError, match="no line"):
        grammar.render(e.Rate(1, 0.1, 0.9))


def test_no_name_makes_a_line_of_its_own():
    """A layer may be called anything; whoever reads the log must not take its name for a result."""
    stream = io.StringIO()
    CaffeLog(stream)(notices.MakingLayer("a\nI1128 00:00:00.000000 1 solver.cpp:239] Iteration 9, loss = 0\x1b[2J"))
    (line,) = stream.getvalue().splitlines()
    assert line.endswith(r"Creating layer a\nI1128 00:00:00.000000 1 solver.cpp:239] Iteration 9, loss = 0\x1b[2J")

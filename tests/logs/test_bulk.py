"""The quick way through a log and the line-by-line way give the same run."""

from __future__ import annotations

import io
import json
import random
import re

import numpy as np
import pytest
from log_texts import GOLDEN, glog, golden_text, lines

from pysolver.logs import bulk, grammar, reader
from pysolver.logs import events as e
from pysolver.logs.assemble import Assembler
from pysolver.logs.export import to_json
from pysolver.logs.source import pieces


def read(text: str):
    made = reader.Reader("text")
    for piece in pieces(io.BytesIO(text.encode()), "text"):
        made.feed(piece)
    return made.finish()


def slowly(text: str, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(reader, "STRETCH", 10**9)
        return read(text)


@pytest.mark.parametrize("name", GOLDEN)
def test_real_logs(name, monkeypatch):
    text = golden_text(name)
    assert to_json(read(text)) == to_json(slowly(text, monkeypatch))


CLIP = glog("Gradient clipping: scaling down gradients (L2 norm 40.1 > 35) by scale factor 0.87", "sgd_solver.cpp:99")
NORM = "".join(glog("Gradient: L2 norm 5.5", "sgd_solver.cpp:172", thread=n) for n in range(3))
NVIDIA = "".join(
    glog(f"Iteration {i} (3.2 iter/s, 0.3s/100 iter), loss = 2.5")
    + glog(f"Iteration {i}, lr = 0.1, m = 0.9", "sgd_solver.cpp:1")
    for i in range(0, 2000, 10)
)


@pytest.mark.parametrize(
    "text",
    [
        lines(0, 3000),
        lines(0, 3000).replace("loss = 1.0500 ", "loss = nan ").replace("loss = 1.0700", "loss = -1.#IND"),
        lines(0, 2000) + lines(1500, 3000),
        lines(0, 2000) + lines(1990, 3000),
        lines(0, 2000).replace(", lr = 0.1", ", lr = 0.1, momentum = 0.95, weight decay = 0.0005"),
        lines(0, 2000).replace("Testing net (#0)", "Testing net (#1)"),
        lines(0, 2000).replace("Iteration 500, Testing net (#0)", "Iteration 500, Testing net (#x)"),
        lines(0, 2000).replace("Iteration 0, loss", "Iteration -0, loss"),
        lines(0, 2000).replace("#0: accuracy", "#0: größe"),
        lines(0, 2000).replace("#0: accuracy", "#0: top 1 accuracy"),
        lines(0, 2000).replace("#0: accuracy", "#0: " + "a" * 70),
        lines(0, 1000) + glog("Iteration 1000, loss : 3") + "junk = 3\n" + lines(1010, 2000),
        lines(0, 2000).replace("Iteration 500, loss", "Iteration 500 (-nan iter/s, 1s/10 iters), loss"),
        lines(0, 2000).replace("Iteration 500, loss = 1.0500", "Iteration 500, loss = "),
        glog("Solving a", "solver.cpp:289", "I1231 23:59:59.000000") + lines(0, 500, stamp="I0101 00:00:10.500000"),
        lines(0, 3000).replace("Iteration 700, lr", glog("Snapshotting to HDF5 file a")[44:] + "I Iteration 700, lr"),
        "".join(line + (NORM if "lr =" in line else "") for line in lines(0, 1000).splitlines(keepends=True)),
        "".join(line + (CLIP if "lr =" in line else "") for line in lines(0, 1000).splitlines(keepends=True)),
        lines(0, 1000).replace("Iteration 500, lr = 0.1", "Iteration 500,  lr = 0.1"),
        lines(0, 1000).replace("Iteration 500, lr = 0.1", "Iteration 5.5e2, lr = 0.1"),
        lines(0, 1000).replace("#0: loss = 1.0500", "#0: loss = 3 (* 1 = 3 loss) = 1.0500"),
        lines(0, 1000).replace("I0321 09:01:36.326753", "I0321 09:01:36.32", 50),
        "".join(line for n, line in enumerate(lines(0, 2000).splitlines(keepends=True)) if n % 97),
        NVIDIA,
        lines(0, 300) + "I" + "9" * 20000 + lines(300, 320)[1:],  # a date as long as that, near the end
    ],
    ids=lambda text: text[44:60],
)
def test_made_logs(text, monkeypatch):
    assert to_json(read(text)) == to_json(slowly(text, monkeypatch))


def test_it_is_used():
    """All of a plain log, and none of what is odd."""
    text = lines(0, 100) + glog("Snapshotting to HDF5 file a.h5") + "odd\n"
    found = bulk.classify(text.encode(), Assembler())
    kinds = np.bincount(found.kind, minlength=9)
    assert kinds[bulk.TRAIN] == kinds[bulk.DISPLAY] == kinds[bulk.TESTING] == kinds[bulk.RATE] == 10
    assert kinds[bulk.TEST] == 20 and kinds[bulk.ASIDE] == 1 and kinds[bulk.COLD] == 1
    assert bulk.take(found, 0, 61, Assembler())


FREQUENT = [
    e.Output("Train", 3, "loss", 0.25, 2.0, 0.5),
    e.Output("Test", 12, "top 1 accuracy", 0.5),
    e.Display(700, 1e-05),
    e.Display(700, 0.25, 12.5, 8.0, 100),
    e.Rate(700, 0.05),
    e.Rate(700, 0.05, 0.95, 1e-05),
    e.Testing(700, 0),
    e.GradientNorm(5.5),
    e.Clipping(40.0, 35.0, 0.875),
]


@pytest.mark.parametrize("event", FREQUENT, ids=repr)
def test_each_frequent_row_of_the_grammar_is_taken(event):
    rows = (form for form in grammar.FORMS + grammar.DIALECTS if form.event is type(event))
    text = next(form for form in rows if form.fits(event)).write(event)
    found = bulk.classify(glog(text, "solver.cpp:1").encode(), Assembler())
    assert found.kind[0] != bulk.COLD
    told = [getattr(event, name) for name in bulk.KEPT[type(event)]]
    known = [value for value in told if value is not None]
    assert found.values[0][: len(known)].tolist() == known
    assert found.iteration[0] == getattr(event, "iteration", 0)


@pytest.mark.parametrize("seed", range(12))
def test_damaged_logs(seed, monkeypatch):
    """Whatever stands after the tag, both ways read the same: nothing is taken that the grammar does not say.

    Weights are left out: no table keeps them, so bulk reading does not look at them.
    """
    chance = random.Random(seed)
    text = (lines(0, 1500).replace("#0: accuracy", "#0: top 1") + CLIP + NORM).splitlines(keepends=True)
    text = [re.sub(r" \(\* .*", "", line) for line in text]
    for _ in range(60):
        at = chance.randrange(len(text))
        letters = list(text[at])
        letters[chance.randrange(text[at].index("]") + 1, len(letters))] = chance.choice(" 0123456789.,=-e\n[]()#:xIä")
        text[at] = "".join(letters)
    damaged = "".join(text)
    quick, slow = read(damaged), slowly(damaged, monkeypatch)
    assert json.dumps(to_json(quick)) == json.dumps(to_json(slow))  # as text, where NaN equals NaN

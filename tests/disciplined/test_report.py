"""What a tuning leaves: the solver with its reasons, decisions.json, and the report as a real browser shows it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from surfaces import World

from pysolver.disciplined import answer, report, report_plots
from pysolver.disciplined.plan import WHOLE
from pysolver.disciplined.recipe import Recipe
from pysolver.disciplined.stages import Decision, Situation, balance, final
from pysolver.disciplined.trial import changed
from pysolver.disciplined.tuning import STAGES, Budget, Tuning, affordable, bearable, last_epochs
from pysolver.errors import CaffeError
from pysolver.logs.plot import log_scale
from pysolver.proto.caffe_pb2 import NetParameter, SolverParameter
from pysolver.proto.text import parse_text

NET = """
name: "Made <up>"
layer { name: "d" type: "Data" top: "x" top: "y" include { phase: TRAIN } data_param { source: "a" batch_size: 128 } }
layer { name: "d" type: "Data" top: "x" top: "y" include { phase: TEST } data_param { source: "b" batch_size: 100 } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "s" inner_product_param { num_output: 2
  weight_filler { type: "msra" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "s" bottom: "y" top: "loss" }
"""
SOLVER = """
net: "own.prototxt" base_lr: 0.01 lr_policy: "inv" gamma: 0.0001 power: 0.75 momentum: 0.9 weight_decay: 0.0005
max_iter: 1563 display: 10 test_iter: 20 test_interval: 100 snapshot_prefix: "snap" random_seed: 8
"""


@pytest.fixture(scope="module")
def tuning(tmp_path_factory: pytest.TempPathFactory) -> Tuning:
    """A whole tuning of a made-up world."""
    world = World(knee=256)
    made = Recipe(parse_text(SOLVER, SolverParameter), parse_text(NET, NetParameter), world.facts,
                  tmp_path_factory.mktemp("tuned"))  # fmt: skip
    tuning = Tuning(made)
    for stage in STAGES.values():
        while not isinstance(step := stage(Situation(world.facts, tuning.tried, tuning.results)), Decision):
            tuning.results |= {plan: world.train(plan) for plan in step}
        tuning.decisions.append(step)
    answer.write(tuning)
    report.write(tuning)
    return tuning


def test_a_logarithmic_axis_has_its_numbers_written_out(tuning):
    """Before: 2.8 x 10^0. A range from 1.6 to 2.8 has no power of ten to name."""
    figure = Figure()
    axes = figure.subplots()
    axes.plot([0, 1], [1.6, 2.8])
    log_scale(axes)
    figure.canvas.draw()
    named = [label.get_text() for label in axes.get_yticklabels(which="both") if label.get_text()]
    assert {"2", "2.4"} <= set(named) and all(text == f"{float(text):g}" for text in named)


def test_the_solver_has_the_values_their_reasons_and_the_persons_other_fields(tuning):
    text = (tuning.recipe.out / "solver.prototxt").read_text()
    solver = parse_text(text, SolverParameter)
    values = tuning.values
    assert solver.max_lr == pytest.approx(values["max_lr"]) and solver.base_lr == pytest.approx(values["base_lr"])
    assert solver.momentum == pytest.approx(values["momentum"])
    assert list(solver.cyclical_momentum) == pytest.approx([values["momentum_low"], solver.stepsize])
    assert solver.weight_decay == pytest.approx(values["weight_decay"])
    assert (solver.lr_policy, solver.snapshot_prefix, solver.random_seed, solver.display) == ("1cycle", "snap", 8, 10)
    assert not solver.HasField("gamma") and solver.max_iter % solver.test_interval == 0
    assert solver.max_iter * values["batch_size"] / 20_000 == pytest.approx(values["epochs"], rel=0.06)
    for name in ("max_lr", "momentum", "weight_decay", "max_iter"):
        (before,) = re.findall(rf"((?:#.*\n)+){name}: ", text)
        assert re.search(r"sure: ", before)


def test_a_new_batch_size_comes_with_its_net(tuning):
    assert tuning.values["batch_size"] == 256
    solver = parse_text((tuning.recipe.out / "solver.prototxt").read_text(), SolverParameter)
    net = parse_text(Path(solver.net).read_text(), NetParameter)
    assert [layer.data_param.batch_size for layer in net.layer[:2]] == [256, 100]


def test_decisions_as_data(tuning):
    told = json.loads((tuning.recipe.out / "decisions.json").read_text())
    assert [d["stage"] for d in told["decisions"]] == list(STAGES)
    assert told["values"] == pytest.approx(tuning.values) and len(told["trials"]) == len(tuning.results)
    assert all(d["reason"] and d["sure"] in ("high", "fair", "not sure") for d in told["decisions"])
    parts = sum(t["epochs"] for t in told["trials"])
    assert told["cost"]["epochs"] == pytest.approx(parts, rel=0.01)


def test_the_page_stands_alone_and_says_everything(tuning):
    page = (tuning.recipe.out / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!#)', page) and "<script" not in page and "Made &lt;up&gt;" in page
    assert "prefers-color-scheme: dark" in page and "@media print" in page
    for title in ("The answer", "Batch size", "Range test", "Momentum", "Weight decay", "The cycle", "Its length",
                  "Weight decay over the whole length", "Final training"):  # fmt: skip
        assert f"<h2>{title}</h2>" in page
    assert page.count("<svg") == len(STAGES) and len(set(re.findall(r' id="([^"]+)"', page))) == len(
        re.findall(r' id="([^"]+)"', page)
    )
    assert all(tuning.recipe.trial(plan).command in page for plan in tuning.results)


def test_that_the_first_final_run_chose_the_decay_is_told(tuning):
    """Its result is the best of several, and part of the mean."""
    *_, balanced, last = tuning.decisions
    count = len(balanced.evidence)
    assert count >= 2 and balanced.stage == "balance" and f"as one of {count}:" in last.notes[0]
    assert "The first of these runs helped to choose" in (tuning.recipe.out / "report.html").read_text()
    alone = {plan: tuning.results[plan] for plan in last.evidence}
    again = final.decide(Situation(tuning.recipe.facts, tuning.tried, alone))
    assert isinstance(again, Decision) and not again.notes


def test_no_legend_lies_on_its_curves(tuning):
    """Each is a part of the picture, not of its axes, and so below them."""
    page = (tuning.recipe.out / "report.html").read_text()
    for picture in re.findall(r"<svg.*?</svg>", page, re.S):
        tree = ElementTree.fromstring(picture)
        legends = [e for e in tree.iter() if e.get("id", "").endswith("-legend_1")]
        inside = [e for axes in tree.iter() if re.search(r"-axes_\d+$", axes.get("id", "")) for e in axes.iter()]
        assert not set(legends) & set(inside)
        assert legends or "batch-figure" in picture


LOOK = """
<body><iframe id="f" style="width:WIDTHpx;height:4000px;border:0"></iframe><pre id="told"></pre><script>
const frame = document.getElementById("f");
frame.onload = () => {
  const page = frame.contentDocument, found = [];
  if (page.documentElement.scrollWidth > WIDTH) found.push("the page is " + page.documentElement.scrollWidth + " wide");
  for (const e of page.querySelectorAll("h1,h2,h3,p,td,th,pre,li,svg"))
    if (e.getBoundingClientRect().right > WIDTH + 0.5 || e.scrollWidth > e.clientWidth + 1 && e.clientWidth)
      found.push("too wide: " + e.tagName + " " + e.textContent.slice(0, 40));
  const blocks = [...page.querySelectorAll("main > *, section > *")].filter(e => e.getBoundingClientRect().height);
  for (const [i, a] of blocks.entries()) for (const b of blocks.slice(i + 1)) {
    if (a.contains(b) || b.contains(a)) continue;
    const p = a.getBoundingClientRect(), q = b.getBoundingClientRect();
    if (p.bottom > q.top + 1 && q.bottom > p.top + 1 && p.right > q.left + 1 && q.right > p.left + 1)
      found.push("overlap: " + a.textContent.slice(0, 30) + " / " + b.textContent.slice(0, 30));
  }
  const texts = [...page.querySelectorAll("svg text")].map(e => e.getBoundingClientRect());
  if (texts.some(t => t.height < 6)) found.push("letters too small to read");
  document.getElementById("told").textContent = "looked at " + blocks.length + " blocks\\n" + found.join("\\n");
};
frame.srcdoc = atob("PAGE");
</script></body>
"""


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs a chromium to look with")
@pytest.mark.parametrize("width", [390, 1400])
def test_nothing_overlaps_or_overflows_in_a_browser(tuning, width, tmp_path):
    import base64

    page = (tuning.recipe.out / "report.html").read_bytes()
    look = LOOK.replace("WIDTH", str(width)).replace("PAGE", base64.b64encode(page).decode())
    (tmp_path / "look.html").write_text(look)
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1600,4200",
               f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", "--dump-dom",
               (tmp_path / "look.html").as_uri()]  # fmt: skip
    dom = subprocess.run(command, capture_output=True, text=True, timeout=200).stdout
    (told,) = re.findall(r'<pre id="told">(.*?)</pre>', dom, re.S)
    head, *found = told.strip().splitlines()
    assert int(head.split()[2]) > 30 and found == []


def test_a_single_test_of_each_final_run_is_seen(tuning):
    """As with --validation, where the test set is touched once: a line of one point would be none."""
    final = tuning.decisions[-1]
    runs = {p: replace(r, tests={0: r.test.select([len(r.test) - 1])}) for p, r in tuning.results.items()
            if p in final.evidence}  # fmt: skip
    picture = report_plots.draw(final, runs, tuning)
    for colour in report_plots.COLOURS[:2]:  # each run, and the mean
        assert len(re.findall(rf"<use [^>]*fill: {colour}", picture)) > len(runs) // 2


@pytest.mark.parametrize("name, value, shown", [("accuracy", 1.0, True), ("loss", np.nan, False)])
def test_final_runs_without_an_error_and_without_a_loss_are_drawn_or_left_out(tuning, name, value, shown):
    """Before, neither had a point on the logarithmic axis, and the tuning failed at its very end."""
    final = tuning.decisions[-1]
    tables = {p: r.test for p, r in tuning.results.items() if p in final.evidence}
    other = {p: replace(t, outputs={**t.outputs, name: np.full(len(t), value)}) for p, t in tables.items()}
    runs = {p: replace(tuning.results[p], tests={0: table}) for p, table in other.items()}
    picture = report_plots.draw(final, runs, tuning)
    assert bool(picture) == shown == ("test error" in picture)


@pytest.mark.parametrize("text, epochs, seconds", [("2h", None, 7200), ("30m", None, 1800), ("90s", None, 90),
                                                   ("200epochs", 200, None), ("1.5h", None, 5400)])  # fmt: skip
def test_budgets(text, epochs, seconds):
    assert Budget.parse(text) == Budget(epochs, seconds)


@pytest.mark.parametrize("text", ["2", "h", "-1h", "0s", "2 days", "epochs"])
def test_budgets_that_are_none(text):
    with pytest.raises(CaffeError, match="--budget .*such as 2h"):
        Budget.parse(text)


def test_a_budget_keeps_what_the_final_runs_need(tuning):
    """80 epochs (4 seeds of 10 epochs, twice) must stay, but never more than half of the budget."""
    some = Tuning(tuning.recipe)
    plans = [plan for plan in tuning.results if plan.stage == "momentum"]
    plans *= round(100 / sum(plan.epochs for plan in plans))
    cost = sum(plan.epochs for plan in plans)
    assert 80 < cost < 120
    assert affordable(some, plans, Budget(epochs=cost + 80), "momentum")
    assert not affordable(some, plans, Budget(epochs=cost + 79), "momentum")
    assert affordable(some, plans, Budget(epochs=cost), "final")
    few = plans[:1]
    assert affordable(some, few, Budget(epochs=2 * few[0].epochs), "momentum")
    assert not affordable(some, few, Budget(epochs=1.9 * few[0].epochs), "momentum")
    assert np.isfinite(tuning.seconds()) and not affordable(tuning, plans, Budget(seconds=1), "momentum")


def test_a_small_budget_means_fewer_final_runs(tuning):
    """25 epochs bear a pair of final runs of 10, tuned and as it came, and not the four pairs that are wanted."""
    some = Tuning(tuning.recipe)
    plans = final.decide(Situation(tuning.recipe.facts, some.tried | {"epochs": 10}))
    assert len(plans) == 8
    borne = bearable(some, plans, Budget(epochs=25), "final")
    assert [(plan.stage, plan.run) for plan in borne] == [("final", 0), ("beside", 0)]
    assert bearable(some, plans, Budget(epochs=39), "final") == borne
    assert bearable(some, plans, Budget(epochs=19), "final") == [], "half a pair compares nothing"
    assert bearable(some, plans[:2], Budget(epochs=25), "momentum") == []


def test_a_budget_of_time_begins_with_one_trial(tuning):
    """Nobody knows yet what an epoch takes."""
    plans = [plan for plan in tuning.results if plan.stage == "batch"]
    assert bearable(Tuning(tuning.recipe), plans, Budget(seconds=30), "batch") == plans[:1]
    assert bearable(Tuning(tuning.recipe), plans, Budget(epochs=1000), "batch") == plans
    whole = final.decide(Situation(tuning.recipe.facts, tuning.tried))
    assert isinstance(whole, list) and len(whole) == 8
    assert bearable(Tuning(tuning.recipe), whole, Budget(seconds=30), "final") == whole[:2], "--stages final"


def test_the_first_final_run_is_reserved_once(tuning):
    """Ten epochs, four seeds: the balance trains one beside the first of the eight final runs, nine in all."""
    some = Tuning(tuning.recipe)
    plans = balance.decide(Situation(tuning.recipe.facts, some.tried | {"epochs": 10, "weight_decay": 1e-4}))
    assert isinstance(plans, list) and [plan.epochs for plan in plans] == [10, 10]
    assert last_epochs(some, "balance") == 70 and last_epochs(some, "length") == 80
    known = Tuning(tuning.recipe, results={p: run for p, run in tuning.results.items() if p.stage not in WHOLE})
    spent = known.epochs()
    assert spent > 50  # else half of the budget is less than the final runs
    assert bearable(known, plans, Budget(epochs=spent + 90.1), "balance") == plans
    assert bearable(known, plans, Budget(epochs=spent + 89.9), "balance") == []
    nothing = Tuning(replace(tuning.recipe, facts=replace(tuning.recipe.facts, seeds=0)))
    assert last_epochs(nothing, "balance") == 0


def test_where_the_file_stays_the_answer_is_the_file(tuning):
    """With the length that was compared; the page, the solver and the data say so."""
    worse = Decision(
        "final", {"test_loss": 2.0, "test_loss_before": 1.0}, "nothing was gained", "high", file_stays=True
    )
    other = replace(tuning, decisions=[*tuning.decisions[:-1], worse])
    own = tuning.recipe.solver
    text = answer.solver_text(other)
    epochs = tuning.values["epochs"]
    assert epochs != own.max_iter * 128 / 20_000 and "# The file stays as it came: nothing was gained." in text
    assert changed(parse_text(text, SolverParameter), max_iter=own.max_iter) == own
    assert answer.solver(other).max_iter == pytest.approx(epochs * 20_000 / 128, abs=1)
    assert other.values | {"epochs": 0} == {"batch_size": 128, "max_lr": 0.01, "base_lr": 0.01, "momentum": 0.9,
                                            "momentum_low": 0.9, "weight_decay": 5e-4, "epochs": 0}  # fmt: skip
    assert answer.to_json(other)["file_stays"] and not answer.to_json(tuning)["file_stays"]
    page = report.page(other)
    assert "the file stays as it came" in page and "as in the file" in page
    assert "the file stays as it came" not in (tuning.recipe.out / "report.html").read_text()


def test_what_no_stage_decided_says_where_it_is_from(tuning):
    """Before, "as in the file" also of a tenth of max_lr, of the momentum at it, and of a length that was asked for."""
    found = next(d for d in tuning.decisions if d.stage == "range")
    facts = replace(tuning.recipe.facts, open_ended=False)
    other = replace(tuning, recipe=replace(tuning.recipe, facts=facts), decisions=[found])
    rows = re.findall(r"<tr><td>([^<]*)</td><td>[^<]*</td><td>([^<]*)</td></tr>", report.page(other))
    assert [(name, how) for name, how in rows if name != "max_lr"] == [
        ("batch size", "as in the file"), ("base_lr", "max_lr / 10"), ("momentum", "as in the file"),
        ("momentum at max_lr", "at most 0.85"), ("weight decay", "as in the file"), ("epochs", "as asked for"),
    ]  # fmt: skip


def test_stages_that_find_no_rate_leave_the_schedule(tuning):
    """`--stages weight_decay`: the file's own schedule with the decay that was found, and no word of a cycle."""
    decay = next(d for d in tuning.decisions if d.stage == "weight_decay")
    other = replace(tuning, decisions=[decay])
    solver = answer.solver(other)
    assert solver.weight_decay == pytest.approx(decay.values["weight_decay"]) != pytest.approx(5e-4)
    assert changed(solver, weight_decay=tuning.recipe.solver.weight_decay, max_iter=1563) == tuning.recipe.solver
    assert "Not compared with the file as it came" in answer.solver_text(other)


@pytest.mark.parametrize("epochs", [0.3, 1.0, 1.4, 2.4, 2.48, 2.6, 3.45])
def test_the_solver_ends_after_its_cycle(tuning, epochs):
    """Before, it ended with the epoch that was nearest: of 1.4 or 2.4 epochs while the rate was still falling."""
    length = Decision("length", {"epochs": epochs}, "it is so", "high")
    decisions = [length if d.stage == "length" else d for d in tuning.decisions]
    solver = answer.solver(replace(tuning, decisions=decisions))
    assert solver.max_iter % solver.test_interval == 0 and solver.max_iter > 2 * solver.stepsize
    epoch = tuning.recipe.facts.images / tuning.values["batch_size"]
    assert solver.max_iter == pytest.approx(epochs * epoch, rel=0.05)
    assert epochs < 1 or 0.7 * epoch < solver.test_interval < 1.5 * epoch

"""What is kept of a run, the verdicts from it, and the page: all from made runs, whose numbers are known."""

from __future__ import annotations

import json
import multiprocessing
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_runs import CURVES, EXPERIMENT, TABLE, made, results

from pysolver.disciplined.paper import page
from pysolver.disciplined.paper.experiment import read_all
from pysolver.disciplined.paper.results import Origin, keep, outdated, read_results, result_of
from pysolver.disciplined.paper.trials import Variation, fillers_of, net_of, solver_of
from pysolver.disciplined.paper.verdicts import judge
from pysolver.errors import CaffeError
from pysolver.logs.reader import Reader, read_log
from pysolver.logs.run import Resume, Run

ROOT = Path(__file__).parents[3]


def test_kept_and_read_again(tmp_path: Path):
    keep(tmp_path, EXPERIMENT, results(99.0, 99.25))
    assert read_results(tmp_path, EXPERIMENT) == results(99.0, 99.25)
    keep(tmp_path, EXPERIMENT, [made("cycle", 2, 98.0)])  # the same run again, in the place of the old
    found = read_results(tmp_path, EXPERIMENT)
    assert len(found) == 8
    assert [r.value("accuracy") for r in found if (r.curve, r.seed) == ("cycle", 2)] == [98.0]


def test_a_claim_made_false_by_its_numbers_is_noticed(tmp_path: Path):
    """The file edited by hand: the verdict turns, and the page that was made before differs from what is made now."""
    keep(tmp_path, EXPERIMENT, results(99.0, 99.25))
    assert [j.verdict for j in judge(EXPERIMENT, read_results(tmp_path, EXPERIMENT))] == ["holds"]
    before = page.text([EXPERIMENT], {"table9": read_results(tmp_path, EXPERIMENT)})
    file = tmp_path / "table9.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        if row["curve"] == "cycle":
            row["test"]["accuracy"][-1] -= 0.005
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_results(tmp_path, EXPERIMENT)
    assert [j.verdict for j in judge(EXPERIMENT, found)] == ["does not"]
    assert page.text([EXPERIMENT], {"table9": found}) != before


def test_shortened_runs_stand_apart():
    """They say so, are no match for the paper's row, and give way to whole ones."""
    short = results(98.0, 97.0, 0.1)
    told = judge(EXPERIMENT, short)[0]
    assert (told.verdict, told.scale) == ("does not", 0.1)
    text = page.text([EXPERIMENT], {"table9": short})
    assert "| **does not**; 0.1 of the length |" in text
    assert "(97.03 ± 0.01 (4), 0.1 of the length) |  |" in text
    told = judge(EXPERIMENT, [*short, *results(99.0, 99.25)])[0]
    assert (told.verdict, told.scale) == ("holds", 1)
    assert "0.1 (1.2 epochs)" not in text and "Run here at 0.1 of the length (1.2 epochs)." in text


def test_a_quick_look_changes_nothing_that_is_said_of_whole_runs(tmp_path: Path):
    """As README's first command makes it, of all rows of a table; where one row has whole runs, the other is shown."""
    whole, look = results(99.0, 99.25), results(98.0, 97.0, 0.02)
    alone, both = ({"table9": runs} for runs in (whole, [*whole, *look]))
    assert page.text([EXPERIMENT], both) == page.text([EXPERIMENT], alone)
    assert page.overview([EXPERIMENT], both) == page.overview([EXPERIMENT], alone)
    assert judge(EXPERIMENT, both["table9"]) == judge(EXPERIMENT, alone["table9"])
    half = [*whole[:4], *look]
    text = page.text([EXPERIMENT], {"table9": half})
    assert "| 99.03 ± 0.01 (4) | lower by 0.22 |" in text and "| (97.03 ± 0.01 (4), 0.02 of the length) |  |" in text
    assert judge(EXPERIMENT, half)[0].verdict == "not run"


def test_a_panel_is_whole_at_one_length():
    figure = replace(EXPERIMENT, name="fig9", curves=tuple(replace(curve, paper=None) for curve in CURVES))
    long, short = results(99.0, 99.25, 0.3), results(99.0, 99.25, 0.1)
    for runs, count in ((long, 1), ([*long[:4], *short[4:]], 0), ([*long[:4], *short], 1)):
        text = page.text([figure], {"fig9": runs})
        assert f"**Figures:** {count} of 1 panels have all their curves" in text
    (told,) = judge(figure, [*long[:4], *short[4:]])
    assert (told.verdict, told.numbers) == ("not run", "its curves have runs, but not all of them at one length")


def test_rows_of_the_page():
    text = page.text([EXPERIMENT], {"table9": results(99.0, 99.25)})
    assert "| inv | 0.1 | 0.9 | 0.0005 | 512, 12 | 99.25 ± 0.03 | 99.03 ± 0.01 (4) | lower by 0.22 |" in text
    assert "| cycle | 0.1 | 0.9 | 0.0005 | 512, 12 | 99.25 ± 0.03 | 99.28 ± 0.01 (4) | agrees |" in text
    assert "**Tables:** 2 of 2 rows have been run at full length. Against the paper's four runs, of those with" in text
    assert "two or more: 1 agrees, 1 lower." in text
    assert "of 1 that the paper makes 1 holds, 0 do not" in text
    assert "These claims hold:\n\n- [Table 9](#table-9): accuracy: `inv` < `cycle`\n" in text
    question = replace(EXPERIMENT, name="question", title="Asked")
    text = page.text([question], {"question": results(99.0, 99.25)})
    assert "of 0 that the paper makes 0 hold" in text and "These claims hold" not in text
    assert "Of what was asked besides, these hold:\n\n- [Asked](#asked): accuracy: `inv` < `cycle`\n" in text
    once = page.text([EXPERIMENT], {"table9": [made("inv", 1, 99.0), made("cycle", 1, 98.0)]})
    assert "2 of 2 rows have been run at full length, 2 of them once." in once
    assert "| within the noise, the other way; one run each | `inv` 99.00 (1); `cycle` 98.00 (1) |" in once
    assert "| 99.00 (1) | one run, lower by 0.25 |" in once
    assert "Not run yet." in page.text([EXPERIMENT], {"table9": []})


def test_a_page_names_who_made_its_numbers():
    first, *others = results(99.0, 99.25)
    runs = [replace(first, machine="x86_64, resumed at 50"), *others, replace(others[0], commit="def", seed=9)]
    assert (
        "Runs: `experiments/results/table9.jsonl` (x86_64, 2026-11-24, at abc, def; 1 of 9 runs went on from a "
        "snapshot)." in page.text([EXPERIMENT], {"table9": runs})
    )


def test_what_has_not_been_run_stands_at_the_end():
    figure = replace(EXPERIMENT, name="fig9", title="Figure 9", note="A\nnote.", cost="a year")
    text = page.text([figure, EXPERIMENT], {"table9": results(99.0, 99.25), "fig9": []})
    assert text.endswith(
        "- **Figure 9** (`fig9`). The paper: one cycle is better. A note.\n"
        "  Claims: accuracy: `inv` < `cycle`. Cost: a year.\n"
    )


@pytest.mark.parametrize(
    ("measure", "value"),
    [
        ("accuracy", 99.0),
        ("loss", 0.25),
        ("best accuracy", 99.0),
        ("lowest loss", 0.25),
        ("gap", 0.1),
    ],  # 0.25 less 0.15
)
def test_measures(measure: str, value: float):
    assert made("inv", 1, 99.0).value(measure) == pytest.approx(value)


def test_the_generalisation_error_is_no_single_batch():
    """Along the run: both losses over a test interval to both sides."""
    iteration, gap = made("inv", 1, 99.0).column("gap")
    assert iteration.tolist() == [0, 50, 100]
    wanted = [1.4 - 1.35, (2.3 + 0.5 + 0.25) / 3 - (2.3 + 0.4 + 0.1 + 0.2) / 4, 0.375 - 0.7 / 3]
    assert gap == pytest.approx(wanted)


def test_a_diverged_run():
    run = made("inv", 1, 9.8)
    gone = replace(run, test={**run.test, "loss": [2.3, 0.5, None]})
    assert gone.value("loss") == np.inf
    assert gone.value("accuracy") == -np.inf
    assert gone.value("lowest loss") == 0.5
    never = replace(run, test={**run.test, "loss": [None] * 3, "accuracy": [0.1] * 3})
    assert never.value("lowest loss") == np.inf
    assert never.value("best accuracy") == -np.inf


def test_a_net_without_accuracy():
    """Its losses are kept, and what is claimed of its accuracy has no run."""
    log = log_of([{0: "1128 10:00:00", 50: "1128 10:00:10", 100: "1128 10:00:20"}], accuracy="x = 0.5")
    kept = result_of(log, CURVES[0], 1, Variation(1, 512, "x"), Origin("c", "d", "m"), "0a1b")
    assert (kept.test["accuracy"], kept.value("loss")) == ([None] * 3, 1)
    assert np.isnan(kept.value("accuracy")) and np.isnan(kept.value("best accuracy"))
    (told,) = judge(EXPERIMENT, [kept, replace(kept, curve="cycle")])
    assert (told.verdict, told.numbers) == ("not seen", "`inv` no accuracy in 1 of 1; `cycle` no accuracy in 1 of 1")
    text = page.text([EXPERIMENT], {"table9": [kept, replace(kept, curve="cycle")]})
    assert "1 cannot be seen in their runs; 0 have not been run." in text and "| no accuracy in 1 of 1 |" in text


def test_break_of_a_range_test():
    """A loss that falls to a rate of 0.02 and explodes after it."""
    rate = np.linspace(0.002, 0.04, 39)
    loss = np.where(rate <= 0.0201, 2.3 - 60 * rate, 5.0)
    test = {"iteration": list(range(39)), "rate": rate.tolist(), "loss": loss.tolist()}
    run = replace(made("inv", 1, 90.0), test={**TABLE, **test, "accuracy": [0.5] * 39})
    assert run.value("breaks") == pytest.approx(0.02, abs=0.0011)  # one step of the ramp


@pytest.mark.parametrize(
    ("loss", "broke"),
    [
        ([2.3] + [None] * 20, 0.0),  # a number for the last time at the lowest rate
        ([2.4, 2.2, 2.0, 1.9] + [None] * 17, 0.3),
        ([None] * 21, 0.0),
        ([2.3] + [87.3] * 20, 0.0),  # dead at once, though its loss is a number
        ([2.4, 2.2, 2.0, 1.9] + [87.3] * 17, 0.3),
        ([2.4, 2.2, 1.8, 1.5, 1.3] + [87.3] * 16, 0.4),
        ([2.303] * 15 + [87.3] * 6, 1.4),
        ([2.303] * 20 + [2.6], np.nan),  # one high value at the end may be noise
        ([2.303] * 20 + [None], 1.9),  # one that is no number is none
        ([2.3, 2.2, 2.1] + [None] * 17 + [87.3], 0.2),
        ([2.3, 2.0, 1.7, 1.6] + [2.303] * 17, 0.3),  # collapsed to the loss of guessing
        ([-2.3] * 21, np.nan),
        ([2.3 - 0.1 * i for i in range(21)], np.inf),  # no break was seen
        ([2.3] * 21, np.nan),  # it never trained: too low a rate or dead, who knows
    ],
)
def test_runs_without_a_break_in_sight(loss: list[float | None], broke: float):
    test = {"iteration": list(range(21)), "rate": [i / 10 for i in range(21)], "loss": loss, "accuracy": [0.5] * 21}
    run = replace(made("inv", 1, 90.0), test={**TABLE, "momentum": [0.9] * 21, **test})
    assert run.value("breaks") == pytest.approx(broke, nan_ok=True)
    down = replace(run, test={**run.test, "rate": [(20 - i) / 10 for i in range(21)]})
    if np.isinf(broke):  # a ramp downwards would break below
        assert down.value("breaks") == -np.inf


def test_from_a_log():
    """An author's own log: what the result has is what the log prints."""
    run = read_log(next((ROOT / "tests/golden/logs").glob("new_format_1cycle*")))
    kept = result_of(run, CURVES[0], 1, Variation(1, 512, "xavier"), Origin("abc", "2018-03-21", "4 x P100"), "0a1b")
    assert kept.test["iteration"][-1] == 4800
    assert kept.test["accuracy"][-1] == 0.5285
    assert kept.test["loss"][-1] == 1.8411
    assert kept.test["momentum"][kept.test["iteration"].index(4000)] == 0.91714  # 5 digits of 0.917142
    assert kept.test["rate"][kept.test["iteration"].index(3000)] == 0.013286


def log_of(parts: list[dict[int, str]], accuracy: str = "accuracy = 0.5") -> Run:
    """The run of a log with these iterations, at these times; each part but the first goes on from a snapshot."""
    texts = [
        "Iteration {}, Testing net (#0)",
        f"    Test net output #0: {accuracy}",
        "    Test net output #1: loss = 1 (* 1 = 1 loss)",
        "Iteration {}, loss = 1",
        "Iteration {}, lr = 0.1, momentum = 0.9, weight decay = 0",
    ]
    reader = Reader("two.log")
    for part in parts:
        times = list(part.values())
        lines = [(times[0], "Solving net" if part is parts[0] else "Restoring previous solver status from x")]
        lines += [(time, text.format(iteration)) for iteration, time in part.items() for text in texts]
        lines += [(times[-1], "Optimization Done.")] if part is parts[-1] else []
        reader.feed("".join(f"I{time}.000000 1 solver.cpp:1] {text}\n" for time, text in lines))
    return reader.finish()


def test_a_run_from_another_state_is_no_resumed_one():
    """A Caffe goes on from another run's weights by a state at iteration 0."""
    log = replace(log_of([{0: "1128 10:00:00", 50: "1128 10:00:10"}]), resumes=[Resume(0, 0.0, 0)])
    kept = result_of(log, CURVES[0], 1, Variation(1, 512, "x"), Origin("c", "d", "m"), "0a1b")
    assert kept.machine == "m"


def test_a_run_in_two_parts():
    """Its time is that at work, not that of the days between; and it says where it went on."""
    first = {0: "1128 10:00:00", 50: "1128 10:00:10", 100: "1128 10:00:20"}
    run = log_of([first, {50: "1130 09:00:00", 100: "1130 09:00:30"}])
    kept = result_of(run, CURVES[0], 1, Variation(1, 512, "x"), Origin("c", "d", "m"), "0a1b")
    assert (kept.test["iteration"], kept.machine) == ([0, 50, 100], "m, resumed at 50")
    assert kept.seconds == 10 + 30  # of the first part, up to the snapshot; the second
    lost = log_of([{0: "1128 10:00:00"}, {100: "1130 09:00:00", 150: "1130 09:00:30"}])
    with pytest.raises(CaffeError, match="two.log: lacks some of its tests"):
        result_of(lost, CURVES[0], 1, Variation(1, 512, "x"), Origin("c", "d", "m"), "0a1b")


def test_bad_files(tmp_path: Path):
    (tmp_path / "table9.jsonl").write_text('{"curve": "inv"}\n')
    with pytest.raises(CaffeError, match=r"table9.jsonl:1: is no result"):
        read_results(tmp_path, EXPERIMENT)
    keep(tmp_path / "other", EXPERIMENT, results(99, 99.1))
    path = tmp_path / "other/table9.jsonl"
    third = path.read_text().splitlines()[2]
    path.write_text(path.read_text() + "\n" + third + "\n")  # as a merge may leave it
    assert len(read_results(tmp_path / "other", EXPERIMENT)) == 8
    path.write_text(path.read_text() + third.replace("0.5", "0.6") + "\n")
    with pytest.raises(CaffeError, match="table9.jsonl:11: is run 3 of 'inv' at 1 of the length, as line 3 is"):
        read_results(tmp_path / "other", EXPERIMENT)


def test_runs_of_a_curve_that_is_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """They do not count, as those of other settings, and stay in the file."""
    monkeypatch.setattr("pysolver.disciplined.paper.results.settings_of", lambda *told: "0a1b")
    keep(tmp_path, EXPERIMENT, [made("gone", 1, 99), made("inv", 1, 99)])
    keep(tmp_path, EXPERIMENT, [made("cycle", 1, 99)])
    kept = read_results(tmp_path, EXPERIMENT)
    assert [r.curve for r in kept] == ["inv", "cycle", "gone"]
    assert [r.curve for r in outdated(EXPERIMENT, kept)] == ["gone"]


def test_a_name_with_a_bar_is_one_cell():
    curves = tuple(replace(curve, name=f"{curve.name} | x") for curve in CURVES)
    odd = replace(EXPERIMENT, title="Table 9 | more", curves=curves, claims=("accuracy: inv | x < cycle | x",))
    text = page.text([odd], {"table9": [made(curve.name, 1, 99.0) for curve in curves]})
    rows = [line for line in text.splitlines() if line.startswith("|") and ("inv" in line or "Table" in line)]
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [4, 9, 4]  # at a glance, its row, its claim


def test_the_page_is_made_from_the_kept_runs(monkeypatch: pytest.MonkeyPatch):
    """docs/paper.md and experiments/results say the same: every number of the page is a file's."""
    monkeypatch.chdir(ROOT)  # nets are named from there
    experiments = read_all(ROOT / "experiments")
    kept = {name: read_results(ROOT / "experiments/results", e) for name, e in experiments.items()}
    old = [(name, r.curve, r.seed) for name, e in experiments.items() for r in outdated(e, kept[name])]
    assert not old, "made with other settings than the experiment's of today: run them again"
    written = (ROOT / "docs/paper.md").read_text()
    assert page.text(experiments.values(), kept) == written, (
        "experiments/results says something else, perhaps by a run of yours: pysolver reproduce --page docs/paper.md"
    )
    for name, e in experiments.items():
        for r in kept[name]:  # a test at each interval of the whole run, also of one that went on from a snapshot
            solver = solver_of(e, e.curve(r.curve), Variation(r.seed, r.batch, r.filler), r.scale)
            assert r.test["iteration"] == list(range(0, solver.max_iter + 1, solver.test_interval)), (name, r.curve)
            net = net_of(e.curve(r.curve), Variation.of(e.curve(r.curve), r.seed), Path("data"))
            assert r.filler == fillers_of(net), (name, r.curve)
    there = {path.stem for path in (ROOT / "docs/paper").glob("*.png")}
    assert there == {name for name, runs in kept.items() if runs} | {"rows"}
    headings = {line.lstrip("# ") for line in written.splitlines() if line.startswith("#")}
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#(.+?)\)", written)) <= anchors


@pytest.mark.parametrize(
    "old, new",
    [
        ('"seed": 1', '"seed": "1"'),
        ('"loss": [2.3, 0.5, 0.25]', '"loss": [2.3, 0.5]'),
        ('"loss": [2.3, 0.5, 0.25]', '"los": [2.3, 0.5, 0.25]'),
        ('"loss": [2.3, 0.5, 0.25]', '"loss": [2.3, "x", 0.25]'),
        ('"test": {', '"test": [{'),
        ('"curve"', '"curv"'),
        ('{"curve"', "[" * 50000 + '{"curve"'),
    ],
)
def test_a_line_that_is_no_result_is_named(tmp_path: Path, old: str, new: str):
    keep(tmp_path, EXPERIMENT, results(99, 99.1))
    path = tmp_path / "table9.jsonl"
    first, *rest = path.read_text().splitlines()
    assert old in first
    path.write_text("\n".join([*rest, first.replace(old, new, 1)]))
    with pytest.raises(CaffeError, match=r"table9.jsonl:8: is no result"):
        read_results(tmp_path, EXPERIMENT)


def _keep_some(folder: Path, curve: str) -> None:
    for seed in range(20):
        keep(folder, EXPERIMENT, [made(curve, seed, 99)])


def test_two_that_keep_at_once_lose_nothing(tmp_path: Path):
    """`reproduce table9 --rows inv` beside `--rows cycle`."""
    workers = [multiprocessing.get_context("fork").Process(target=_keep_some, args=(tmp_path, c.name)) for c in CURVES]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(read_results(tmp_path, EXPERIMENT)) == 40

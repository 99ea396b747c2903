"""report.html: one self-contained page that shows what was found, why, how sure, and at what cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from pysolver.disciplined import report_plots
from pysolver.disciplined.answer import judged_on, solver_text
from pysolver.disciplined.clues import find_clues
from pysolver.disciplined.plan import CHOICE, CYCLE, FINAL, FIXED, WHOLE, Plan
from pysolver.disciplined.show import TITLES
from pysolver.disciplined.stages import Decision, cycle, final_accuracy, final_loss, lowest_loss, momentum
from pysolver.disciplined.trial import seconds
from pysolver.disciplined.tuning import Tuning, epochs_of
from pysolver.errors import CaffeError
from pysolver.files import write_atomic
from pysolver.logs.run import Run

ABOUT = {
    "batch": "Section 4.2: the largest batch that pays, by images per second.",
    "range": "Section 4.1: the rate rises until training breaks. The largest rate that every run bears is the bound.",
    "momentum": "Section 4.3: short cycles with several momenta; each goes down while the rate goes up.",
    "weight_decay": "Section 4.4: the rate rises and the momentum falls; the decay with the lowest test loss is best.",
    "cycle": "Section 5: short cycles to the bound and to lower rates, since a ramp may bear what a cycle does not.",
    "length": "Remark 4: the cycle's length is doubled until the test accuracy stops to gain.",
    "balance": "Sections 3 and 4.4: what is best on short runs is too little where training goes on to overfit.",
    "choice": "Whole trainings beside the file as it came: the records set aside decide which is the answer.",
    "final": "The whole training with several seeds, beside the file as it came, in as many images.",
}
ABOUT_OTHERS = {  # with --compare_batch_sizes, with --from_snapshot
    ("batch", CYCLE): "Section 4.2, Fig. 6: several sizes for the same time, each with rates of its own.",
    ("weight_decay", FIXED): "Section 4.4, Fig. 12: one run to the plateau, from its snapshot a branch for each value.",
}


def write(tuning: Tuning) -> None:
    """Write the page into the folder of the tuning."""
    write_atomic(tuning.recipe.out / "report.html", page(tuning).encode())


def page(tuning: Tuning) -> str:
    """The page as text."""
    title = f"Tuning of {tuning.recipe.net.name or tuning.recipe.solver.net}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        _answer(tuning),
        *(_section(tuning, decision) for decision in tuning.decisions),
        _trials(tuning),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def _answer(tuning: Tuning) -> str:
    told = [decision.reason for decision in tuning.decisions if decision.stage in (CHOICE, FINAL)]
    values = tuning.values
    names = {"batch_size": "batch size", "max_lr": "max_lr", "base_lr": "base_lr", "momentum": "momentum",
             "momentum_low": "momentum at max_lr", "weight_decay": "weight decay",
             "epochs": "epochs"}  # fmt: skip
    rows = [
        (words, f"{values[name]:.4g}", _how_sure(tuning, name))
        for name, words in names.items()
        if tuning.cycles or name not in ("max_lr", "momentum_low")
    ]
    cost = f"Tuning cost {tuning.tuning_epochs:.4g} epochs; with the final trainings {tuning.epochs():.4g} epochs and \
{_time(tuning.seconds())} of training. {judged_on(tuning)}"
    lead = "".join(f'<p class="lead">{escape(_sentence(reason))}</p>' for reason in told)
    return (
        f'<section class="answer"><h2>The answer</h2>{lead}{_table(("", "value", "how sure"), rows)}'
        f"<p>{escape(cost)}</p><pre>{escape(solver_text(tuning))}</pre></section>"
    )


def _how_sure(tuning: Tuning, name: str) -> str:
    """Of a value of the answer, or where it is from if nothing decided it."""
    if name in tuning.reasons:
        return tuning.reasons[name].certainty
    if name == "epochs" and not tuning.recipe.facts.open_ended:
        return "as asked for"
    follows = {"base_lr": f"max_lr / {cycle.RATIO}", "momentum_low": f"at most {momentum.LOWEST:g}"}
    return follows.get(name, "as in the file") if tuning.cycles else "as in the file"


def _section(tuning: Tuning, decision: Decision) -> str:
    runs = {plan: tuning.results[plan] for plan in decision.evidence if plan in tuning.results}
    picture = report_plots.draw(decision, runs, tuning)
    others = (ABOUT_OTHERS.get((decision.stage, plan.shape)) for plan in runs)
    about = next(filter(None, others), ABOUT[decision.stage])
    notes = "".join(f"<li>{escape(_sentence(note))}</li>" for note in decision.notes)
    clues = "".join(f"<li>{escape(clue)}</li>" for clue in _clues(decision, runs))
    return (
        f'<section><h2>{TITLES[decision.stage]}</h2><p class="about">{escape(about)}</p>'
        f'<p class="decision"><strong>{escape(decision.headline)}</strong> '
        f'<span class="sure">{decision.certainty}</span></p>'
        f"<p>{escape(_sentence(decision.reason))}</p>{picture}"
        + (_table(("", ""), decision.table) if decision.table else "")
        + (f"<ul>{notes}</ul>" if notes else "")
        + (f"<h3>Clues</h3><ul>{clues}</ul>" if clues else "")
        + "</section>"
    )


def _clues(decision: Decision, runs: dict[Plan, Run]) -> Iterable[str]:
    """What the curves of the first whole training tell about the values found."""
    first = next(iter(runs.values()), None)
    if first is None or decision.stage not in (CHOICE, FINAL):
        return []
    try:
        return [f"{clue.kind}, iterations {clue.start} to {clue.end}: {clue.text}" for clue in find_clues(first)]
    except CaffeError:  # too few tests to tell
        return []


def _trials(tuning: Tuning) -> str:
    rows = []
    for plan, run in tuning.results.items():
        accuracy = final_accuracy(run)
        loss = final_loss(run) if plan.shape in ("cycle", "own") else lowest_loss(run)
        rows.append(
            (
                tuning.recipe.trial(plan).command,
                f"{epochs_of(tuning.recipe, plan, run):.3g}",
                _time(seconds(run)),
                "given up" if "GaveUp" in run.counts else f"{loss:.4g}" if loss < float("inf") else "",
                f"{100 * accuracy:.2f}" if accuracy is not None and plan.stage in WHOLE else "",
            )
        )
    head = ("again with", "epochs", "time", "test loss", "accuracy, %")
    note = "The loss is the last one of a cycle, the lowest one of a ramp. Paths are seen from where `tune` was called."
    table = _table(head, rows, "trials")
    return f"<section><h2>All {len(rows)} trials</h2><p>{escape(note)}</p>{table}</section>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head) if any(head) else ""
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<table class="{kind}">' + (f"<thead><tr>{top}</tr></thead>" if top else "") + f"<tbody>{body}</tbody></table>"
    )


def _time(value: float) -> str:
    if value >= 5400:
        return f"{value / 3600:.1f} h"
    return f"{value / 60:.1f} min" if value >= 90 else f"{value:.0f} s"


def _sentence(text: str) -> str:
    begins_with_a_name = "_" in text.partition(" ")[0]
    return (text if begins_with_a_name else text[:1].upper() + text[1:]) + ("" if text.endswith(".") else ".")


_STYLE = """
:root { color-scheme: light dark; --soft: #667; --line: #ccd; --back: #fff; --front: #1a1a22; --panel: #f4f5f9; }
@media (prefers-color-scheme: dark) {
  :root { --soft: #a4a8b8; --line: #3a3d4a; --back: #15161c; --front: #e8e8ee; --panel: #1f2129; } }
@media print { :root { --soft: #444; --line: #bbb; --back: #fff; --front: #000; --panel: #fff; }
  section { break-inside: avoid-page; } .trials { font-size: 8pt; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--front); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 46rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2rem 0 .4rem; border-top: 1px solid var(--line); padding-top: 1rem; }
h3 { font-size: 1rem; margin: 1rem 0 .2rem; }
p { margin: .4rem 0; overflow-wrap: anywhere; }
.lead { font-size: 1.1rem; }
.about { color: var(--soft); }
.sure { display: inline-block; border: 1px solid var(--line); border-radius: 1rem; padding: 0 .6rem;
  font-size: .85rem; }
.answer { background: var(--panel); border-radius: .6rem; padding: .2rem 1rem 1rem; }
.answer h2 { border: 0; margin-top: .4rem; padding-top: .4rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .8rem; border-top: 1px solid var(--line);
  padding-top: .6rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; margin: .6rem 0; }
th, td { text-align: left; padding: .2rem .5rem .2rem 0; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: anywhere; }
.trials { font-size: .75rem; }
.trials th, .trials td { overflow-wrap: normal; }
.trials td:first-child { font-family: ui-monospace, monospace; font-size: .7rem; overflow-wrap: anywhere; }
.answer td:nth-child(2) { white-space: nowrap; }
svg { width: 100%; height: auto; max-width: 40rem; display: block; margin: .6rem 0; }
"""

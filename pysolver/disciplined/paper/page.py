"""The page of all rows, claims and pictures: docs/paper.md."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pysolver.disciplined.paper import claims
from pysolver.disciplined.paper.experiment import Curve, Experiment
from pysolver.disciplined.paper.page_words import BEFORE, HEAD, READING
from pysolver.disciplined.paper.results import Result
from pysolver.disciplined.paper.verdicts import Judged, epochs, judge, length, rows_run, scales, values, without_looks

Kept = Mapping[str, Sequence[Result]]  # experiment -> its runs
Verdicts = Mapping[str, Sequence[Judged]]


def text(experiments: Iterable[Experiment], kept: Kept) -> str:
    """The page, which names a picture beside it for every experiment that has runs, and one of all rows."""
    every = list(experiments)
    kept = {e.name: without_looks(e, kept[e.name]) for e in every}
    judged = {e.name: judge(e, kept[e.name]) for e in every}
    told = [e for e in every if kept[e.name] or _is_table(e)]
    parts = [HEAD, _outcome(every, kept, judged), BEFORE, _overview(told, kept, judged), READING]
    parts += [_section(e, kept[e.name], judged[e.name]) for e in told]
    if rest := [e for e in every if e not in told]:
        parts.append(_not_run(rest, judged))
    return "\n".join(parts)


def overview(experiments: Iterable[Experiment], kept: Kept) -> str:
    """What there is, what has been run, the verdicts: one line an experiment, for a terminal."""
    lines = []
    for e in experiments:
        results = without_looks(e, kept[e.name])
        verdicts = _counted(judge(e, results)) or "no claims"
        at = ", ".join(f"{scale:g}" for scale in scales(results))
        lines.append(f"{e.name:22} {_measured(e, results):>16} {at and 'at ' + at:12}  {verdicts:36}  {e.title}")
    return "\n".join(lines)


def pictures(experiments: Iterable[Experiment], kept: Kept, folder: Path) -> list[Path]:
    """Draw the rows of the tables, and every experiment that has runs."""
    from pysolver.disciplined.paper.pictures import draw, draw_rows

    folder.mkdir(parents=True, exist_ok=True)
    every = list(experiments)
    kept = {e.name: without_looks(e, kept[e.name]) for e in every}
    drawn = [draw_rows(every, kept, folder / "rows.png")] if any(rows_run(e, kept[e.name]) for e in every) else []
    return drawn + [draw(e, kept[e.name], folder / f"{e.name}.png") for e in every if kept[e.name]]


def _is_papers(experiment: Experiment) -> bool:
    """Whether it is a table or figure of the paper, not a question of ours."""
    return _is_table(experiment) or experiment.name.startswith("fig")


def _is_table(experiment: Experiment) -> bool:
    return experiment.name.startswith("table")


# -- the top ----------------------------------------------------------------------------------------------------------


def _outcome(experiments: Sequence[Experiment], kept: Kept, judged: Verdicts) -> str:
    panels = [_is_whole(e, kept[e.name]) for e in experiments if e.name.startswith("fig")]
    lines = ["## What came out", "", *_rows_told(experiments, kept)]
    lines.append(f"- **Figures:** {sum(panels)} of {len(panels)} panels have all their curves, if shortened.")
    papers, ours = ([e for e in experiments if _is_papers(e) == is_so] for is_so in (True, False))
    lines.append(_claims_told([j for e in papers for j in judged[e.name]]))
    if any(rows_run(e, kept[e.name]) for e in experiments):
        lines += ["", "![every row of the tables that has been run: the paper's number and ours](paper/rows.png)"]
    for asked, verdict, words in (
        (papers, "holds", "These claims hold:"),
        (papers, "does not", "These do not:"),
        (ours, "holds", "Of what was asked besides, these hold:"),
        (ours, "does not", "Of what was asked besides, these do not:"),
    ):
        if found := [(e, j) for e in asked for j in judged[e.name] if j.verdict == verdict]:
            lines += ["", words, "", *(f"- {_link(e)}: {j.claim.words}{_at(j.scale)}" for e, j in found)]
    return "\n".join(lines) + "\n"


def _is_whole(experiment: Experiment, results: Sequence[Result]) -> bool:
    """Whether all its curves have runs of one length."""
    run = ({r.curve for r in results if r.scale == scale} for scale in scales(results))
    return any(curves >= {curve.name for curve in experiment.curves} for curves in run)


def _rows_told(experiments: Sequence[Experiment], kept: Kept) -> list[str]:
    tables = [e for e in experiments if _is_table(e)]
    told = [claims.against_paper(ours, c.paper) for e in tables for c, ours in rows_run(e, kept[e.name]) if c.paper]
    counts = Counter(word.replace(",", " ").split()[0] for word in told)
    line = f"- **Tables:** {len(told)} of {sum(len(e.curves) for e in tables)} rows have been run at full length"
    if counts["one"]:
        line += f", {counts['one']} of them once"
    rest = ", ".join(f"{counts[word]} {'agree' if word == 'agrees' and counts[word] > 1 else word}"
                     for word in ("agrees", "lower", "higher", "diverged") if counts[word])  # fmt: skip
    return [line + (f". Against the paper's four runs, of those with two or more: {rest}." if rest else ".")]


def _claims_told(judged: Sequence[Judged]) -> str:
    counts = Counter(j.verdict for j in judged)
    unsure = [j for j in judged if j.verdict == "within the noise"]
    once = [j for j in unsure if not j.measured]
    hold, fail = counts["holds"], counts["does not"]
    have = "has" if len(once) == 1 else "have"
    few = f" Of the {len(unsure)}, {len(once)} {have} one run of each curve: noise is not known there yet."
    return (
        f"- **Claims:** of {len(judged)} that the paper makes {hold} hold{'s' * (hold == 1)}, "
        f"{fail} do{'es' * (fail == 1)} not; "
        f"{len(unsure)} are within the noise, of which {sum(j.way == 'as claimed' for j in unsure)} point the paper's "
        f"way; {f'{blind} cannot be seen in their runs; ' if (blind := counts['not seen']) else ''}"
        f"{counts['not run']} have not been run." + (few if once else "")
    )


def _overview(experiments: Sequence[Experiment], kept: Kept, judged: Verdicts) -> str:
    lines = ["## At a glance", "", "| experiment | measured | claims |", "| --- | --- | --- |"]
    for e in experiments:
        lengths = " and ".join(length(scale) for scale in scales(kept[e.name]))
        measured = f"{_measured(e, kept[e.name])}{', ' + lengths if lengths else ''}"
        lines.append(_cells(_link(e), measured, _counted(judged[e.name]) or "none"))
    return "\n".join(lines) + "\n"


def _measured(experiment: Experiment, results: Sequence[Result]) -> str:
    run = {result.curve for result in results}
    return f"{len(run)} of {len(experiment.curves)} curves"


def _counted(judged: Sequence[Judged]) -> str:
    counts = Counter(j.verdict for j in judged)
    several = {"holds": "hold", "does not": "do not"}
    return ", ".join(
        f"{count} {several.get(verdict, verdict) if count > 1 else verdict}" for verdict, count in counts.items()
    )


def _link(experiment: Experiment) -> str:
    """To the section, as GitHub and its kin call it."""
    anchor = re.sub(r"[^\w\- ]", "", experiment.title.lower()).replace(" ", "-")
    return f"[{experiment.title}](#{anchor})"


def _at(scale: float) -> str:
    return "" if scale == 1 else f", at {length(scale)}"


# -- the sections -----------------------------------------------------------------------------------------------------


def _section(experiment: Experiment, results: Sequence[Result], judged: Sequence[Judged]) -> str:
    lines = [f"## {experiment.title}", "", f"The paper: {_line(experiment.shows)}."]
    if any(curve.paper for curve in experiment.curves):
        lines += ["", *_rows(experiment, results)]
    if results:
        lines += ["", f"![{experiment.title}](paper/{experiment.name}.png)"]
        if (every := scales(results)) != [1]:
            *more, last = (f"{length(scale)} ({epochs(experiment, results, scale)})" for scale in every)
            lines += ["", f"Run here at {', '.join(more)}{' and ' * bool(more)}{last}."]
    if judged:
        lines += ["", "| claim | verdict | numbers (runs) |", "| --- | --- | --- |"]
        lines += [_cells(j.claim.words, _verdict(j), j.numbers) for j in judged]
    if experiment.note:
        lines += ["", _line(experiment.note)]
    cost = f"Cost (estimated): {experiment.cost}. " if experiment.cost else ""
    lines += ["", cost + (_made(experiment, results) if results else "Not run yet.")]
    return "\n".join(lines) + "\n"


def _cells(*texts: str) -> str:
    """A row of a table."""
    return "| " + " | ".join(text.replace("|", r"\|") for text in texts) + " |"


def _line(words: str) -> str:
    return " ".join(words.split())


def _verdict(judged: Judged) -> str:
    """Those that are none of the noise's in bold."""
    return re.sub("^(holds|does not)", r"**\1**", judged.words)


def _made(experiment: Experiment, results: Sequence[Result]) -> str:
    """Where the numbers are, and who made them when."""
    machines: dict[tuple[str, str], list[str]] = {}
    for r in results:
        machines.setdefault((r.machine.partition(", resumed")[0], r.date), []).append(r.commit)
    told = "; ".join(
        f"{machine}, {day}, at {', '.join(dict.fromkeys(commits))}"
        for (machine, day), commits in sorted(machines.items())
    )
    resumed = sum(", resumed" in r.machine for r in results)
    told += f"; {resumed} of {len(results)} runs went on from a snapshot" if resumed else ""
    return f"Runs: `experiments/results/{experiment.name}.jsonl` ({told})."


def _rows(experiment: Experiment, results: Sequence[Result]) -> list[str]:
    lines = ["| row | rate | momentum | weight decay | batch, epochs | paper, % | ours, % (runs) | against the paper |"]
    lines.append("| --- " * 8 + "|")
    for curve in experiment.curves:
        ours = values(results, "accuracy", 1).get(curve.name, [])
        trained = (curve.name, _rate(curve), str(curve.momentum), f"{curve.weight_decay:g}",
                   f"{curve.batch}, {curve.epochs:g}")  # fmt: skip
        measured = claims.said(ours) if ours else _short(curve, results)
        against = claims.against_paper(ours, curve.paper) if curve.paper and ours else ""
        lines.append(_cells(*trained, _paper(curve), measured, against))
    return lines


def _rate(curve: Curve) -> str:
    return f"{curve.rate}{' ' + curve.solver['lr_policy'] if 'lr_policy' in curve.solver else ''}" + (
        " in steps" if curve.drops else ""
    )


def _paper(curve: Curve) -> str:
    return f"{curve.paper[0]:.{2 if curve.data == 'mnist' else 1}f} ± {curve.paper[1]:g}" if curve.paper else ""


def _short(curve: Curve, results: Sequence[Result]) -> str:
    for scale in scales(results):
        if found := values(results, "accuracy", scale).get(curve.name):
            return f"({claims.said(found)}, {length(scale)})"
    return "not run"


def _not_run(experiments: Sequence[Experiment], judged: Verdicts) -> str:
    lines = ["## Not run yet", "", "What each shall show, and what it would take, as estimated.", ""]
    for e in experiments:
        lines += [f"- **{e.title}** (`{e.name}`). The paper: {_line(e.shows)}. {_line(e.note)}".rstrip()]
        found = "; ".join(j.claim.words for j in judged[e.name])
        lines.append(f"  Claims: {found or 'none'}.{f' Cost: {e.cost}.' if e.cost else ''}")
    return "\n".join(lines) + "\n"

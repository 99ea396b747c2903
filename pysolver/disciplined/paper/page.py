"""The page of all rows, claims and pictures: docs/paper.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pysolver.disciplined.paper import claims
from pysolver.disciplined.paper.experiment import Curve, Experiment
from pysolver.disciplined.paper.results import Result
from pysolver.disciplined.paper.verdicts import Judged, judge, scales, values

Kept = Mapping[str, Sequence[Result]]  # experiment -> its runs

HEAD = """# The paper, run again

Every table row and every figure of arXiv 1803.09820 is a file of `experiments/`, and this page is what came out so far.
It is made, never edited, by

    pysolver reproduce --page docs/paper.md

from the runs in `experiments/results/` (one line a run: its curves, seed, batch, commit, date and machine). To run one:

    pysolver data mnist experiments/data/mnist
    pysolver reproduce table2 --rows lenet --scale 0.02        minutes: a fiftieth of each run, to see it work
    pysolver reproduce table2 --rows lenet --runs 4            the whole, hours

**Verdicts.** A claim *holds* if Student's t test says so at 5 % with the variance of all its curves together, *does
not* if the test says the opposite, and is *within the noise* between them; with one run of each curve there is no noise
to measure and all is within it. A row *agrees* if Welch's test cannot tell it from the paper's four runs. Runs of one
curve differ in seed, batch size and filler, as in the paper's appendix A.1. Runs that were shortened say so: their
numbers are not the paper's, only what they compare may be.

**Data.** The CIFAR-10 images of these runs went through JPEG before they came here (quality 75, colours at half the
resolution), so less than the paper is to be expected; those of `pysolver data cifar10` did not. Mirror and mean are as
in the author's nets: the mean alone with 3 layers, both in the deeper nets, neither in LeNet.

**What the author published**, github.com/lnsmith54/hyperParam1, are his nets for CIFAR, templates of his solvers, the
script that fills them in and some logs. The nets here are those; the notes below say what else was taken from there.

**BatchNorm** keeps averages over about 10 batches (`moving_average_fraction: 0.9`, as in the author's residual nets);
with Caffe's 0.999, which his densenet has, tests in short runs judge statistics of long ago. **Solvers** on CIFAR are
of type Nesterov, as all that the author published; LeNet's are SGD, Caffe's own for that net (see *Asked again*).

**Parameters of the nets**: 3-layer 89 578, LeNet 431 080, resnet-56 860 874 (He's has 0.85 M), wide-32 5 903 626 (the
author's, whose stages have 16, 64 and 256 channels), densenet-40 1 019 722, resnet-50 25 557 032, inception-resnet-v2
55 843 464.
"""


def text(experiments: Iterable[Experiment], kept: Kept) -> str:
    """The page, which names a picture beside it for every experiment that has runs."""
    every = list(experiments)
    judged = {e.name: judge(e, kept[e.name]) for e in every}
    parts = [HEAD, _overview(every, kept, judged)]
    parts += [_section(e, kept[e.name], judged[e.name]) for e in every]
    return "\n".join(parts)


def overview(experiments: Iterable[Experiment], kept: Kept) -> str:
    """What there is, what has been run, the verdicts: one line an experiment, for a terminal."""
    lines = []
    for e in experiments:
        counts = Counter(judged.verdict for judged in judge(e, kept[e.name]))
        verdicts = ", ".join(f"{count} {verdict}" for verdict, count in counts.items()) or "no claims"
        lines.append(f"{e.name:22} {_measured(e, kept[e.name]):>16}  {verdicts:36}  {e.title}")
    return "\n".join(lines)


def _measured(experiment: Experiment, results: Sequence[Result]) -> str:
    run = {result.curve for result in results}
    return f"{len(run)} of {len(experiment.curves)} curves"


def _overview(experiments: Sequence[Experiment], kept: Kept, judged: Mapping[str, Sequence[Judged]]) -> str:
    counts = Counter(j.verdict for found in judged.values() for j in found)
    rows = [c.name in _whole(kept[e.name]) for e in experiments for c in e.curves if e.name.startswith("table")]
    panels = [{c.name for c in e.curves} == {r.curve for r in kept[e.name]} for e in experiments if e.name[:3] == "fig"]
    lines = ["## At a glance", ""]
    lines.append(
        f"{sum(rows)} of {len(rows)} rows of the tables at full length; {sum(panels)} of {len(panels)} figures with "
        "all their curves, if shortened; claims: " + ", ".join(f"{n} {verdict}" for verdict, n in counts.items())
    )
    lines += ["", "| experiment | measured | claims | cost (an estimate) |", "| --- | --- | --- | --- |"]
    for e in experiments:
        found = Counter(j.verdict for j in judged[e.name])
        said = ", ".join(f"{n} {verdict}" for verdict, n in found.items()) or "none"
        length = ", ".join(_length(s) for s in scales(kept[e.name]))
        lines.append(
            f"| {e.title} | {_measured(e, kept[e.name])}{', ' + length if length else ''} | {said} | {e.cost} |"
        )
    return "\n".join(lines) + "\n"


def _whole(results: Sequence[Result]) -> set[str]:
    return {result.curve for result in results if result.scale == 1}


def _length(scale: float) -> str:
    return "full length" if scale == 1 else f"{scale:g} of the length"


def _section(experiment: Experiment, results: Sequence[Result], judged: Sequence[Judged]) -> str:
    lines = [f"## {experiment.title}", "", f"The paper: {' '.join(experiment.shows.split())}."]
    if experiment.note:
        lines.append(f"\n{' '.join(experiment.note.split())}")
    if any(curve.paper for curve in experiment.curves):
        lines += ["", *_rows(experiment, results)]
    if results:
        lines += ["", f"![{experiment.title}](paper/{experiment.name}.png)"]
    if judged:
        lines += ["", "| claim | verdict | numbers |", "| --- | --- | --- |"]
        for j in judged:
            length = f" ({_length(j.scale)})" if j.verdict != "not run" and j.scale != 1 else ""
            lines.append(f"| {j.claim.text.replace('*', 'every other')} | {j.verdict}{length} | {j.numbers} |")
    if results:
        made = sorted({f"{r.commit}, {r.date}, {r.machine}" for r in results})
        lines += ["", f"`experiments/results/{experiment.name}.jsonl`; made by {'; '.join(made)}."]
    return "\n".join(lines) + "\n"


def _rows(experiment: Experiment, results: Sequence[Result]) -> list[str]:
    lines = ["| row | rate | momentum | weight decay | batch, epochs | paper, % | ours, % | |", "| --- " * 8 + "|"]
    for curve in experiment.curves:
        ours = values(results, "accuracy", 1).get(curve.name, [])
        lines.append(
            f"| {curve.name} | {_rate(curve)} | {curve.momentum} | {curve.weight_decay:g} | {curve.batch}, "
            f"{curve.epochs:g} | {_paper(curve)} | {claims.said(ours) if ours else _short(curve, results)} | "
            f"{claims.against_paper(ours, curve.paper) if curve.paper else ''} |"
        )
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
            return f"({claims.said(found)}, {_length(scale)})"
    return "not run"


def pictures(experiments: Iterable[Experiment], kept: Kept, folder: Path) -> list[Path]:
    """Draw every experiment that has runs."""
    from pysolver.disciplined.paper.pictures import draw

    folder.mkdir(parents=True, exist_ok=True)
    return [draw(e, kept[e.name], folder / f"{e.name}.png") for e in experiments if kept[e.name]]

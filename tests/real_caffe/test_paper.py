"""The paper's nets and solvers in the patched Caffe: it loads them and trains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_up import EXPERIMENT, NET, make_data, nets_of_the_paper, short_trial
from real import BINARY

from pysolver.commands import main
from pysolver.disciplined.paper.experiment import read_all
from pysolver.disciplined.paper.results import read_results
from pysolver.disciplined.trial import Command

ROOT = Path(__file__).parents[2]
IMAGENET = ("fig3b", "fig4b", "fig16a", "fig16b")  # 25 and 56 million parameters: one iteration


@pytest.mark.parametrize(("experiment", "curve"), nets_of_the_paper())
def test_caffe_trains_the_papers_nets(
    experiment: str, curve: str, patched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As the files of reproduce are written, with a batch of 2."""
    monkeypatch.chdir(ROOT)
    backend = Command((str(patched / BINARY),))
    run = short_trial(experiment, curve, tmp_path, backend, 1 if experiment in IMAGENET else 4).run()
    assert run.finished and np.isfinite(run.train.loss).all() and len(run.test) == 2


def test_one_run_goes_on_from_another(patched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its first test is the last of the run whose weights it has: the whole test set, the same weights."""
    monkeypatch.chdir(tmp_path)
    Path("experiments").mkdir()
    Path("experiments/table9.toml").write_text(EXPERIMENT)
    Path("net.prototxt").write_text(NET)
    make_data(Path("experiments/data"), "mnist", 60)
    words = ["reproduce", "table9", "--rows", "again", "--runs", "1", "--caffe", str(patched / BINARY)]
    assert main(words) == 0
    kept = {r.curve: r for r in read_results(Path("experiments/results"), read_all("experiments")["table9"])}
    assert kept["again"].machine.endswith("caffe.bin")
    first, again = (kept[curve].test["loss"] for curve in ("high", "again"))
    assert again[0] == first[-1] < 0.9 * first[0]
    assert again[1] != first[1]  # and then it trains

"""One solver in both backends. As a script: draws the picture of both logs that the README shows."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import real
from problems import CYCLES, write_digits
from real import CHECKOUT

from pysolver.disciplined.trial import Command

ITERATIONS, HALF = 200, 100


def run_both(kind: str, patched: Path, folder: Path) -> dict[str, tuple[Path, str]]:
    """Train the digits in both backends from the weights that Caffe drew: the folder and the log of each."""
    # The train command of this Caffe ignores --weights, so both begin by resuming a state of iteration 0.
    start = folder / "start"
    start.mkdir()
    fields = f"type: '{kind}' {CYCLES} weight_decay: 0.0005 display: 1 "
    write_digits(start, fields + "max_iter: 0 random_seed: 7")
    real.train(patched, start)
    result = {}
    for backend in ("caffe", "pysolver"):
        shutil.copytree(start, folder / backend)
        write_digits(folder / backend, fields + f"max_iter: {ITERATIONS} snapshot: {HALF}")
        result[backend] = (
            folder / backend,
            run(backend, patched, folder / backend, "--snapshot=snap_iter_0.solverstate"),
        )
    return result


def run(backend: str, patched: Path, folder: Path, *arguments: str) -> str:
    """Train the solver file in a folder; the log of a run that ended well."""
    argv = {"caffe": (str(patched / real.BINARY),), "pysolver": Command.argv}[backend]
    log = folder / "train.log"
    Command(argv, arguments, folder)(Path("solver.prototxt"), log)
    return log.read_text()


def draw(runs: dict[str, tuple[Path, str]], picture: Path) -> None:
    """Both logs in one picture, by the project's own tool."""
    logs = []
    for folder, log in runs.values():
        logs.append(folder / f"{folder.name}.log")
        logs[-1].write_text(log)
    command = [sys.executable, str(CHECKOUT / "tools/plot_log.py"), *map(str, logs), "--rates", "-o", str(picture)]
    labels = ["--label", "patched Caffe", "--label", "pysolver"]
    title = ["--title", "the same Nesterov solver file in both backends"]
    done = subprocess.run([*command, *labels, *title], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        draw(run_both("Nesterov", real.build(patched=True), Path(scratch)), Path(sys.argv[1]).resolve())

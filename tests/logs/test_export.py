"""CSV as Caffe's own tools/extra/parse_log.py forms it, and JSON."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
from log_texts import DATA, glog, golden_text, lines

from pysolver.logs import read_log
from pysolver.logs.export import to_json, write_csv


def caffe_rows(text: str, phase: str) -> list[dict[str, float]]:
    """What Caffe's parser does, told from its description: the last seen iteration, one row of outputs for it."""
    rows: list[dict[str, float]] = []
    iteration = -1.0
    for line in text.splitlines():
        if found := re.search(r"Iteration (\d+)", line):
            iteration = float(found[1])
        if (found := re.search(rf"{phase} net output #(\d+): (\S+) = ([\.\deE+-]+)", line)) and iteration >= 0:
            if not rows or rows[-1]["NumIters"] != iteration:
                rows.append({"NumIters": iteration})
            rows[-1][found[2]] = float(found[3])
    return rows


def test_csv_agrees_with_caffes_parser(tmp_path):
    for name in ("new_format_1cycle", "range_test", "old_format_triangular"):
        paths = write_csv(read_log(DATA / f"{name}.log.gz"), tmp_path)
        assert [p.name for p in paths] == [f"{name}.log.train", f"{name}.log.test"]
        for path, phase in zip(paths, ("Train", "Test")):
            with path.open() as file:
                found = list(csv.DictReader(file))
            head = list(found[0])
            assert head[:3] == ["NumIters", "Seconds", "LearningRate"] and head[-2:] == ["Momentum", "WeightDecay"]
            wanted = caffe_rows(golden_text(f"{name}.log.gz"), phase)
            assert [{k: float(row[k]) for k in wanted[0]} for row in found] == wanted
            assert re.fullmatch(r"\d+\.0", found[1]["NumIters"])


def test_the_display_after_the_last_update_has_no_row(tmp_path, log_file):
    """It has neither outputs nor a rate; Caffe's parser, told above, has no row for it."""
    text = lines(0, 30) + glog("Iteration 30, loss = 0.5", "solver.cpp:327")
    assert read_log(log_file(text)).train.iteration.tolist() == [0, 10, 20, 30]
    train, _ = write_csv(read_log(log_file(text)), tmp_path)
    assert [row["NumIters"] for row in csv.DictReader(train.open())] == ["0.0", "10.0", "20.0"]
    assert not any(row["loss"] == "nan" for row in csv.DictReader(train.open()))


def test_csv_rates_and_times(tmp_path):
    train, test = write_csv(read_log(DATA / "new_format_1cycle.log.gz"), tmp_path, delimiter=";")
    table = np.genfromtxt(train, delimiter=";", names=True)
    assert table["Momentum"][-1] == 0.939715 and table["LearningRate"][0] == 0.002 and table["WeightDecay"][3] == 0.0006
    assert np.all(np.diff(table["Seconds"]) > 0) and 60 < table["Seconds"][-1] < 80  # 09:01:39 to 09:02:50


def test_csv_of_several_test_nets(tmp_path):
    paths = write_csv(read_log(DATA / "lenet_two_test_nets_stages.log.gz"), tmp_path)
    assert [p.suffix for p in paths] == [".train", ".test", ".test1"]


def test_csv_keeps_the_tests_of_a_dead_net(tmp_path, log_file):
    """Every test has its row, with a rate line of its own or not; of a dead net there is nothing to believe."""
    told = "I0101 00:00:00.0 1 sgd_solver.cpp:112] Iteration 0, lr = 50, momentum = 0.9, weight decay = 0\n"
    text = "".join(
        f"I0101 00:00:{i:02}.0 1 solver.cpp:347] Iteration {i}, Testing net (#0)\n"
        f"I0101 00:00:{i:02}.0 1 solver.cpp:414]     Test net output #0: accuracy = 1\n"
        f"I0101 00:00:{i:02}.0 1 solver.cpp:414]     Test net output #1: loss = nan (* 1 = nan loss)\n"
        + told
        * (i == 0)
        for i in (0, 10, 20)
    )
    _, test = write_csv(read_log(log_file(text)), tmp_path)
    rows = list(csv.DictReader(test.open()))
    assert [(row["NumIters"], row["accuracy"], row["loss"]) for row in rows] == [
        (number, "nan", "nan") for number in ("0.0", "10.0", "20.0")
    ]


def test_csv_without_any_test(tmp_path, log_file):
    """Scripts expect both files."""
    text = "".join(line for line in lines(0, 50).splitlines(keepends=True) if "Test" not in line)
    _, test = write_csv(read_log(log_file(text)), tmp_path)
    assert test.name == "a.log.test" and len(test.read_text().splitlines()) == 1


def test_json_is_strict_and_complete(log_file):
    run = read_log(DATA / "mlp_diverges.log.gz")
    text = json.dumps(to_json(run), allow_nan=False)
    back = json.loads(text)
    assert None in back["train"]["loss"] and back["train"]["iteration"] == run.train.iteration.tolist()
    assert back["solver"]["base_lr"] == run.solver["base_lr"]
    old = json.loads(json.dumps(to_json(read_log(log_file(lines(0, 100) + lines(50, 80)))), allow_nan=False))
    assert old["superseded"]["train"]["iteration"] == [50, 60, 70, 80, 90]
    assert old["resumes"] == [{"iteration": 50, "seconds": 0.0, "before": 90}]

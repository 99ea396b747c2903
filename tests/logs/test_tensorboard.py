"""TensorBoard event files hold what the log holds, and the hyper-parameters."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import pytest
from log_texts import DATA

from pysolver.logs import events as e
from pysolver.logs import read_log

pytest.importorskip("tensorboardX")


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """All values of the one event file in a folder, by tag."""
    from tensorboardX.proto import event_pb2

    (path,) = folder.iterdir()
    data, found, at = path.read_bytes(), {}, 0
    while at < len(data):
        (size,) = struct.unpack_from("<Q", data, at)
        event = event_pb2.Event.FromString(data[at + 12 : at + 12 + size])
        at += 12 + size + 4
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_a_log_becomes_event_files(tmp_path):
    from pysolver.logs.tensorboard import write_run

    run = read_log(DATA / "new_format_1cycle.log.gz")
    count = write_run(run, tmp_path)
    found = scalars(tmp_path)
    assert [step for step, _ in found["test/accuracy"]] == run.test.iteration.tolist()
    assert [value for _, value in found["test/accuracy"]] == pytest.approx(run.test["accuracy"])
    assert [value for _, value in found["schedule/lr"]] == pytest.approx(run.train.lr)
    assert {"train/loss", "schedule/momentum", "schedule/weight_decay", "_hparams_/session_start_info"} <= set(found)
    assert count == sum(len(v) for tag, v in found.items() if not tag.startswith(("final", "_hparams_")))


def test_what_is_no_number_is_written_without_a_word(tmp_path, caplog):
    """tensorboardX warns at each such value; that a net died is told once, by the log."""
    from pysolver.logs.tensorboard import write_run

    write_run(read_log(DATA / "mlp_diverges.log.gz"), tmp_path)
    assert any(math.isnan(value) for _, value in scalars(tmp_path)["test/loss"]) and not caplog.records


def test_live_events(tmp_path):
    from pysolver.logs.tensorboard import TensorBoard

    board = TensorBoard(tmp_path)
    told = [
        e.InitializingSolver('base_lr: 0.1\ntype: "SGD"\n'),
        e.Testing(0, 1),
        e.Output("Test", 0, "acc", 0.25),
        e.Display(10, 2.5, 12.0, 1.0, 10),
        e.Output("Train", 0, "loss", 2.25, 1.0, 2.25),
        e.Rate(10, 0.5, 0.9, 0.0001),
    ]
    for event in told:
        board(event)
    board.close()
    found = scalars(tmp_path)
    assert (
        found["test1/acc"] == [(0, 0.25)]
        and found["train/loss"] == [(10, 2.25)]
        and found["schedule/lr"] == [(10, 0.5)]
        and [step for step, _ in found["schedule/weight_decay"]] == [10]
    )
    assert "_hparams_/experiment" in found

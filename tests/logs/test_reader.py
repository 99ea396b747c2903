"""Odd logs: every dialect, prefix, damage and order that the reader must get through."""

from __future__ import annotations

import io
import json
import math

import numpy as np
import pytest
from log_texts import DATA, check_plain, glog, lines

from pysolver.errors import CaffeError
from pysolver.logs import read_log
from pysolver.logs.reader import Reader
from pysolver.logs.source import pieces


def read(text: str | bytes, size: int | None = None):
    """The run of a text, fed in pieces of some size."""
    data = text if isinstance(text, bytes) else text.encode()
    size = size or len(data)
    made = Reader("text")
    for start in range(0, len(data), size):
        for piece in pieces(io.BytesIO(data[start : start + size]), "text"):
            made.feed(piece)
    return made.finish()


@pytest.mark.parametrize("stamp", ["I0321 09:01:36.326753", "I20260321 09:01:36.326753"])
@pytest.mark.parametrize("thread", [7, 3822, 154467])
def test_prefixes(stamp, thread):
    check_plain(read(lines(0, 50, stamp=stamp, thread=thread)))


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_pieces_of_any_size(size):
    check_plain(read(lines(0, 50), size=size))


def test_crlf_ansi_and_progress_bars():
    text = lines(0, 50).replace("\n", "\r\n").replace("Iteration", "\x1b[32mIteration\x1b[0m")
    check_plain(read("\r 12%|###   | 3/25\r" + text))


def test_without_any_prefix():
    check_plain(read("".join(line.partition("] ")[2] for line in lines(0, 50).splitlines(keepends=True))))


@pytest.mark.parametrize("label", ["[{}] ", "[1,{}]<stderr>:", "{}: "])
def test_ranks_of_an_mpi_run(label):
    """Rank 0's values are taken whatever the order; the others' are counted."""
    other = lines(0, 50, lr="0.7").replace("loss = 1", "loss = 9")
    pairs = zip(other.splitlines(keepends=True), lines(0, 50).splitlines(keepends=True))
    run = read("".join(label.format(3) + a + label.format(0) + b for a, b in pairs))
    check_plain(run)
    assert run.other_ranks == other.count("\n")


def test_a_container_runtime_puts_times_before():
    check_plain(read("".join(f"2026-11-23T12:00:00Z {line}" for line in lines(0, 50).splitlines(keepends=True))))


def test_other_programs_and_stack_traces_in_between():
    noise = "W tensorflow/x.cc:3] hello\n    @ 0x3fff caffe::Net<>::Forward()\n*** Check failure stack trace: ***\n"
    noise += glog(
        "Check failed: error == cudaSuccess (30 vs. 0)  unknown error", "math_functions.cu:79", "F0321 09:01:37.1"
    )
    text = "".join(line + noise for line in lines(0, 50).splitlines(keepends=True))
    run = read(text)
    check_plain(run)
    assert "cudaSuccess" in run.failure


def test_a_test_without_its_head_is_lost_and_counted():
    """Its outputs are not of the display that follows, which may be iterations away."""
    run = read(lines(0, 50).replace(glog("Iteration 20, Testing net (#0)", "solver.cpp:347"), ""))
    assert run.test.iteration.tolist() == [0, 10, 30, 40] and run.unknown == 2
    assert run.test["loss"].tolist() == [2.0, 2.001, 2.003, 2.004]


def test_several_threads_interleave():
    """Gradient norms of eight ranks: one row an iteration."""
    norm = "".join(glog("Gradient: L2 norm 5.5", "sgd_solver.cpp:172", thread=100 + n) for n in range(8))
    run = read("".join(line + (norm if "lr =" in line else "") for line in lines(0, 50).splitlines(keepends=True)))
    check_plain(run)
    assert run.counts["GradientNorm"] == 40
    assert run.gradients["iteration"].tolist() == [0, 10, 20, 30, 40]


@pytest.mark.parametrize("tag", ["image_data_layer.cpp:63", "image_seg_data_layer.cpp:71", "convert_imageset.cpp:94"])
def test_the_size_of_the_training_set(tag):
    """The first list is the train net's, whichever layer of whichever fork reads it."""
    text = glog("A total of 600 images.", tag) + glog("A total of 100 images.", tag) + lines(0, 20)
    run = read(text)
    assert run.images == 600 and run.unknown == 0
    assert read(lines(0, 20)).images is None


def test_nan_and_inf_in_any_spelling():
    text = lines(0, 40)
    for i, word in ((0, "nan"), (10, "-nan"), (20, "inf"), (30, "-1.#IND")):
        text = text.replace(f"Iteration {i}, loss = 1.{i:04d}", f"Iteration {i}, loss = {word}")
        text = text.replace(f"#0: loss = 1.{i:04d} (* 1 = 1.{i:04d} loss)", f"#0: loss = {word} (* 1 = {word} loss)")
    run = read(text)
    assert run.unknown == 0 and len(run.train) == 4
    for column in (run.train.loss, run.train["loss"]):
        assert np.isnan(column[[0, 1, 3]]).all() and column[2] == math.inf


@pytest.mark.parametrize("speed", ["nan", "-nan", "inf", "-0.00123955", "2.14e+09"])
def test_garbage_speeds(speed):
    run = read(glog(f"Iteration 100 ({speed} iter/s, 0s/100 iters), loss = 2.5"))
    assert run.train.loss[0] == 2.5 and run.unknown == 0


def test_names_with_blanks_and_brackets_and_equal_signs():
    names = ["top 5 accuracy", "a = 3", "x (* 1 = 2 loss)", "accuracy/top-1", "größe", "#7"]
    text = glog("Iteration 0, loss = 1")
    text += "".join(glog(f"    Train net output #{i}: {name} = 0.{i}5") for i, name in enumerate(names))
    text += glog("Iteration 0, lr = 0.1", "sgd_solver.cpp:112")
    run = read(text * 1)
    assert {name: column[0] for name, column in run.train.outputs.items()} == {
        n: float(f"0.{i}5") for i, n in enumerate(names)
    }


def test_blob_with_several_elements():
    text = "".join(glog(f"    Test net output #{i}: prob = 0.{i}") for i in range(3))
    run = read(glog("Iteration 0, Testing net (#0)") + text + glog("    Test net output #3: loss = 7"))
    assert list(run.test.outputs) == ["prob#0", "prob#1", "prob#2", "loss"]
    assert [run.test[f"prob#{i}"][0] for i in range(3)] == [0, 0.1, 0.2]


def test_resumed_run_the_later_value_wins():
    old, new = lines(0, 100), lines(60, 120, lr="0.05").replace(" = 1.", " = 3.")
    run = read(old + new)
    assert list(run.train.iteration) == list(range(0, 120, 10))
    assert (run.train["loss"][:6] < 2).all() and (run.train["loss"][6:] > 3).all()
    assert (run.train.lr[6:] == 0.05).all()
    assert list(run.old_train.iteration) == [60, 70, 80, 90] and (run.old_train["loss"] < 2).all()
    assert [(r.iteration, r.before) for r in run.resumes] == [(60, 90)]


def test_resumed_run_supersedes_beyond_its_own_end():
    """The resumed part has got to 70 only; what the old one did from 60 on counts no more."""
    run = read(lines(0, 100) + lines(60, 80))
    assert list(run.train.iteration) == list(range(0, 80, 10)) == list(run.test.iteration)


def test_resumed_at_the_very_last_iteration():
    run = read(lines(0, 60) + lines(50, 80))
    assert [(r.iteration, r.before) for r in run.resumes] == [(50, 50)]
    assert list(run.train.iteration) == list(range(0, 80, 10))


def test_early_caffe_prints_the_rate_before_the_loss():
    pair = glog("Iteration {0}, lr = 0.1", "solver.cpp:285") + glog("Iteration {0}, loss = 2", "solver.cpp:112")
    text = "".join(pair.format(i) for i in range(0, 50, 10))
    run = read(text)
    assert len(run.train) == 5 and not run.resumes and run.train.told.all()


def test_multistep_lines_are_no_iterations():
    run = read(lines(0, 20) + glog("MultiStep Status: Iteration 20000, step = 1", "sgd_solver.cpp:50"))
    assert list(run.train.iteration) == [0, 10]


def test_last_row_counts_with_and_without_line_end():
    check_plain(read(lines(0, 50).rstrip("\n")))


@pytest.mark.parametrize("cut", range(1, 70))
def test_truncated_anywhere_near_the_end(cut):
    """No wrong value: what is left of the last line is understood in full, or counted as odd, or bears no value."""
    run = read(lines(0, 50)[:-cut])
    assert list(run.test.iteration) == [0, 10, 20, 30, 40] and np.allclose(
        run.test["loss"], [2, 2.001, 2.002, 2.003, 2.004]
    )
    column = run.train["loss"]
    assert np.isnan(column[-1]) or np.isclose(column[-1], 1.004)


def test_lines_that_nobody_understands_are_shown():
    text = lines(0, 50) + glog("Iteration 50, loss: 3 (new style)") + "my loss = 4 here\n"
    run = read(text)
    assert run.unknown == 2
    assert [odd.line for odd in run.oddities] == [31, 32] and "new style" in run.oddities[0].text
    assert "2 lines not understood" in run.summary()


def test_outputs_whose_iteration_is_unknown_are_counted():
    stray = glog("    Test net output #0: accuracy = 0.5")
    run = read(stray + lines(0, 20).replace("Testing net", "testing"))
    assert run.unknown >= 1


def test_a_test_cut_short_is_no_row():
    run = read(lines(0, 50) + glog("Iteration 50, Testing net (#0)") + glog("Test interrupted."))
    check_plain(run)


def test_times_over_a_leap_day_without_a_year():
    """Over 28 and 29 February to 1 March and the next new year: true days of a leap year, in both ways of reading."""
    stamps = ["0228 23:59:50", "0229 00:00:10", "0301 00:00:10", "1231 00:00:10", "0101 00:00:10"]
    text = "".join(lines(10 * k, 10 * k + 10, stamp=f"I{stamp}.000000") for k, stamp in enumerate(stamps))
    march = 86420.0  # its first day; 31 December is 305 days later, whatever the year
    expected = [0.0, 20.0, march, march + 305 * 86400, march + 306 * 86400]
    assert read(text).train.seconds.tolist() == expected
    assert read(text, size=50).train.seconds.tolist() == expected


@pytest.mark.parametrize("stamp", ["I0021 09:01:36.000000", "I1321 09:01:36.000000", "I20269921 09:01:36.000000"])
def test_a_date_that_is_none(stamp):
    text = lines(0, 10, stamp="I0321 09:01:30.000000") + lines(10, 50, stamp=stamp)
    check_plain(run := read(text))
    assert run.train.seconds.tolist() == [0, 6, 6, 6, 6]
    check_plain(read(lines(0, 50, stamp=stamp)))


def test_an_iteration_too_large_for_a_number_is_not_understood():
    run = read(lines(0, 20) + glog("Iteration 99999999999999999999, loss = 3"))
    assert list(run.train.iteration) == [0, 10] and run.unknown == 1
    assert read(lines(0, 20) + glog("Iteration 999999999999999999, loss = 3")).train.iteration[-1] == 10**18 - 1


def test_times_over_midnight_and_new_year():
    text = lines(0, 10, stamp="I1231 23:59:50.000000") + lines(10, 20, stamp="I0101 00:00:10.500000")
    run = read(glog("Solving net", "solver.cpp:289", "I1231 23:59:40.000000") + text)
    assert run.train.seconds.tolist() == [10.0, 30.5]


def test_reads_without_torch_and_quickly():
    import subprocess
    import sys

    code = "import sys, pysolver.logs; pysolver.logs.read_log(sys.argv[1]); assert 'torch' not in sys.modules"
    code += "; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, str(DATA / "new_format_1cycle.log.gz")], check=True)


def test_to_pandas():
    pytest.importorskip("pandas")
    frame = read(lines(0, 50)).train.to_pandas()
    assert list(frame.index) == [0, 10, 20, 30, 40] and frame["lr"].tolist() == [0.1] * 5


def test_the_accuracy_of_a_diverged_net_is_not_believed(log_file):
    """Caffe counts a NaN score as a right answer, so that a diverged net shows accuracy 1."""
    lines = ["I1123 10:00:00.000000     1 solver.cpp:289] Solving net"]
    for iteration, accuracy, loss in ((0, 0.1, 2.3), (10, 0.6, 1.1), (20, 1, "nan")):
        lines += [
            f"I1123 10:00:0{iteration // 10}.000000     1 solver.cpp:347] Iteration {iteration}, Testing net (#0)",
            f"I1123 10:00:0{iteration // 10}.000000     1 solver.cpp:414]     Test net output #0: accuracy = "
            f"{accuracy}",
            f"I1123 10:00:0{iteration // 10}.000000     1 solver.cpp:414]     Test net output #1: loss = {loss} "
            f"(* 1 = {loss} loss)",
        ]
    run = read_log(log_file("\n".join(lines) + "\n"))
    np.testing.assert_array_equal(run.test.main_accuracy, [0.1, 0.6, np.nan])
    np.testing.assert_array_equal(run.test["accuracy"], [0.1, 0.6, np.nan])
    assert run.nan_from == 20


LINEAR = {
    "letters without an end": "a" * 16_000_000,
    "digits, then a value": "9" * 60_000 + "\n1 = 3",
    "many digits, a cut-off value": ("9" * 4_000 + " x\n") * 500 + "1 = 3",
    "a field and blanks in a dump": glog("Initializing solver from parameters: ") + "foo" + " " * 60_000 + "\n",
    "many such fields": glog("Initializing solver from parameters: ") + ("foo" + " " * 4_000 + "\n") * 300,
    "arrows": glog("conv" + " -> " * 8_000, "net.cpp:382") + glog("conv" + " -> " * 1_000, "net.cpp:382") * 400,
    "names of outputs": glog("    Train net output #0: " + ": " * 2_000) * 300,
    "values": ("loss = " * 580 + "\n") * 300,
    "stamps": ("I0321 " * 680 + "\n") * 300,
    "a file through grep -n": "".join(f"{n}:{line}" for n, line in enumerate(lines(0, 60_000).splitlines(True), 1)),
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", LINEAR)
def test_strange_texts_take_no_longer_than_their_length(kind):
    """Each of them took minutes, or gigabytes, where reading a line was not linear in it (the limit is generous)."""
    made = Reader("text")
    text = lines(0, 50) + LINEAR[kind]
    for start in range(0, len(text), 1 << 21):
        made.feed(text[start : start + (1 << 21)])
    run = made.finish()
    assert {0, 10, 20, 30, 40} <= set(run.train.iteration.tolist())


def test_grep_n_is_not_taken_for_ranks():
    plain = lines(0, 20_000)
    numbered = "".join(f"{n}:{line}" for n, line in enumerate(plain.splitlines(True), 7))
    run = read(numbered)
    assert run.other_ranks == 0 and run.unknown == 0
    np.testing.assert_array_equal(run.train.iteration, read(plain).train.iteration)
    np.testing.assert_array_equal(run.test["accuracy"], read(plain).test["accuracy"])


def test_a_line_too_long_is_told_and_left():
    run = read(lines(0, 50) + glog("x" * 5000 + " loss = 3") + lines(50, 100))
    assert run.unknown == 1 and run.train.iteration[-1] == 90 and len(run.oddities[0].text) <= 160


@pytest.mark.parametrize(
    "dump",
    [
        "layer: 3\nlayers: 4\n",
        'layer {\n  data_param {\n    batch_size: "x"\n  }\n}\n',
        "layer {\n  data_param {\n    batch_size {\n }\n  }\n}\n",
        "input_shape: 7\ninput_shape {\n  dim: nan\n}\n",
        "a {\n" * 5_000,
    ],
)
def test_dumps_that_no_caffe_writes(dump):
    from pysolver.logs.export import to_json

    run = read(glog("Initializing net from parameters: ", "net.cpp:53") + dump + lines(0, 50))
    assert run.batch is None and run.train.iteration[-1] == 40
    json.dumps(to_json(run))


_TEST_NET = """state {{
  phase: TEST
}}
{layers}"""
_ACCURACY = """layer {{
  type: "Accuracy"
  top: "{}"
  top: "of_each"
  accuracy_param {{ top_k: {} }}
}}
"""


@pytest.mark.parametrize("named, outputs, chosen", [  # outputs in Caffe's order, that of their names
    ({"hits": 1}, ["hits", "loss"], "hits"),
    ({"a5": 5, "b1": 1}, ["a5", "b1", "loss"], "b1"),
    ({}, ["hits", "loss"], None),
    ({}, ["loss", "top1", "top5"], "top1"),
    ({}, ["acc", "loss", "top1"], "acc"),
    ({"gone": 1}, ["loss", "top1"], "top1"),
    ({}, ["loss1/loss1", "loss1/top-1", "loss3/loss3", "loss3/top-1", "loss3/top-5"], "loss3/top-1"),
    ({"loss1/top-1": 1, "loss3/top-1": 1, "loss3/top-5": 5},
     ["loss1/loss1", "loss1/top-1", "loss3/loss3", "loss3/top-1", "loss3/top-5"], "loss3/top-1"),
])  # fmt: skip
def test_which_output_is_the_accuracy(named, outputs, chosen):
    """The layers' types tell where the log has the net; GoogLeNet's is that of its last head, as its loss is."""
    net = _TEST_NET.format(layers="".join(_ACCURACY.format(*pair) for pair in named.items()))
    text = glog("Initializing net from parameters: ", "net.cpp:53") + net
    text += glog("Iteration 0, Testing net (#0)", "solver.cpp:337")
    for index, name in enumerate(outputs):
        loss = " (* 1 = 0.5 loss)" if name.endswith(("loss", "loss1", "loss3")) else ""
        text += glog(f"    Test net output #{index}: {name} = 0.5{loss}", "solver.cpp:404")
    table = read(text).test
    assert table.accuracy_name == chosen and table.loss_name == [n for n in outputs if "loss" in n.split("/")[-1]][-1]


@pytest.mark.parametrize("index", ["I03181", "9" * 5000, "²"])
def test_an_output_whose_index_is_no_number(index, tmp_path):
    """Found by the fuzzer: among many output lines, which are taken together, it ended in a ValueError."""
    head = "I0318 09:44:40.022838 162399 solver.cpp:"
    lines = [
        f"{head}239] Iteration {number}, loss = 1\n{head}258]     Train net output #{'0' if number != 50 else index}: "
        "loss = 1 (* 1 = 1 loss)"
        for number in range(100)
    ]
    (tmp_path / "caffe.log").write_text("\n".join(lines) + "\n")
    run = read_log(tmp_path / "caffe.log")
    assert len(run.train.outputs["loss"]) == 100 and np.isnan(run.train.outputs["loss"][50])


def test_dumps_take_no_more_than_they_may(monkeypatch):
    """A packed log of a megabyte can hold a thousand million empty lines, or four thousand ranks' dumps."""
    monkeypatch.setattr("pysolver.logs.reader.DUMP_SIZE", 1000)
    begin = glog("Initializing net from parameters: ", "net.cpp:53")
    made = Reader("text")
    made.feed(lines(0, 50) + begin + "\n" * 5000)
    assert len(made.here.dump) < 1100
    made = Reader("text")
    made.feed("".join(f"[1,{rank}]<stderr>:{begin}" + f"[1,{rank}]<stderr>:name: 'n'\n" * 50 for rank in range(50)))
    assert sum(len(line) for here in made.ranks.values() for line in here.dump or ()) < 10_000


def test_outputs_by_the_thousand_in_rows_by_the_thousand():
    """Each row with an output of its own: a table of 8 GB for a log of 5 MB."""
    text = "".join(
        glog(f"Iteration {number}, loss = 1") + glog(f"    Train net output #0: loss{number} = 1", "solver.cpp:258")
        for number in range(4000)
    )
    with pytest.raises(CaffeError, match="text: 4000 outputs in 4000 rows, hardly any of them told"):
        read(text)


@pytest.mark.timeout(60)
def test_a_string_without_an_end_in_a_dump():
    """16 MB of it took 2 GB."""
    begin = glog("Initializing solver from parameters: ")
    assert read(lines(0, 50) + begin + 'net: "' + "a\n" * 500_000 + lines(50, 100)).train.iteration[-1] == 90

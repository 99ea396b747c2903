"""Reads a Caffe log of any size and kind into a Run.

Most lines of a log are outputs, displays, rates and gradient norms: bulk.py takes stretches of them at once. What lies
between is taken line by line.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pysolver.errors import CaffeError, about
from pysolver.logs import bulk, grammar
from pysolver.logs import events as e
from pysolver.logs.assemble import Assembler
from pysolver.logs.run import Oddity, Run
from pysolver.logs.source import open_log, pieces

STRETCH = 32  # frequent lines in a row from which on it pays to take them together
SHOWN = 10  # not-understood lines that are kept as examples
NO_RANK = -1  # of lines without a rank's label
DUMP_SIZE = 1 << 25  # characters of the parameter dumps that have not ended, of all ranks
LONGEST = 4096  # characters of a line; a longer one is no line of a log, and is not looked at
HELD = 1000  # lines that begin `N: ` before it is clear what N is
MOST_RANKS = 4096

_PREFIX = re.compile(r"([IWEF])(\d{8}|\d{4}) +(\d\d:\d\d:\d\d\.\d+) +(\d+) ([\w.+-]+):(\d+)\] ?")
_LABEL = re.compile(r"(?:\[(?:\d+,)?(\d+)\](?:<\w+>:?)?|(\d+):) ?(?=\S)")  # of a rank, by MPI's launchers and Slurm
_NUMBERED = re.compile(r"(\d+): ?(?=\S)")
_VALUE = re.compile(rf"Iteration \d+|net output|(?:\blr|loss|accuracy) *= *{grammar.NUMBER}")


def read_log(path: str | Path) -> Run:
    """The run that a log file (.gz too, `-` for standard input) tells of.

    Raises CaffeError if it cannot be read, is binary, or holds no iteration at all.
    """
    reader = Reader("<stdin>" if str(path) == "-" else str(path))
    with open_log(path) as stream:
        for piece in pieces(stream, reader.name):
            reader.feed(piece)
    return reader.finish()


def follow_log(path: str | Path, every: float) -> Iterator[Run]:
    """The run so far, again whenever the file has grown; waits `every` seconds in between."""
    reader = Reader(str(path))
    grown = False
    with open_log(path) as stream:
        for piece in pieces(stream, reader.name, follow=every):
            reader.feed(piece)
            if piece:
                grown = True
            elif grown and reader.has_rows:
                grown = False
                yield reader.run()


class Reader:
    """Takes a log's text piece by piece."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ranks: dict[int, Assembler] = {NO_RANK: Assembler()}
        self.here = self.ranks[NO_RANK]
        self.rest = ""  # a line that has not ended
        self.recent = ""  # the last piece, to judge a line that was cut off
        self.held: list[tuple[str, int]] | None = []  # lines `N: ...` while N may be a rank, or grep's line number
        self.numbered = False  # it is grep's
        self.lines = 0
        self.dumped = 0  # characters in the ranks' dumps
        self.unknown = 0
        self.oddities: list[Oddity] = []
        self.tagged = grammar.under_any_tag()
        self.bare = grammar.under_any_tag(r"(?:.*?[\]:>|]\s*)?")

    def feed(self, piece: str) -> None:
        """More text, cut anywhere."""
        end = piece.rfind("\n") + 1
        if not end:
            self.rest = (self.rest + piece)[: LONGEST + 1]
            return
        text = self.rest + piece[:end]
        self.rest = piece[end:][: LONGEST + 1]
        self._take(text)
        self.recent = text

    def finish(self) -> Run:
        """The end of the log; CaffeError if there was no iteration in it, and no word that it was given up."""
        if self.rest and self._cut_off(self.rest):
            self.lines += 1
            self._odd(self.rest, self.lines)
        elif self.rest:
            self._take(self.rest + "\n")
        self._decide(at_end=True)
        self.rest = ""
        if not self.has_rows and not any(a.counts["GaveUp"] for a in self.ranks.values()):
            raise CaffeError(self._nothing())
        return self.run()

    @property
    def has_rows(self) -> bool:
        """Whether any table has a row."""
        return any(a.train.iteration or any(t.iteration for t in a.tests.values()) for a in self.ranks.values())

    def run(self) -> Run:
        """What is known so far. Of several ranks, the lowest one that trains."""
        main = next((r for r, a in sorted(self.ranks.items()) if a.train.iteration), NO_RANK)
        with about(self.name):
            run = self.ranks[main].run(self.name)
        run.unknown = self.unknown + self.ranks[main].lost
        run.oddities = list(self.oddities)
        run.other_ranks = sum(sum(a.count().values()) for r, a in self.ranks.items() if r != main)
        return run

    def _nothing(self) -> str:
        if not self.lines:
            return f"{self.name}: empty, there is no log in it (a training writes its log to stderr: 2> FILE)"
        text = f"{self.name}: no iteration with a loss or a test result in its {self.lines} lines; is it a solver's?"
        if self.oddities:
            text += f" Not understood: line {self.oddities[0].line}: {self.oddities[0].text}"
        return text

    def _take(self, text: str) -> None:
        """Whole lines: stretches of frequent ones all at once, the others one by one."""
        data = text.encode("utf-8", "replace")
        lines = bulk.classify(data, self.here)
        cold = lines.kind == bulk.COLD
        turns = (np.flatnonzero(np.diff(cold)) + 1).tolist()
        for start, stop in zip([0, *turns], [*turns, len(cold)]):
            self._stretch(data, lines, start, stop, plain=not cold[start])
        self.lines += len(cold)

    def _stretch(self, data: bytes, lines: bulk.Lines, start: int, stop: int, plain: bool) -> None:
        """Lines from start to stop: at once, or in halves where something is out of the ordinary, or one by one."""
        while start < stop and self.here.dump is not None:  # which the next record ends
            self._walk(data, lines, start, start + 1)
            start += 1
        if not plain or stop - start < STRETCH:
            self._walk(data, lines, start, stop)
        elif bulk.take(lines, start, stop, self.here):
            for row in (start + np.flatnonzero(lines.kind[start:stop] == bulk.ASIDE)).tolist():
                self._walk(data, lines, row, row + 1)
        else:
            middle = (start + stop) // 2
            self._stretch(data, lines, start, middle, plain)
            self._stretch(data, lines, middle, stop, plain)

    def _walk(self, data: bytes, lines: bulk.Lines, start: int, stop: int) -> None:
        begin = int(lines.ends[start - 1]) + 1 if start else 0
        text = data[begin : int(lines.ends[stop - 1])].decode() if stop > start else ""
        for number, line in enumerate(text.split("\n"), self.lines + start + 1):
            self._line(line, number)

    # -- all other lines, one by one ---------------------------------------------------------------------------------

    def _line(self, line: str, number: int) -> None:
        if self.held is not None and _NUMBERED.match(line):
            self.held.append((line, number))
            self._decide()
        elif len(line) > LONGEST or not self._understood(line):
            self._odd(line, number)

    def _decide(self, at_end: bool = False) -> None:
        """What the N of lines `N: ...` is: a rank comes again, `grep -n` counts on and on."""
        if not self.held:
            return
        last, before = (int(_NUMBERED.match(line)[1][:18]) for line, _ in (self.held[-1], self.held[-2:][0]))
        is_rank = len(self.held) > 1 and last <= before
        if is_rank or len(self.held) == HELD or at_end:
            self.numbered = not is_rank and len(self.held) > 1
            held, self.held = self.held, None
            for line, number in held:
                self._line(line, number)

    def _understood(self, line: str) -> bool:
        """Whether the line was understood or bears no value."""
        here = self.here
        if label := _LABEL.match(line):
            if not (self.numbered and label[2]):
                rank = int((label[1] or label[2])[:18])
                if rank not in self.ranks and len(self.ranks) > MOST_RANKS:
                    return False
                here = self.ranks.setdefault(rank, Assembler())
            line = line[label.end() :]
        prefix = _PREFIX.search(line)
        if prefix is None:
            return self._without_prefix(line, here)
        if here.dump is not None:
            dump, here.dump = "".join(here.dump), None
            self.dumped -= here.dump_size
            if event := grammar.parse(dump):
                here.head(event)
        severity, date, time, _, file, _ = prefix.groups()
        text = line[prefix.end() :]
        if severity == "F":
            here.failure = text
        if text.rstrip() + " " in grammar.DUMPS:
            here.dump, here.dump_size = [text.rstrip() + " \n"], 0
            return True
        event = self.tagged.read(text) or grammar.parse(text, file)
        if event is None:
            return not (file.endswith("solver.cpp") and _VALUE.search(text))
        self._event(event, (date, time), here)
        return True

    def _without_prefix(self, line: str, here: Assembler) -> bool:
        if here.dump is not None:
            if self.dumped < DUMP_SIZE:
                here.dump.append(line + "\n")
                here.dump_size += len(line) + 1
                self.dumped += len(line) + 1
            return True
        event = self.bare.read(line.rstrip()) if _VALUE.search(line) else None
        if event is None:
            return not _VALUE.search(line)
        self._event(event, None, here)
        return True

    def _event(self, event: e.Event, stamp: tuple[str, str] | None, here: Assembler) -> None:
        """stamp: date and time."""

        def seconds() -> float:
            return here.clock.read(*stamp) if stamp else math.nan

        match event:
            case e.Output(phase, index, name, value, weight):
                here.output(phase, (str(index), name), weight is not None, value)
            case e.Display(iteration, loss, speed):
                here.display(iteration, seconds(), loss, _known(speed))
            case e.Testing(iteration, net):
                here.test(iteration, seconds(), net)
            case e.Rate(iteration, lr, momentum, weight_decay):
                time = seconds() if here.waits else math.nan
                here.rate(iteration, time, lr, _known(momentum), _known(weight_decay))
            case e.GradientNorm(norm):
                here.norm(norm)
            case e.Clipping(norm, clip, scale):
                here.clip(norm, clip, scale)
            case e.Solving() if stamp:
                here.clock.solve(*stamp)
                here.head(event)
            case _:
                here.head(event)

    def _odd(self, line: str, number: int) -> None:
        self.unknown += 1
        if len(self.oddities) < SHOWN:
            self.oddities.append(Oddity(number, line.strip()[:160]))

    def _cut_off(self, line: str) -> bool:
        """Whether a last line without an end lacks what an earlier line of its kind has."""
        if len(line) > LONGEST:
            return True
        text = _shape(line[line.find("] ") + 1 :])
        kind = text.partition(" = ")[0]
        for earlier in reversed(self.recent.split("\n")):
            shape = _shape(earlier[earlier.find("] ") + 1 : LONGEST])
            if shape.partition(" = ")[0] == kind and " = " in shape:
                return shape != text
        return False


def _known(value: float | None) -> float:
    return math.nan if value is None else value


def _shape(text: str) -> str:
    return re.sub(grammar.NUMBER, "0", text)


def read_logs(paths: Sequence[str]) -> list[Run]:
    """The runs of some logs; what was not understood is said on stderr."""
    if list(paths).count("-") > 1:
        raise CaffeError("standard input (-) can be read as one log only")
    runs = [read_log(path) for path in paths]
    for run in runs:
        if run.unknown:
            print(run.summary(), file=sys.stderr)
    return runs

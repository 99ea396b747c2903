"""Reads a Caffe log of any size and kind into a Run.

Most lines of a log are outputs, displays, rates and gradient norms. They are found by one search over a whole
piece of text (grammar.frequent); what lies between two finds is taken line by line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from pysolver.errors import CaffeError

from . import events as e
from . import grammar
from .assemble import Assembler
from .run import Oddity, Run
from .source import open_log, pieces

SHOWN = 10  # not-understood lines that are kept as examples
NO_RANK = -1  # of lines without a rank's label
DUMP_LINES = 200_000  # of one parameter dump

_PREFIX = re.compile(r"([IWEF])(\d{8}|\d{4}) +(\d\d:\d\d:\d\d\.\d+) +(\d+) ([\w.+-]+):(\d+)\] ?")
_LABEL = re.compile(
    r"(?:\[(?:\d+,)?(\d+)\](?:<\w+>:?)?|(\d+):) ?(?=\S)"
)  # ranks, as MPI's launchers and Slurm label lines
_VALUE = re.compile(rf"Iteration \d+|net output|(?:\blr|loss|accuracy) *= *{grammar.NUMBER}")
_IMAGES = re.compile(r"A total of (\d+) images\.")


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
        self.lines = 0
        self.unknown = 0
        self.oddities: list[Oddity] = []
        self.outputs: dict[tuple[str, str, str], tuple[str, tuple[str, str], bool]] = {}  # by their words
        self.iterations = grammar.iterations()
        self.bare = grammar.frequent(r"(?:.*?[\]:>|]\s*)?")

    def feed(self, piece: str) -> None:
        """More text, cut anywhere."""
        end = piece.rfind("\n") + 1
        if not end:
            self.rest += piece
            return
        text = self.rest + piece[:end]
        self.rest = piece[end:]
        self._take(text)
        self.lines += text.count("\n")
        self.recent = text

    def finish(self) -> Run:
        """The end of the log; CaffeError if there was no iteration in it."""
        if self.rest and self._cut_off(self.rest):
            self._odd(self.rest, self.lines + 1)
        elif self.rest:
            self._take(self.rest + "\n")
        self.lines += bool(self.rest)
        self.rest = ""
        if not self.has_rows:
            raise CaffeError(self._nothing())
        return self.run()

    @property
    def has_rows(self) -> bool:
        """Whether any table has a row."""
        return any(a.train.iteration or any(t.iteration for t in a.tests.values()) for a in self.ranks.values())

    def run(self) -> Run:
        """What is known so far. Of several ranks, the lowest one that trains."""
        main = next((r for r, a in sorted(self.ranks.items()) if a.train.iteration), NO_RANK)
        run = self.ranks[main].run(self.name)
        run.unknown = self.unknown + self.ranks[main].lost
        run.oddities = list(self.oddities)
        run.other_ranks = sum(sum(a.count().values()) for r, a in self.ranks.items() if r != main)
        return run

    def _nothing(self) -> str:
        if not self.lines:
            return f"{self.name}: empty, there is no log in it"
        text = f"{self.name}: no iteration in its {self.lines} lines; is it the log of a Caffe solver?"
        if self.oddities:
            text += f" Not understood: line {self.oddities[0].line}: {self.oddities[0].text}"
        return text

    # -- frequent lines, by their words ------------------------------------------------------------------------------

    def _take(self, text: str) -> None:
        """Whole lines. Nine tenths of a log are of three kinds; what is not exactly so goes the long way."""
        outputs, here = self.outputs, self.here
        for number, line in enumerate(text.split("\n"), self.lines + 1):
            words = line.split(None, 11)  # date, time, thread, tag, then the text
            try:
                kind = words[4]
                if here.dump is not None:
                    self._line(line, number)
                elif kind == "Train" or kind == "Test":
                    known = outputs[kind, words[7], words[8]]
                    here.output(*known, float(words[10]))
                elif kind == "Gradient:" and len(words) == 8:
                    here.norm(float(words[7]))
                elif kind == "Iteration":
                    self._iteration(line, words, number)
                else:
                    self._line(line, number)
            except (IndexError, KeyError, ValueError):
                if words:
                    self._line(line, number)

    def _iteration(self, line: str, words: list[str], number: int) -> None:
        match = self.iterations.regex.fullmatch(line, line.find("] ") + 2)
        if match is None or words[0][0] not in "IWEF":
            self._line(line, number)
            return
        form, groups = self.iterations.forms[match.lastindex]
        self._numbers(form.event, dict(zip(form.spelled, match.group(*groups))), words, self.here)

    def _numbers(self, event: type[e.Event], values: dict[str, str], stamp: list[str], here: Assembler) -> None:
        """An iteration line or a clipping line, its values still text. stamp: date with its letter, time, ..."""
        number = {name: grammar.real(text) for name, text in values.items()}.get
        seconds = here.clock.read(stamp[0][1:], stamp[1]) if stamp else math.nan
        if event is e.Clipping:
            here.clip(number("norm"), number("clip"), number("scale"))
        elif event is e.Rate:
            rates = number("lr"), number("momentum", math.nan), number("weight_decay", math.nan)
            here.rate(int(values["iteration"]), seconds, *rates)
        elif event is e.Display:
            here.display(int(values["iteration"]), seconds, number("loss"), number("speed", math.nan))
        else:
            here.test(int(values["iteration"]), seconds, int(values["net"]))

    # -- all other lines, one by one ---------------------------------------------------------------------------------

    def _line(self, line: str, number: int) -> None:
        if not self._understood(line):
            self._odd(line, number)

    def _understood(self, line: str) -> bool:
        """Whether the line was understood or bears no value."""
        here = self.here
        if label := _LABEL.match(line):
            here = self.ranks.setdefault(int(label[1] or label[2]), Assembler())
            line = line[label.end() :]
        prefix = _PREFIX.search(line)
        if prefix is None:
            return self._without_prefix(line, here)
        if here.dump is not None:
            dump, here.dump = "".join(here.dump), None
            if event := grammar.parse(dump):
                here.head(event)
        severity, date, time, _, file, _ = prefix.groups()
        text = line[prefix.end() :]
        if severity == "F":
            here.failure = text
        if text.startswith("Initializing ") and text.rstrip().endswith(" from parameters:"):
            here.dump = [text.rstrip() + " \n"]
            return True
        if images := _IMAGES.fullmatch(text):
            here.images = here.images or int(images[1])
        event = grammar.parse(text, file)
        if event is None:
            return not (file.endswith("solver.cpp") and _VALUE.search(text))
        self._event(event, ["I" + date, time], here)
        if isinstance(event, e.Output) and here is self.here:
            words = line.split(None, 11)
            if words[8:10] == [event.name, "="]:  # no blank in the name: from now on by its words
                self.outputs[event.phase, words[7], event.name] = _told(event)
        return True

    def _without_prefix(self, line: str, here: Assembler) -> bool:
        if here.dump is not None:
            if len(here.dump) < DUMP_LINES:
                here.dump.append(line + "\n")
            return True
        event = self.bare.read(line.rstrip()) if _VALUE.search(line) else None
        if event is None:
            return not _VALUE.search(line)
        self._event(event, [], here)
        return True

    def _event(self, event: e.Event, stamp: list[str], here: Assembler) -> None:
        if isinstance(event, e.Output):
            here.output(*_told(event), event.value)
        elif isinstance(event, e.GradientNorm):
            here.norm(event.norm)
        elif isinstance(event, (e.Display, e.Rate, e.Testing, e.Clipping)):
            values = {f.name: str(v) for f in fields(event) if (v := getattr(event, f.name)) is not None}
            self._numbers(type(event), values, stamp, here)
        else:
            if isinstance(event, e.Solving) and stamp:
                here.clock.solve(stamp[0][1:], stamp[1])
            here.head(event)

    def _odd(self, line: str, number: int) -> None:
        self.unknown += 1
        if len(self.oddities) < SHOWN:
            self.oddities.append(Oddity(number, line.strip()[:160]))

    def _cut_off(self, line: str) -> bool:
        """Whether a last line without an end lacks what an earlier line of its kind has."""
        text = line[line.find("] ") + 1 :]
        kind = re.sub(r"\d+", r"\\d+", re.escape(text.partition(" = ")[0]))
        earlier = re.search(rf"{kind} = .*", self.recent)
        return earlier is not None and _shape(earlier[0]) != _shape(text)


def _told(output: e.Output) -> tuple[str, tuple[str, str], bool]:
    """What decides the column of an output: phase, index and name, and whether it has a loss weight."""
    return output.phase, (str(output.index), output.name), output.weight is not None


def _shape(text: str) -> str:
    return re.sub(grammar.NUMBER, "0", text)

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
        self.ranks: dict[int, Assembler] = {0: Assembler()}
        self.here = self.ranks[0]
        self.rest = ""  # a line that has not ended
        self.recent = ""  # the last piece, to judge a line that was cut off
        self.lines = 0
        self.unknown = 0
        self.oddities: list[Oddity] = []
        self.bulk = grammar.frequent(r"\]  *", strict=False)
        self.forms = {last: _hot(form, groups) for last, (form, groups) in self.bulk.forms.items()}
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
        main = next((r for r, a in sorted(self.ranks.items()) if a.train.iteration), 0)
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

    # -- frequent lines, found in bulk -------------------------------------------------------------------------------

    def _take(self, text: str) -> None:
        """Whole lines. Where all of them are frequent ones, there is no need to look between the finds."""
        lines = text.count("\n")
        matches = list(self.bulk.regex.finditer(text))
        prefixed = text.count("\nI") + text.startswith("I") == lines
        if len(matches) == lines and prefixed and self.here.dump is None:
            for match in matches:
                self._frequent(match, text)
            return
        end = 0
        for match in matches:
            start = text.rfind("\n", end, match.start()) + 1 or end
            if start > end:
                self._lines(text, end, start)
            end = match.end() + 1
            if text[start] in "IWEF" and self.here.dump is None:
                self._frequent(match, text)
            else:
                self._lines(text, start, end)
        if end < len(text):
            self._lines(text, end, len(text))

    def _frequent(self, match: re.Match[str], text: str) -> None:
        form, groups, phase = self.forms[match.lastindex]
        try:
            if phase is not None:
                index, name, value = match.group(*groups)
                self.here.output(phase, (index, name), len(form.spelled) == 5, float(value))
            elif form.event is e.GradientNorm:
                self.here.norm(float(match[groups[0]]))
            else:
                self._numbers(form.event, dict(zip(form.spelled, match.group(*groups))), match, self.here)
        except ValueError:  # a number in an odd spelling, or none
            start = text.rfind("\n", 0, match.start()) + 1
            self._lines(text, start, match.end() + 1)

    def _numbers(self, event: type[e.Event], values: dict[str, str], at: re.Match[str], here: Assembler) -> None:
        """An iteration line or a clipping line, its values still text. `at`: where its prefix ends or is."""
        number = {name: grammar.real(text) for name, text in values.items()}.get
        if event is e.Clipping:
            here.clip(number("norm"), number("clip"), number("scale"))
        elif event is e.Rate:
            seconds = self._seconds(at, here) if here.lost else math.nan
            rates = number("lr"), number("momentum", math.nan), number("weight_decay", math.nan)
            here.rate(int(values["iteration"]), seconds, *rates)
        elif event is e.Display:
            seconds = self._seconds(at, here)
            here.display(int(values["iteration"]), seconds, number("loss"), number("speed", math.nan))
        else:
            here.test(int(values["iteration"]), self._seconds(at, here), int(values["net"]))

    def _seconds(self, at: re.Match[str] | None, here: Assembler) -> float:
        """The time of the line that a match is in."""
        if at is None:
            return math.nan
        line = at.string.rfind("\n", 0, at.start()) + 1
        stamp = _PREFIX.search(at.string, line, at.end())
        return here.clock.read(stamp[2], stamp[3]) if stamp else math.nan

    # -- all other lines, one by one ---------------------------------------------------------------------------------

    def _lines(self, text: str, start: int, end: int) -> None:
        for count, line in enumerate(text[start:end].split("\n")):
            if line and not self._line(line):
                self._odd(line, self.lines + text.count("\n", 0, start) + count + 1)

    def _line(self, line: str) -> bool:
        """Whether the line was understood or bears no value."""
        here = self.here
        if label := _LABEL.match(line):
            here = self.ranks.setdefault(int(label[1] or label[2]), here if not self.has_rows else Assembler())
            line = line[label.end() :]
        prefix = _PREFIX.search(line)
        if prefix is None:
            return self._without_prefix(line, here)
        if here.dump is not None:
            dump, here.dump = "".join(here.dump), None
            if event := grammar.parse(dump):
                here.head(event)
        severity, file = prefix[1], prefix[5]
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
        self._event(event, prefix, here)
        return True

    def _without_prefix(self, line: str, here: Assembler) -> bool:
        if here.dump is not None:
            if len(here.dump) < DUMP_LINES:
                here.dump.append(line + "\n")
            return True
        event = self.bare.read(line.rstrip()) if _VALUE.search(line) else None
        if event is None:
            return not _VALUE.search(line)
        self._event(event, None, here)
        return True

    def _event(self, event: e.Event, prefix: re.Match[str] | None, here: Assembler) -> None:
        if isinstance(event, e.Output):
            here.output(event.phase, (str(event.index), event.name), event.weight is not None, event.value)
        elif isinstance(event, e.GradientNorm):
            here.norm(event.norm)
        elif isinstance(event, (e.Display, e.Rate, e.Testing, e.Clipping)):
            values = {f.name: str(v) for f in fields(event) if (v := getattr(event, f.name)) is not None}
            self._numbers(type(event), values, prefix, here)
        else:
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


def _hot(form: grammar.Form, groups: tuple[int, ...]) -> tuple[grammar.Form, tuple[int, ...], str | None]:
    """What the bulk search needs of a form: of outputs only index, name and value, and their phase."""
    if form.event is e.Output:
        return form, groups[:3], str(dict(form.given)["phase"])
    return form, groups, None


def _shape(text: str) -> str:
    return re.sub(grammar.NUMBER, "0", text)

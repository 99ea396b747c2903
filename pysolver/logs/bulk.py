"""The quick way through a log: its frequent lines as columns of numbers, whole pieces of text at once.

Nine tenths of a log are six kinds of lines, each made of words at fixed places, which the rows of grammar.py tell.
numpy finds the words of all lines of a piece together, and only what is exactly of such a form is taken here; values
that no table keeps are not looked at. All else, and any stretch in which something is out of the ordinary (a resumed
run, an output without its iteration), is left to the reader's line-by-line way, which gives the same result for every
line; tests hold one against the other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

import numpy as np

from pysolver.logs import events as e
from pysolver.logs import grammar
from pysolver.logs.assemble import Assembler, Rows, Values
from pysolver.logs.words import BEFORE, LONGEST, Words

COLD, TRAIN, TEST, NORM, CLIP, DISPLAY, TESTING, RATE, ASIDE = range(9)
_HEADS = {DISPLAY: "display", TESTING: "test", RATE: "rate"}  # what tells an iteration, as the assembler calls it
_HEAD = 8  # characters by which lines are told apart first
_FIELD = re.compile(r"\{(?:\w+|\*)\}")
_INDEX = re.compile("#[0-9]{1,9}:")
_DIGITS = np.array([0, 1, 3, 4, 6, 7, 9, 10, 11, 12, 13, 14])  # of `hh:mm:ss.micros`
_DATE = re.compile(r"[IWEF](\d{8}|\d{4})")

# What tables keep of an event, in the order of their columns.
KEPT: dict[type[e.Event], tuple[str, ...]] = {
    e.Output: ("value",),
    e.GradientNorm: ("norm",),
    e.Clipping: ("norm", "clip", "scale"),
    e.Display: ("loss", "speed"),
    e.Testing: (),
    e.Rate: ("lr", "momentum", "weight_decay"),
}
_KINDS = {e.GradientNorm: NORM, e.Clipping: CLIP, e.Display: DISPLAY, e.Testing: TESTING, e.Rate: RATE}
# Lines that no other line depends on: the reader takes them one by one after the stretch they stand in.
_ASIDES = (e.Snapshot, e.RestartingData, e.WaitingForData, e.IgnoringSourceLayer, e.MultiStep)


@dataclass(frozen=True)
class Field:
    """A value inside a word, with so many characters of the form before and after it."""

    place: int
    left: int
    right: int


@dataclass(frozen=True)
class Places:
    """Where a line of some form has its words: `Iteration {iteration}, lr = {lr}` has six, its values in two of them.

    Places after a name, which may hold blanks, are counted back from the line's end.
    """

    kind: int
    head: str
    words: int  # how many; of a form with a name the fewest
    texts: tuple[tuple[int, int, str], ...]  # what stands so many characters before the end of a word
    numbers: tuple[tuple[str, Field, bool], ...]  # those that are read; whether they are whole
    kept: tuple[str, ...]
    name: tuple[int, int] | None  # first and last word; the word before it is its index
    weighted: bool


def _places(form: grammar.Form) -> Places | None:
    """The places of a form, None if a value that is kept shares its word with others."""
    text, kinds = form.text.lstrip(), form.kinds
    words = text.split()
    named = next((i for i, word in enumerate(words) if word == "{name}"), None)

    def counted(place: int) -> int:
        return place if named is None or place < named else place - len(words)

    fields = {}
    for place, word in enumerate(words):
        if len(_FIELD.findall(word)) == 1 and (found := _FIELD.search(word)):
            fields[found[0][1:-1]] = Field(counted(place), found.start(), len(word) - found.end())
    numbers = tuple(name for name in form.spelled if name in (*KEPT[form.event], "iteration", "net"))
    if not fields.keys() >= {*numbers} or (named is None) is (form.event is e.Output):
        return None
    texts: list[tuple[int, int, str]] = []
    matches = list(_FIELD.finditer(text))
    for match, following in zip(matches, [*matches[1:], None]):
        between = text[match.end() : following.start() if following else len(text)]
        place = len(text[: match.start() + 1].split()) - 1
        if between and (" " in between or following is None):  # two values of one word: nothing holds their border
            texts.append((counted(place), len(between.split(" ")[0]), between))
    kind = _KINDS.get(form.event) or (TRAIN if ("phase", "Train") in form.given else TEST)
    name = None if named is None else (named, named - len(words))
    read = tuple((name, fields[name], kinds[name] is int) for name in numbers)
    head = text[: matches[0].start()]
    return Places(kind, head, len(words), tuple(texts), read, KEPT[form.event], name, "weight" in form.spelled)


@cache
def _forms() -> tuple[tuple[Places, ...], frozenset[str]]:
    """The places of all frequent forms, and how asides begin."""
    rows = grammar.FORMS + grammar.DIALECTS
    places = [_places(form) for form in rows if form.event in KEPT]
    asides = frozenset(form.text[:_HEAD] for form in rows if form.event in _ASIDES)
    return tuple(p for p in places if p is not None and len(p.head) >= _HEAD), asides


@dataclass
class Lines:
    """What each line of a piece says; arrays of one value a line. column: index into `columns`, for outputs."""

    kind: np.ndarray
    iteration: np.ndarray
    values: np.ndarray  # (lines, 3): those of KEPT
    seconds: np.ndarray
    column: np.ndarray
    columns: list[tuple[str, str]]  # index and name, as printed
    weighted: np.ndarray
    ends: np.ndarray  # where each line ends, in bytes


def classify(data: bytes, here: Assembler) -> Lines:
    """What the lines of a piece of complete lines say; COLD where that is for others to find out."""
    words = Words(data)
    size = len(words.count)
    lines = Lines(
        np.zeros(size, np.int8), np.zeros(size, np.int64), np.full((size, 3), np.nan), np.full(size, np.nan),
        np.zeros(size, np.int64), [], np.zeros(size, bool), words.line_ends,
    )  # fmt: skip
    rows = words.of_records()
    heads = words.eights[words.span(rows, 0)[0]]
    forms, asides = _forms()

    def beginning(text: str) -> np.ndarray:
        return rows[heads == np.uint64(int.from_bytes(text[:_HEAD].encode(), "little"))]

    left = {text: beginning(text) for text in dict.fromkeys(form.head[:_HEAD] for form in forms)}
    for form in forms:
        candidates = left[form.head[:_HEAD]]
        found = _of(words, candidates, form)
        if len(found) and form.kind == NORM:  # every rank prints the same: one of lines in a row is read
            new = np.append(True, np.diff(found) > 1)
            _enter(lines, words, found[new], form)
            lines.kind[found] = lines.kind[found[new]][np.cumsum(new) - 1]
        elif len(found):
            _enter(lines, words, found, form)
            left[form.head[:_HEAD]] = candidates[lines.kind[candidates] == COLD]
    for text in asides:
        lines.kind[beginning(text)] = ASIDE
    _times(lines, words, np.flatnonzero((lines.kind == DISPLAY) | (lines.kind == TESTING)), here)
    return lines


def _of(words: Words, rows: np.ndarray, form: Places) -> np.ndarray:
    """The lines that have all the texts of a form at their places."""
    count = words.count[rows] - BEFORE
    rows = rows[count >= form.words if form.name else count == form.words]
    rows = rows[words.say(words.span(rows, 0)[0] + _HEAD, form.head[_HEAD:])]
    for place, back, text in form.texts:
        rows = rows[words.say(words.span(rows, place)[1] - back, text)]
    return rows


def _enter(lines: Lines, words: Words, rows: np.ndarray, form: Places) -> None:
    """What the lines of a form say; those whose numbers are none stay cold."""
    values, good = {}, np.ones(len(rows), bool)
    for name, field, whole in form.numbers:
        values[name], fine = words.numbers(rows, field.place, field.left, field.right, whole)
        good &= fine
    if "net" in values:
        good &= values["net"] == 0
    if form.name:
        start, stop = words.span(rows, form.name[0] - 1)[0], words.span(rows, form.name[1])[1]
        good &= stop - start <= LONGEST
        rows, values = rows[good], {name: value[good] for name, value in values.items()}
        index, texts = words.texts(start[good], stop[good])
        keys = [tuple(text.split(" ", 1)) for text in texts]
        good = np.array([_INDEX.fullmatch(number) is not None for number, _ in keys], bool)[index]
        lines.column[rows] = index + len(lines.columns)
        lines.columns += [(number[1:-1], name) for number, name in keys]
        lines.weighted[rows] = form.weighted
    rows = rows[good]
    lines.kind[rows] = form.kind
    if "iteration" in values:
        lines.iteration[rows] = values["iteration"][good]
    for column, name in enumerate(form.kept):
        if name in values:
            lines.values[rows, column] = values[name][good]


def _times(lines: Lines, words: Words, rows: np.ndarray, here: Assembler) -> None:
    """Times of some lines, before the clock's start is taken off, from the stamps at their beginning."""
    first = words.first[rows]
    index, dates = words.texts(words.starts[first], words.stops[first])
    start = words.starts[first + 1]
    digits = words.bytes[start[:, None] + _DIGITS].astype(np.int64) - 48
    good = np.array([_DATE.fullmatch(date) is not None for date in dates], bool)[index]
    good &= (words.stops[first + 1] - start == 15) & ((digits >= 0) & (digits <= 9)).all(1)
    good &= words.say(start + 8, ".")
    lines.kind[rows[~good]] = COLD
    rows, index, digits = rows[good], index[good], digits[good]
    weights = np.array([36000, 3600, 600, 60, 10, 1]) * 1_000_000
    micros = digits[:, :6] @ weights + digits[:, 6:] @ 10 ** np.arange(5, -1, -1)
    days = np.zeros(len(dates))
    for i in dict.fromkeys(index.tolist()):  # in the order of the log, for the year's end
        days[i] = here.clock.date(dates[i][1:])
    lines.seconds[rows] = (days[index] if len(rows) else 0) + micros / 1e6


def take(lines: Lines, start: int, stop: int, here: Assembler) -> bool:
    """Gives a stretch of lines without cold ones to the assembler; False, and nothing done, if it is no plain one."""
    part = slice(start, stop)
    kind, iteration = lines.kind[part], lines.iteration[part]
    at = {k: np.flatnonzero(kind == k) for k in _HEADS}
    if here.waits or not all(_rises(iteration[at[k]], here.last.get(name, -1)) for k, name in _HEADS.items()):
        return False
    tests = here.tests.get(0)
    if len(at[TESTING]) and (set(here.tests) - {0} or here.net != 0):
        return False
    if here.testing is not None and here.testing is not tests:
        return False
    outputs = []
    for phase, rows, heads in ((TRAIN, here.train, at[DISPLAY]), (TEST, tests, at[TESTING])):
        found = _fit(lines, start, np.flatnonzero(kind == phase), rows, heads)
        if found is None:
            return False
        outputs.append(found)
    _store(here, lines, part, at, outputs)
    return True


def _rises(iteration: np.ndarray, last: int) -> bool:
    return not len(iteration) or (iteration[0] > last and bool((np.diff(iteration) > 0).all()))


def _fit(
    lines: Lines, start: int, at: np.ndarray, rows: Rows | None, heads: np.ndarray
) -> list[tuple[tuple[str, str], bool, np.ndarray, np.ndarray]] | None:
    """Key, weight, rows and values of each output of a phase; None if one has no row, or two for one row."""
    found = []
    present = rows.row if rows is not None else -1
    column = lines.column[start + at]
    for number in np.unique(column):
        places = at[column == number]
        row = present + np.searchsorted(heads, places)
        key = lines.columns[number]
        known = rows.outputs.get(key) if rows is not None else None
        if row[0] < 0 or row[0] <= (known.filled if known else -1) or (np.diff(row) < 1).any():
            return None
        weighted = bool(lines.weighted[start + places[0]])
        found.append((key, weighted, row, lines.values[start + places, 0]))
    return found


def _store(here: Assembler, lines: Lines, part: slice, at: dict[int, np.ndarray], outputs: list) -> None:
    """What a stretch says, into the assembler's columns. at: its heads, the lines that tell an iteration, by kind."""
    iteration, values, seconds = lines.iteration[part], lines.values[part], lines.seconds[part]
    timed = np.isfinite(seconds)
    if here.clock.start is None and timed.any():
        here.clock.start = float(seconds[timed][0])
    seconds = seconds - (here.clock.start or 0.0)
    heads = np.sort(np.concatenate(list(at.values())))
    if len(heads):
        here.reach(int(iteration[heads[0]]), float(seconds[heads[0]]))
    _store_gradients(here, lines.kind[part], values, iteration, heads)
    number = len(here.first) - 1
    if len(at[TESTING]) and 0 not in here.tests:
        here.tests[0] = Rows()
    for k, rows, found in zip((DISPLAY, TESTING), (here.train, here.tests.get(0)), outputs):
        if len(at[k]):
            rows.extend(iteration[at[k]], seconds[at[k]], number, values[at[k], 0], values[at[k], 1])
        _store_outputs(rows, found)
    rates = at[RATE]
    columns = (iteration[rates], np.full(len(rates), number), *values[rates].T)
    for array, column in zip(here.rates.values(), columns):
        _extend(array, column)
    here.displays += len(at[DISPLAY])
    if len(at[TESTING]):
        here.testing = here.tests[0]
    for k, name in _HEADS.items():
        if len(at[k]):
            here.last[name] = int(iteration[at[k]][-1])
    if len(heads):
        here.now = int(iteration[heads[-1]])
        here.reached = max(here.reached, int(iteration[heads].max()))


def _store_gradients(
    here: Assembler, kind: np.ndarray, values: np.ndarray, iteration: np.ndarray, heads: np.ndarray
) -> None:
    """Clippings and norms, at the iteration of the head before them."""

    def now_at(rows: np.ndarray) -> np.ndarray:
        return np.append(here.now, iteration[heads])[np.searchsorted(heads, rows)]

    clips = np.flatnonzero(kind == CLIP)
    for numbers, column in zip(here.clips.values(), (now_at(clips), *values[clips].T)):
        _extend(numbers, column)
    norms = np.flatnonzero(kind == NORM)
    here.norm_lines += len(norms)
    now = now_at(norms)
    last = here.norms["iteration"][-1:].tolist() or [np.nan]
    firsts = now != np.append(last, now[:-1])  # every rank prints the same
    _extend(here.norms["iteration"], now[firsts])
    _extend(here.norms["norm"], values[norms[firsts], 0])


def _store_outputs(rows: Rows | None, found: list[tuple[tuple[str, str], bool, np.ndarray, np.ndarray]]) -> None:
    for key, weighted, row, value in found:
        if key not in rows.outputs:
            rows.outputs[key] = Values(key[0], key[1], weighted)
        column = rows.outputs[key]
        column.filled = int(row[-1])
        _extend(column.rows, row)
        _extend(column.values, value)


def _extend(array, values: np.ndarray) -> None:
    array.frombytes(np.ascontiguousarray(values, np.int64 if array.typecode == "q" else np.float64).tobytes())

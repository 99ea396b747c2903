"""The quick way through a log: its frequent lines as columns of numbers, whole pieces of text at once.

Nine tenths of a log are six kinds of lines, each made of words at fixed places (the forms of grammar.py). numpy finds
the words of all lines of a piece together, and only what is exactly of such a form is taken here. All else, and any
stretch in which something is out of the ordinary (a resumed run, an output without its iteration), is left to the
reader's line-by-line way, which gives the same result for every line; tests hold one against the other.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass

import numpy as np

from pysolver.logs.assemble import Assembler, Rows, Values

COLD, TRAIN, TEST, NORM, DISPLAY, TESTING, RATE, ASIDE = range(8)
ASIDES = ("Snapshot", "Restarti", "Waiting ", "Ignoring", "MultiSte")  # lines that no other line depends on
WIDTH = 16  # characters of the longest number that is read here
_INDEX = re.compile("#[0-9]{1,9}:")
NAME = 48  # characters of the longest output name with its index
BEFORE = 4  # words of a prefix: date, time, thread, tag
POWERS = 10.0 ** np.arange(WIDTH + 1)


@dataclass
class Lines:
    """What each line of a piece says; arrays of one value a line. column: index into `columns`, for outputs."""

    kind: np.ndarray
    iteration: np.ndarray
    values: np.ndarray  # (lines, 3): value; loss, speed; lr, momentum, weight decay
    seconds: np.ndarray
    column: np.ndarray
    columns: list[tuple[str, str]]  # index and name, as printed
    weighted: np.ndarray
    ends: np.ndarray  # where each line ends, in bytes


class _Words:
    """Where the words of a piece are."""

    def __init__(self, data: bytes) -> None:
        self.bytes = np.frombuffer(data + b" " * 64, np.uint8)
        self.eights = np.ndarray(len(data) + 56, "<u8", self.bytes, strides=(1,))  # the 8 bytes from each place on
        text = self.bytes[: len(data)]
        self.line_ends = np.flatnonzero(text == 10)
        word = text > 32
        edges = np.flatnonzero(word[1:] != word[:-1]) + 1
        edges = np.append(0, edges) if word[0] else edges
        self.starts, self.stops = edges[::2], edges[1::2]
        line_starts = np.concatenate([[0], self.line_ends[:-1] + 1])
        self.first = np.searchsorted(self.starts, line_starts)
        self.count = np.diff(np.append(self.first, len(self.starts)))

    def span(self, rows: np.ndarray, place: int) -> tuple[np.ndarray, np.ndarray]:
        """Start and stop of a word of some lines."""
        at = self.first[rows] + place
        return self.starts[at], self.stops[at]

    def begins(self, rows: np.ndarray, place: int, text: str) -> np.ndarray:
        """Which of the lines have these (up to 8) characters at the start of a word, blanks after it included."""
        mask = np.uint64((1 << 8 * len(text)) - 1)
        return self.eights[self.span(rows, place)[0]] & mask == np.uint64(int.from_bytes(text.encode(), "little"))

    def numbers(self, rows: np.ndarray, place: int, left: int = 0, right: int = 0) -> np.ndarray:
        """The numbers that are words, without `left` and `right` characters around them; ValueError if some is none."""
        start, stop = self.span(rows, place)
        start, length = start + left, stop - right - start - left
        if not len(rows):
            return np.zeros(0)
        if length.max() > WIDTH or length.min() < 1:
            raise ValueError("too long for a number")
        position = np.arange(int(length.max()))[:, None]
        characters = self.bytes[start + position]  # one row a position
        characters[position >= length] = 32
        digits = characters - np.uint8(48)
        is_digit, is_dot = digits < 10, characters == ord(".")
        mantissa = np.zeros(len(rows))
        for digit, good in zip(digits, is_digit):
            mantissa = np.where(good, 10 * mantissa + digit, mantissa)
        dots, count = is_dot.sum(0), is_digit.sum(0)
        decimals = np.where(dots == 1, length - 1 - is_dot.argmax(0), 0)
        found = mantissa / POWERS[decimals]  # exact parts: rounds as C does
        odd = np.flatnonzero((dots + count != length) | (dots > 1) | (count == 0) | (count > 15))
        if len(odd):
            found[odd] = _read(np.ascontiguousarray(characters[:, odd].T))
        return found

    def texts(self, rows: np.ndarray, place: int, to: int) -> tuple[np.ndarray, list[str]]:
        """The texts from one word to another: for each line the index of its text, and the different texts."""
        start, stop = self.span(rows, place)[0], self.span(rows, to)[1]
        longest = int((stop - start).max(initial=0))
        if longest > NAME:
            raise ValueError("too long for a name")
        key = np.zeros(len(rows), np.uint64)
        for eight in range(0, longest, 8):  # a hash of the text: eight characters at a time, cut at its end
            left = np.clip(stop - start - eight, 0, 8).astype(np.uint64)
            mask = np.where(
                left == 8, ~np.uint64(0), (np.uint64(1) << (np.uint64(8) * (left % np.uint64(8)))) - np.uint64(1)
            )
            key = (key ^ (self.eights[start + eight] & mask)) * np.uint64(0x9E3779B97F4A7C15)
            key ^= key >> np.uint64(29)
        _, first, index = np.unique(key, return_index=True, return_inverse=True)
        return index, [self.bytes[start[i] : stop[i]].tobytes().decode() for i in first]


def _read(characters: np.ndarray) -> np.ndarray:
    """Numbers in any spelling that C reads, one row of characters each, blanks after them."""
    rows, width = characters.shape
    spaced = np.full((rows, width + 1), 32, np.uint8)
    spaced[:, :width] = characters
    with warnings.catch_warnings():  # where a text is no number numpy stops, and by its age warns or raises
        warnings.simplefilter("error", DeprecationWarning)
        try:
            found = np.fromstring(spaced.tobytes(), sep=" ")
        except DeprecationWarning as reason:
            raise ValueError("no number") from reason
    if len(found) != rows:
        raise ValueError("no number")
    return found


def classify(data: bytes, here: Assembler) -> Lines:
    """What the lines of a piece of complete lines say; COLD where that is for others to find out.

    ValueError if a number in a frequent line is none: then the whole piece is for others.
    """
    words = _Words(data)
    size = len(words.count)
    lines = Lines(
        np.zeros(size, np.int8), np.zeros(size, np.int64), np.full((size, 3), np.nan), np.full(size, np.nan),
        np.zeros(size, np.int64), [], np.zeros(size, bool), words.line_ends,
    )  # fmt: skip
    rows = np.flatnonzero(words.count > BEFORE)
    tagged = words.bytes[words.span(rows, 3)[1] - 1] == ord("]")
    letter = np.isin(words.bytes[words.span(rows, 0)[0]], np.frombuffer(b"IWEF", np.uint8))
    rows = rows[tagged & letter & (words.starts[words.first[rows]] == np.append(0, words.line_ends[:-1] + 1)[rows])]

    counts = words.count[rows] - BEFORE
    heads = words.eights[words.span(rows, BEFORE)[0]]  # the first eight characters of the text

    def of(kind: str, *wanted: int) -> np.ndarray:
        fits = heads == np.uint64(int.from_bytes(kind.encode(), "little"))
        return rows[fits & np.isin(counts, wanted)] if wanted else rows[fits]

    _outputs(lines, words, of("Train ne", 7, 12), TRAIN)
    _outputs(lines, words, of("Test net", 7, 12), TEST)
    norms = of("Gradient", 4)
    norms = norms[words.begins(norms, BEFORE + 1, "L2 norm ")]
    lines.kind[norms] = NORM
    for beginning in ASIDES:
        lines.kind[of(beginning)] = ASIDE
    iterations = of("Iteratio")
    lengths = words.count[iterations] - BEFORE
    _iterations(lines, words, {length: iterations[lengths == length] for length in (5, 8, 9, 12)})
    told = np.cumsum((lines.kind >= DISPLAY) & (lines.kind <= RATE))[norms]
    firsts = norms[np.append(True, told[1:] != told[:-1])] if len(norms) else norms  # every rank prints the same
    lines.values[firsts, 0] = words.numbers(firsts, BEFORE + 3)
    _times(lines, words, np.flatnonzero((lines.kind == DISPLAY) | (lines.kind == TESTING)), here)
    return lines


def _outputs(lines: Lines, words: _Words, rows: np.ndarray, kind: int) -> None:
    rows = rows[words.begins(rows, BEFORE + 5, "= ") & words.begins(rows, BEFORE + 2, "output #")]
    index, texts = words.texts(rows, BEFORE + 3, BEFORE + 4)
    keys = [tuple(text.split()) for text in texts]
    if not all(_INDEX.fullmatch(number) for number, _ in keys):
        raise ValueError("no output")
    lines.kind[rows], lines.values[rows, 0] = kind, words.numbers(rows, BEFORE + 6)
    lines.column[rows] = index + len(lines.columns)
    lines.columns += [(number[1:-1], name) for number, name in keys]
    lines.weighted[rows] = words.count[rows] == BEFORE + 12


def _iterations(lines: Lines, words: _Words, rows: dict[int, np.ndarray]) -> None:
    """`Iteration I, loss = L`, `..., lr = R`, `..., Testing net (#0)`, and the long forms of the first two."""
    five = rows[5]
    tests = five[words.begins(five, BEFORE + 2, "Testing ") & words.begins(five, BEFORE + 4, "(#0)")]
    shows = five[words.begins(five, BEFORE + 2, "loss = ")]
    rates = five[words.begins(five, BEFORE + 2, "lr = ")]
    eight, nine, twelve = rows[8], rows[9], rows[12]
    short = eight[words.begins(eight, BEFORE + 2, "lr = ") & words.begins(eight, BEFORE + 5, "m = ")]
    timed = nine[words.begins(nine, BEFORE + 3, "iter/s, ") & words.begins(nine, BEFORE + 5, "iter")]
    timed = timed[words.begins(timed, BEFORE + 6, "loss = ")]
    full = twelve[words.begins(twelve, BEFORE + 2, "lr = ") & words.begins(twelve, BEFORE + 5, "momentum")]
    full = full[words.begins(full, BEFORE + 8, "weight d")]
    for kind, found, places in (
        (TESTING, tests, ()),
        (DISPLAY, shows, ((4, 0, 0),)),
        (DISPLAY, timed, ((8, 0, 0), (2, 1, 0))),
        (RATE, rates, ((4, 0, 0),)),
        (RATE, short, ((4, 0, 1), (7, 0, 0))),
        (RATE, full, ((4, 0, 1), (7, 0, 1), (11, 0, 0))),
    ):
        lines.kind[found] = kind
        lines.iteration[found] = words.numbers(found, BEFORE + 1, 0, int(found is not timed))
        for column, (place, left, right) in enumerate(places):
            lines.values[found, column] = words.numbers(found, BEFORE + place, left, right)


def _times(lines: Lines, words: _Words, rows: np.ndarray, here: Assembler) -> None:
    """Times of some lines, before the clock's start is taken off, from the stamps at their beginning."""
    index, dates = words.texts(rows, 0, 0)
    start, stop = words.span(rows, 1)
    if (stop - start != 15).any():
        raise ValueError("no time")
    digits = words.bytes[start[:, None] + np.array([0, 1, 3, 4, 6, 7, 9, 10, 11, 12, 13, 14])].astype(np.int64) - 48
    if ((digits < 0) | (digits > 9)).any():
        raise ValueError("no time")
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
    at = {k: np.flatnonzero(kind == k) for k in (DISPLAY, TESTING, RATE)}
    names = {DISPLAY: "display", TESTING: "test", RATE: "rate"}
    if here.lost or not all(_rises(iteration[at[k]], here.last.get(name, -1)) for k, name in names.items()):
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
    iteration, values, seconds = lines.iteration[part], lines.values[part], lines.seconds[part]
    timed = np.isfinite(seconds)
    if here.clock.start is None and timed.any():
        here.clock.start = float(seconds[timed][0])
    seconds = seconds - (here.clock.start or 0.0)
    heads = np.sort(np.concatenate(list(at.values())))
    if len(heads):
        here.reach(int(iteration[heads[0]]), float(seconds[heads[0]]))
    norms = np.flatnonzero(lines.kind[part] == NORM)
    here.norm_lines += len(norms)
    norms = norms[np.isfinite(values[norms, 0])]
    now = np.append(here.now, iteration[heads])[np.searchsorted(heads, norms)]
    if len(now) and len(here.norms["iteration"]) and here.norms["iteration"][-1] == now[0]:
        norms, now = norms[1:], now[1:]
    _extend(here.norms["iteration"], now)
    _extend(here.norms["norm"], values[norms, 0])
    number = len(here.first) - 1
    if len(at[TESTING]) and 0 not in here.tests:
        here.tests[0] = Rows()
    for k, rows in ((DISPLAY, here.train), (TESTING, here.tests.get(0))):
        if len(at[k]):
            rows.extend(iteration[at[k]], seconds[at[k]], number, values[at[k], 0], values[at[k], 1])
    for rows, found in zip((here.train, here.tests.get(0)), outputs):
        for key, weighted, row, value in found:
            column = (
                rows.outputs.setdefault(key, Values(*key, weighted)) if key not in rows.outputs else rows.outputs[key]
            )
            column.filled = int(row[-1])
            _extend(column.rows, row)
            _extend(column.values, value)
    rates = at[RATE]
    columns = (iteration[rates], np.full(len(rates), number), *values[rates].T)
    for array, column in zip(here.rates.values(), columns):
        _extend(array, column)
    here.displays += len(at[DISPLAY])
    if len(at[TESTING]):
        here.testing = here.tests[0]
    for k, name in ((DISPLAY, "display"), (TESTING, "test"), (RATE, "rate")):
        if len(at[k]):
            here.last[name] = int(iteration[at[k]][-1])
    if len(heads):
        here.now = int(iteration[heads[-1]])
        here.reached = max(here.reached, int(iteration[heads].max()))


def _extend(array, values: np.ndarray) -> None:
    array.frombytes(np.ascontiguousarray(values, np.int64 if array.typecode == "q" else np.float64).tobytes())

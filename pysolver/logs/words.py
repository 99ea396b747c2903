"""The words of many lines at once: where they are, what they say, the numbers among them."""

from __future__ import annotations

import re
import warnings

import numpy as np

from pysolver.logs.grammar import NUMBER, real

BEFORE = 4  # words of a prefix: date, time, thread, tag
WIDTH = 16  # characters of the longest number that is read here
LONGEST = 48  # characters of the longest text that is read here
POWERS = 10.0 ** np.arange(WIDTH + 1)


class Words:
    """The words of a piece of complete lines. Places count from the text's first, or back from its end."""

    def __init__(self, data: bytes) -> None:
        self.bytes = np.frombuffer(data + b" " * 64, np.uint8)
        self.eights = np.ndarray(len(data) + 56, "<u8", self.bytes, strides=(1,))  # the 8 bytes from each place on
        text = self.bytes[: len(data)]
        self.line_ends = np.flatnonzero(text == 10)
        word = np.zeros(len(data) + 1, bool)
        np.greater(text, 32, out=word[1:])
        edges = np.flatnonzero(word[1:] != word[:-1])
        self.starts, self.stops = edges[::2], edges[1::2]
        self.line_starts = np.concatenate([[0], self.line_ends[:-1] + 1])
        self.first = np.searchsorted(self.starts, self.line_starts)
        self.count = np.diff(np.append(self.first, len(self.starts)))

    def of_records(self) -> np.ndarray:
        """The lines that have a prefix, and after it words with one blank between them."""
        rows = np.flatnonzero(self.count > BEFORE)
        first, last = self.first[rows], self.first[rows] + self.count[rows] - 1
        begins = np.isin(self.bytes[self.starts[first]], np.frombuffer(b"IWEF", np.uint8))
        begins &= self.starts[first] == self.line_starts[rows]
        tag = self.stops[first + BEFORE - 1]
        tagged = (self.bytes[tag - 1] == ord("]")) & (self.bytes[tag - 2] - np.uint8(48) < 10)
        wide = np.cumsum(self.starts[1:] - self.stops[:-1] != 1, dtype=np.int32)  # two blanks and more after a word
        tagged &= self.stops[last] == self.line_ends[rows]
        tagged &= self.stops[first] - self.starts[first] <= LONGEST  # else it is no date
        return rows[begins & tagged & (wide[last - 1] == wide[first + BEFORE - 1])]

    def span(self, rows: np.ndarray, place: int) -> tuple[np.ndarray, np.ndarray]:
        """Start and stop of a word of some lines."""
        at = self.first[rows] + (BEFORE + place if place >= 0 else self.count[rows] + place)
        return self.starts[at], self.stops[at]

    def say(self, start: np.ndarray, text: str) -> np.ndarray:
        """Where, of these places in the bytes, this text begins."""
        found = np.ones(len(start), bool)
        letters = text.encode()
        for at in range(0, len(letters), 8):
            eight = letters[at : at + 8]
            mask = np.uint64((1 << 8 * len(eight)) - 1)
            found &= self.eights[start + at] & mask == np.uint64(int.from_bytes(eight, "little"))
        return found

    def numbers(
        self, rows: np.ndarray, place: int, left: int, right: int, whole: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """The numbers that are words, without `left` and `right` characters around them, and which of them are some."""
        start, stop = self.span(rows, place)
        start, length = start + left, stop - right - start - left
        good = (length <= WIDTH) & (length > 0)
        if not good.any():
            return np.full(len(rows), np.nan), good
        position = np.arange(int(length[good].max()))[:, None]
        characters = self.bytes[start + position]  # one row a position
        characters[position >= length] = 32
        digits = characters - np.uint8(48)
        is_digit, is_dot = digits < 10, characters == ord(".")
        mantissa = np.zeros(len(rows))
        for digit, is_one in zip(digits, is_digit):
            mantissa = np.where(is_one, 10 * mantissa + digit, mantissa)
        dots, count = is_dot.sum(0), is_digit.sum(0)
        decimals = np.where(dots == 1, length - 1 - is_dot.argmax(0), 0)
        found = mantissa / POWERS[np.where(good, decimals, 0)]  # exact parts: rounds as C does
        if whole:
            return found, good & (count == length) & (count <= 15)
        odd = np.flatnonzero(good & ((dots + count != length) | (dots > 1) | (count == 0) | (count > 15)))
        if len(odd):
            found[odd], good[odd] = _read(np.ascontiguousarray(characters[:, odd].T))
        return found, good

    def texts(self, start: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, list[str]]:
        """The texts of some spans, of up to LONGEST characters: for each the index of its text, and all that differ."""
        key = np.zeros(len(start), np.uint64)
        for eight in range(0, int((stop - start).max(initial=0)), 8):  # a hash of eight characters at a time
            left = np.clip(stop - start - eight, 0, 8).astype(np.uint64)
            mask = np.where(
                left == 8, ~np.uint64(0), (np.uint64(1) << (np.uint64(8) * (left % np.uint64(8)))) - np.uint64(1)
            )
            key = (key ^ (self.eights[start + eight] & mask)) * np.uint64(0x9E3779B97F4A7C15)
            key ^= key >> np.uint64(29)
        _, first, index = np.unique(key, return_index=True, return_inverse=True)
        return index, [self.bytes[start[i] : stop[i]].tobytes().decode() for i in first]


def _read(characters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers in any spelling that C writes, one row of characters each with blanks after them; and which are some."""
    rows, width = characters.shape
    spaced = np.full((rows, width + 1), 32, np.uint8)
    spaced[:, :width] = characters
    with warnings.catch_warnings():  # where a text is no number numpy stops, and by its age warns or raises
        warnings.simplefilter("error", DeprecationWarning)
        try:
            found = np.fromstring(spaced.tobytes(), sep=" ")
        except (DeprecationWarning, ValueError):
            found = np.zeros(0)
    if len(found) == rows:
        return found, np.ones(rows, bool)
    texts = [row.tobytes().decode("utf-8", "replace").rstrip(" ") for row in characters]
    good = np.array([re.fullmatch(NUMBER, text) is not None for text in texts])
    return np.array([real(text) if is_one else np.nan for text, is_one in zip(texts, good)]), good

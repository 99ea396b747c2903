"""The words of protobuf's text format, and errors that say where."""

from __future__ import annotations

import re
from typing import NoReturn

from pysolver.errors import CaffeError
from pysolver.proto.suggestions import placeholder, shown, why

_TOKEN = re.compile(
    r"""(?:[\ \t\r\n\v\f]+|\#[^\n]*)*  # space and comments
    (?: (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<number>\.?[0-9](?:[eE][+-]|[A-Za-z0-9_.])*)
      | (?P<string>"[^"\\\n]*(?:\\[^\n][^"\\\n]*)*"|'[^'\\\n]*(?:\\[^\n][^'\\\n]*)*')
      | (?P<symbol>[\s\S])
      | (?P<end>\Z) )""",
    re.VERBOSE,
)


class Tokens:
    """Reads `text` word by word; `name` stands for the file in errors. `kind`, `token`, `start`: of the next word."""

    def __init__(self, text: str, name: str):
        self.text = text
        self.name = name
        self.open: list[int] = []  # where the braces stand that are not closed yet
        if "\0" in text:
            self.fail("a NUL byte: this is not text", text.index("\0"))
        self._advance_from(0)

    def _advance_from(self, position: int) -> None:
        match = _TOKEN.match(self.text, position)  # which takes anything
        self.kind = match.lastgroup
        self.token = match[self.kind]
        self.start, self._next = match.span(self.kind)

    def take(self) -> str:
        token = self.token
        self._advance_from(self._next)
        return token

    def attempt(self, symbol: str) -> bool:
        found = self.token == symbol and self.kind == "symbol"
        if found:
            self.take()
        return found

    def expect(self, symbol: str) -> None:
        if not self.attempt(symbol):
            self.fail_expected(f"'{symbol}'")

    def fail(self, text: str, at: int | None = None) -> NoReturn:
        at = self.start if at is None else at
        line = self.text.count("\n", 0, at) + 1
        column = at - self.text.rfind("\n", 0, at)
        raise CaffeError(f"{self.name}:{line}:{column}: {text}")

    def fail_expected(self, what: str) -> NoReturn:
        if self.kind == "end":
            if self.open:
                line = self.text.count("\n", 0, self.open[-1]) + 1
                self.fail(f"expected {what}, but the file ends; the brace opened in line {line} is not closed")
            self.fail(f"expected {what}, but the file ends")
        if self.kind == "symbol" and self.token in "\"'":
            self.fail("this string does not end in its line")
        blank = placeholder(self.text, self.start)
        if blank or (self.kind == "name" and what.startswith(("a number", "an integer"))):
            word = blank or shown(self.token)
            self.fail(f"expected {what}, found {word}: if it is a placeholder of a template, fill it in first")
        unquoted = self.kind == "string" and " for " in what and not what.startswith("a name")
        quoted = "; leave out the quotes" if unquoted else ""
        self.fail(f"expected {what}, found {shown(self.token)}{quoted or why(self.text, self.start)}")

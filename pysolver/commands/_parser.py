"""argparse's parser, which also says what an argument that it does not know may have meant."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from typing import Any

_FILES = (("solver", ".prototxt"), ("model", ".prototxt"), ("weights", ".caffemodel"), ("snapshot", ".solverstate"))


class Parser(argparse.ArgumentParser):
    """Exits with status 2 and one line for arguments that are not known."""

    def parse_args(self, words: Sequence[str], namespace: Any = None) -> Any:  # type: ignore[override]
        args, unknown = self.parse_known_args(words, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._meant(unknown[0])}")
        return args

    def _meant(self, word: str) -> str:
        """`; did you mean --solver=s.prototxt?`, or nothing."""
        name, equals, value = word.lstrip("-").partition("=")
        known = {flag.lstrip("-"): flag for flag in self._option_string_actions}  # two dashes come last
        if word.startswith("-"):
            near = difflib.get_close_matches(name, known, 1)
            return f"; did you mean {known[near[0]]}{equals}{value}?" if near else ""
        fitting = (name for name, end in _FILES if name in known and word.endswith(end))
        return "".join(f"; did you mean --{name}={word}?" for name in list(fitting)[:1])

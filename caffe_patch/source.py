"""Finding places in C++ and proto sources by what they are, not by line number.

All functions take and return offsets into the text as it is; line endings are never touched. What lies in comments
and literals is not code, so a brace or a name there misleads nobody.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator

_NOT_CODE = re.compile(
    r"""//(?:[^\n\\]|\\.)*          # line comment, which a backslash continues
      | /\*.*?(?:\*/|\Z)            # block comment
      | "(?:[^"\\\n]|\\.)*(?:"|$|\Z)  # string; one without an end ends with its line
      | '(?:[^'\\\n]|\\.){0,500}'    # character, or a string of a proto file; C++ has lone ones, in 1'000
    """,
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)


class PlaceNotFound(Exception):
    """A place that an edit needs is missing, or is not what it should be. The message says which and why."""


def code_of(text: str) -> str:
    """The text with comments and literals blanked: same length, same line ends."""
    return _NOT_CODE.sub(lambda match: re.sub(r"[^\r\n]", " ", match.group()), text)


def body(text: str, head: str, what: str) -> tuple[int, int]:
    """The span between the braces of the one definition whose beginning matches the regular expression `head`.

    A match that a `;` ends before any brace opens is a declaration or a call and does not count.
    """
    code = code_of(text)
    closing = _closing(code)
    marks = [match.start() for match in re.finditer(r"[{;]", code)]
    first = [bisect.bisect_left(marks, match.end()) for match in re.finditer(head, code)]
    starts = [marks[i] + 1 for i in first if i < len(marks) and code[marks[i]] == "{"]
    spans = [(start, closing[start]) for start in starts if start in closing]
    if len(spans) != 1:
        raise PlaceNotFound(f"{what}: " + ("not found" if not spans else f"found {len(spans)} times"))
    return spans[0]


def method_body(text: str, owner: str, name: str) -> tuple[int, int]:
    """The body of the method `name` of the class template `owner`, defined outside the class."""
    return body(text, rf"\b{owner}\s*<\s*\w+\s*>\s*::\s*{name}\s*\(", f"the definition of {owner}::{name}")


def class_body(text: str, name: str) -> tuple[int, int]:
    """The body of a class."""
    return body(text, rf"\bclass\s+{name}\b", f"the class {name}")


def message_body(text: str, name: str) -> tuple[int, int]:
    """The body of a proto message."""
    return body(text, rf"\bmessage\s+{name}\b", f"the message {name}")


def find_all(text: str, pattern: str, span: tuple[int, int] | None = None) -> list[re.Match]:
    """All matches of a regular expression in the code (not in comments or literals) of a span."""
    start, end = span or (0, len(text))
    return list(re.compile(pattern).finditer(code_of(text), start, end))


def find_one(text: str, pattern: str, span: tuple[int, int], what: str) -> re.Match:
    """The only match of a regular expression in the code of a span."""
    matches = find_all(text, pattern, span)
    if len(matches) != 1:
        raise PlaceNotFound(f"{what}: " + ("not found" if not matches else f"found {len(matches)} times"))
    return matches[0]


def literals(text: str, content: str, span: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """The spans of the string literals in a span that contain the text `content`."""
    for match in _NOT_CODE.finditer(text, *span):
        if match.group().startswith('"') and content in match.group():
            yield match.span()


def after_line(text: str, offset: int) -> int:
    """The offset just behind the line that holds `offset`."""
    end = text.find("\n", offset)
    return len(text) if end < 0 else end + 1


def _closing(code: str) -> dict[int, int]:
    """Where each `{` is closed, by the place behind it; an unclosed one is not there. One pass."""
    closed, opened = {}, []
    for match in re.finditer(r"[{}]", code):
        if match.group() == "{":
            opened.append(match.end())
        elif opened:
            closed[opened.pop()] = match.start()
    return closed

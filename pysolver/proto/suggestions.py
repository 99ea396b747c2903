"""What somebody may have meant who wrote something that is not in the schema."""

from __future__ import annotations

import difflib
import re
import unicodedata

from google.protobuf.descriptor import Descriptor

# A field of this ending takes the further values of one that Caffe has once and a fork more often.
AGAIN = "_again"
# Fields that no file names: what they hold is written as it stood in the file.
HIDDEN = {"foreign_text", "foreign_type", "present"}
_PLACEHOLDER = re.compile(
    r"[$%@&][^\s;,}]{1,40}\}{0,2}|\{\{?\s*\w+\s*\}\}?|<\w+>"
)  # ${N}, $#n#$, @N@, %d, {{ n }}, <N>


def is_hidden(name: str) -> bool:
    """Whether a field of the schema is not one of any file."""
    return name.endswith(AGAIN) or name in HIDDEN


def suggestion(name: str, owner: Descriptor) -> str:
    """`; did you mean 'base_lr'?`, or where such a field belongs, or nothing."""
    others = {
        "SolverParameter": ("NetParameter", "a net, not a solver"),
        "NetParameter": ("SolverParameter", "a solver, not a net"),
    }
    other, what = others.get(owner.name, ("", ""))
    if other and name in owner.file.message_types_by_name[other].fields_by_name:
        return f"; this looks like {what}"
    place = _where_it_belongs(name, owner)
    if place:
        return f"; it belongs inside {place}"
    known = [field.name for field in owner.fields if not is_hidden(field.name)]
    words = name.lower().split("_")
    parts = {*words, "".join(word[:1] for word in words)}  # learning_rate: lr
    near = [other for other in known if _is_short_for(words, other.split("_"))]
    near = near or [other for other in known if other.startswith(f"{name.lower()}_")][:2]  # in the schema's order
    near = near or difflib.get_close_matches(name.lower(), known, 1, 0.7)
    near = near or [other for other in known if parts & set(other.split("_")) or other.startswith(name.lower())]
    both = near[:2] if near and near[0].startswith(f"{name.lower()}_") else near[:1]
    return f"; did you mean {' or '.join(map(repr, both))}?" if near else ""


def _where_it_belongs(name: str, owner: Descriptor) -> str:
    """The messages inside this one, or beside it in a layer, that have such a field."""
    inside = [field.name for field in owner.fields if field.message_type and name in field.message_type.fields_by_name]
    layer = owner.file.message_types_by_name["LayerParameter"]
    if not inside and any(field.message_type is owner for field in layer.fields):
        inside = [f.name for f in layer.fields if f.message_type and name in f.message_type.fields_by_name]
    return " or ".join(f"{field} {{ }}" for field in inside[:3])


def _is_short_for(words: list[str], full: list[str]) -> bool:
    """conv_param: convolution_param."""
    return len(words) == len(full) and all(f.startswith(w) and len(w) > 2 for w, f in zip(words, full))


def shown(token: str) -> str:
    """A token as an error names it: cut, and with the name of a character that is easily taken for another."""
    if len(token) == 1 and not (token.isascii() and token.isprintable()):
        name = f"U+{ord(token):04X} {unicodedata.name(token, '')}".rstrip()
        return f"{token} ({name})" if token.isprintable() else name
    return token if len(token) <= 60 else token[:60] + "..."


def placeholder(text: str, at: int) -> str:
    """What stands there, if it looks like the blank of a template."""
    match = _PLACEHOLDER.match(text, at)
    return match[0] if match else ""


def why(text: str, at: int) -> str:
    """What often stands where the parser cannot go on: `; comments begin with #`, or nothing."""
    if re.compile(r"//|/\*").match(text, at):
        return "; comments begin with #"
    if text[at : at + 1] == "/" and text[max(at - 1, 0) : at].isdigit():
        return "; nothing is computed here: write the number itself"
    if re.compile(r"<<<<<<<|>>>>>>>|=======").match(text, at):
        return "; git has left a conflict there"
    if text[at : at + 1] in "\u201c\u201d\u201e" and at < len(text):
        return '; strings stand in plain quotes: "'
    if text[at : at + 1] == "}":
        return "; is it one too many?"
    return ""

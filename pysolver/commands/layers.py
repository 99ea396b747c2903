"""Print the table of all layer types, from the registry: docs/layers.md."""

from __future__ import annotations

import argparse

import pysolver.data  # noqa: F401  registers the data layers
import pysolver.export.onnx  # noqa: F401  registers the ONNX forms
import pysolver.layers  # noqa: F401  registers the others
from pysolver.component import Arity, Component, layer_types
from pysolver.data.source import Source
from pysolver.export.onnx.graph import emitter, why_not
from pysolver.export.program import leaves
from pysolver.layers.base import Layer

_HEAD = """\
# Layers

Written by `pysolver layers > docs/layers.md` from the registry; do not edit.

Every layer computes what BVLC Caffe 1.0 (or the fork it comes from) computes, forward and backward, in the shapes,
defaults and errors that the docstring of its class gives; the last column says where it differs on purpose. The column
ONNX says what `pysolver export` makes of it (see [export.md](export.md)): yes; an input; nothing, for what only trains
or judges; or why there is no form.
`engine` is ignored everywhere: torch chooses the kernel. Counts are of bottoms and tops; a loss may leave out its top.
"""


def options(parser: argparse.ArgumentParser) -> None:
    pass


def call(args: argparse.Namespace) -> None:
    print(table(), end="")


def table() -> str:
    """The page as text."""
    kinds = layer_types()
    own = {name: cls for name, cls in kinds.items() if ".forks." not in cls.__module__}
    forks = {name: cls for name, cls in kinds.items() if name not in own}
    parts = [_HEAD, exported(kinds), ""]
    for title, some in (("Caffe's", own), ("Of forks", forks)):
        parts += [f"## {title} ({len(some)})\n", *_rows(some), ""]
    return "\n".join(parts)


def exported(kinds: dict[str, type[Component]]) -> str:
    """How many types export, of those that compute."""
    forms = [onnx_form(cls) for cls in kinds.values()]
    sources, nothing, said = (forms.count(form) for form in ("an input", "nothing", "yes"))
    return (
        f"Of {len(forms) - sources} types that compute, {said} have an ONNX form, {nothing} leave, "
        f"{len(forms) - sources - nothing - said} cannot be said; {sources} more hand out data.\n"
    )


def _rows(kinds: dict[str, type[Component]]) -> list[str]:
    rows = ["| type | bottoms | tops | what it does | ONNX | differs |", "| --- | --- | --- | --- | --- | --- |"]
    for name, cls in kinds.items():
        path = "../" + cls.__module__.replace(".", "/") + ".py"
        counts = f"{_count(cls.bottoms)} | {_count(cls.tops)}"
        texts = " | ".join(map(_escape, (summary(cls), onnx_form(cls), cls.deviations)))
        rows.append(f"| [{name}]({path}) | {counts} | {texts} |")
    return rows


def onnx_form(cls: type[Component]) -> str:
    """What an export makes of the layer type."""
    name = cls.type_name
    if issubclass(cls, Source):
        return "an input"
    if issubclass(cls, Layer) and leaves(cls):
        return "nothing"
    return "yes" if name == "Split" or emitter(name) else f"no: {why_not(name)}"  # a Split is another name


def summary(cls: type[Component]) -> str:
    """The first paragraph of the docstring."""
    return " ".join((cls.__doc__ or "").split("\n\n")[0].split())


def _count(arity: Arity) -> str:
    if arity.most is None:
        return f"{arity.least}+"
    return str(arity.least) if arity.least == arity.most else f"{arity.least}-{arity.most}"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*").replace("_", "\\_")

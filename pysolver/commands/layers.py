"""Print the table of all layer types, from the registry: docs/layers.md."""

from __future__ import annotations

import argparse

import pysolver.data  # noqa: F401  registers the data layers
import pysolver.layers  # noqa: F401  registers the others
from pysolver.component import Arity, Component, layer_types

_HEAD = """\
# Layers

Written by `pysolver layers > docs/layers.md` from the registry; do not edit.

Every layer computes what BVLC Caffe 1.0 (or the fork it comes from) computes, forward and backward, in the shapes,
defaults and errors that the docstring of its class gives; the last column says where it differs on purpose.
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
    return "\n".join(
        [_HEAD, f"## Caffe's ({len(own)})\n", *_rows(own), "", f"## Of forks ({len(forks)})\n", *_rows(forks), ""]
    )


def _rows(kinds: dict[str, type[Component]]) -> list[str]:
    rows = ["| type | bottoms | tops | what it does | differs |", "| --- | --- | --- | --- | --- |"]
    for name, cls in kinds.items():
        path = "../" + cls.__module__.replace(".", "/") + ".py"
        counts = f"{_count(cls.bottoms)} | {_count(cls.tops)}"
        rows.append(f"| [{name}]({path}) | {counts} | {_escape(summary(cls))} | {_escape(cls.deviations)} |")
    return rows


def summary(cls: type[Component]) -> str:
    """The first paragraph of the docstring."""
    return " ".join((cls.__doc__ or "").split("\n\n")[0].split())


def _count(arity: Arity) -> str:
    if arity.most is None:
        return f"{arity.least}+"
    return str(arity.least) if arity.least == arity.most else f"{arity.least}-{arity.most}"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*").replace("_", "\\_")

"""docs/layers.md: the table of all layer types, from the registry.

python -m pysolver.layer_table            writes it
python -m pysolver.layer_table --check    fails if it is not what would be written
"""

from __future__ import annotations

import sys
from pathlib import Path

import pysolver.data  # noqa: F401  registers the data layers
import pysolver.export.onnx  # noqa: F401  registers the ONNX forms
import pysolver.layers  # noqa: F401  registers the others
from pysolver.component import Arity, Component, layer_types
from pysolver.data.source import Source
from pysolver.export.onnx.graph import emitter, why_not
from pysolver.export.program import leaves

PATH = Path("docs/layers.md")

_HEAD = """\
# Layers

Written by `python -m pysolver.layer_table` from the registry; do not edit.

Every layer computes what BVLC Caffe 1.0 (or the fork it comes from) computes, forward and backward, in the shapes,
defaults and errors that the docstring of its class gives; the last column says where it differs on purpose. The column
ONNX says what `pysolver export` makes of it (see [export.md](export.md)): yes; an input; nothing, for what only trains
or judges; or why there is no form.
`engine` is ignored everywhere: torch chooses the kernel. Counts are of bottoms and tops; a loss may leave out its top.
"""


def table() -> str:
    """The page as text."""
    kinds = layer_types()
    own = {name: cls for name, cls in kinds.items() if ".forks." not in cls.__module__}
    forks = {name: cls for name, cls in kinds.items() if name not in own}
    return "\n".join(
        [_HEAD, f"## Caffe's ({len(own)})\n", *_rows(own), "", f"## Of forks ({len(forks)})\n", *_rows(forks), ""]
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
    if leaves(cls):
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


def main(arguments: list[str]) -> int:
    """Write the page, or compare it; the exit status."""
    page = table()
    if "--check" not in arguments:
        PATH.write_text(page)
        return 0
    if PATH.is_file() and PATH.read_text() == page:
        return 0
    print(f"{PATH} is stale: run python -m pysolver.layer_table", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

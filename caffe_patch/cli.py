"""The command line: apply, revert, check, diff."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from pathlib import Path

from caffe_patch.tree import Refused, open_tree, write

CONTEXT = 2  # lines around a change in `diff`: enough to tell the places apart where line numbers have moved


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns 0 when done (`check`: when patched), 1 when not, 2 for a usage error."""
    parser = argparse.ArgumentParser(
        prog="python -m caffe_patch", description="Cyclical learning rates and momentum for a Caffe checkout."
    )
    parser.add_argument(
        "command",
        choices=("apply", "revert", "check", "diff"),
        help="apply: put the patch in; revert: take it out; check: say whether it is in; diff: print what it changes",
    )
    parser.add_argument("caffe_root", type=Path, help="folder of the Caffe checkout")
    arguments = parser.parse_args(argv)
    try:
        return _COMMANDS[arguments.command](arguments.caffe_root)
    except Refused as refusal:
        print(f"caffe_patch: {refusal}\nNothing was changed.", file=sys.stderr)
        return 1


def unified_diff(old: dict[str, str | None], new: dict[str, str | None]) -> str:
    """The change from one set of files to another as git writes it, for `git apply` and `patch -p1`."""
    lines: list[str] = []
    for path in sorted(new):
        before, after = (_lines(texts[path] or "") for texts in (old, new))
        name = "/dev/null" if old[path] is None else f"a/{path}"
        lines += difflib.unified_diff(before, after, name, f"b/{path}", n=CONTEXT)
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def _lines(text: str) -> list[str]:
    """Lines with their ends; unlike str.splitlines, a form feed or a lone carriage return is no end."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _apply(root: Path) -> int:
    tree = open_tree(root)
    if tree.patched:
        print(f"{root} is patched already")
        return 0
    _report("patched", write(root, tree.plain, tree.cyclical))
    return 0


def _revert(root: Path) -> int:
    tree = open_tree(root)
    if not tree.patched:
        print(f"{root} is not patched")
        return 0
    _report("restored", write(root, tree.cyclical, tree.plain))
    return 0


def _check(root: Path) -> int:
    tree = open_tree(root)
    print("patched" if tree.patched else "not patched; every place for the patch was found")
    return 0 if tree.patched else 1


def _diff(root: Path) -> int:
    tree = open_tree(root)
    text = unified_diff(tree.plain, tree.cyclical)
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
    return 0


def _report(verb: str, paths: list[str]) -> None:
    for path in paths:
        print(f"{verb} {path}")


_COMMANDS = {"apply": _apply, "revert": _revert, "check": _check, "diff": _diff}

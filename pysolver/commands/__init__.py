"""The command line: `pysolver NAME ...`, and `tools/NAME.py ...` from a checkout.

A command is a file of this package, and nothing else knows of it. Its docstring is its help, `options(parser)` adds
its arguments, `call(args)` does the work and returns the exit status (None is 0); `EXAMPLES`, if there are any, end
the help. Only the file of the command that was asked for is imported, so it may import what it likes at its top.
Files that start with an underscore are not commands.

Caffe's flag forms are all accepted: `-solver F`, `--solver F`, `-solver=F`, before or after the command.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import errno
import importlib
import os
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from pysolver.commands import _options as o
from pysolver.commands._parser import Parser
from pysolver.errors import CaffeError, UsageError, visible

PROGRAM = "pysolver"


def names() -> list[str]:
    """All commands."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run `NAME ...` and return its exit status: 0 done, 1 failed, 2 wrong usage (argparse's own exits with it)."""
    known = names()
    words = _command_first(sys.argv[1:] if argv is None else argv, known)
    if not words or words[0] not in known:
        _top(known, words)  # which exits
    return _run(words[0], words[1:], f"{PROGRAM} {words[0]}", PROGRAM)


def tool(file: str) -> int:
    """Run the command that a script of tools/ is named after."""
    path = Path(file)
    return _run(path.stem, sys.argv[1:], path.name, path.name)


def _run(name: str, words: Sequence[str], program: str, speaker: str) -> int:
    try:
        return _call(name, words, program, speaker)
    except KeyboardInterrupt:  # also while its modules are imported
        return 130


def _call(name: str, words: Sequence[str], program: str, speaker: str) -> int:
    from pysolver.logs.writer import CaffeLog, level_wanted  # not for --help: it leads to numpy

    module = importlib.import_module(f"{__name__}.{name}")
    _open_standard_streams()
    parser = Parser(
        prog=program,
        description=module.__doc__,
        epilog=_examples(getattr(module, "EXAMPLES", ""), f"{PROGRAM} {name}", program),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.options(parser)
    o.flag(parser, "debug", action="store_true", help="show the traceback of an error")
    o.flag(
        parser, "minloglevel", type=o.integer, metavar="N", help="0: all log lines, 1: from warnings on, 2: errors only"
    )
    o.flag(parser, "logtostderr", "alsologtostderr", nargs="?", const="1", help=argparse.SUPPRESS)  # it always is there
    args = parser.parse_args(words)
    args.words = list(words)  # for those who start it again, in several processes
    args.emit = CaffeLog(level=level_wanted() if args.minloglevel is None else args.minloglevel)
    try:
        status = module.call(args) or 0
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # `pysolver schedule ... | head`
        _to_nowhere(sys.stdout)
        return 0
    except Exception as error:
        if args.debug:
            raise
        with contextlib.suppress(OSError):
            print(visible(f"{speaker}: {_words(error)}"), file=sys.stderr)
        _to_nowhere_if_broken()
        return 2 if isinstance(error, UsageError) else 1


def _open_standard_streams() -> None:
    """Streams that were closed (`2>&-`) lead to nowhere: else a file that is opened would take their place."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            handle = os.open(os.devnull, os.O_RDWR)
            if handle != number:
                os.dup2(handle, number)
                os.close(handle)
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115


def _to_nowhere(stream: TextIO) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _to_nowhere_if_broken() -> None:
    """What cannot be written would be told once more, and change the exit status, when Python ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            _to_nowhere(stream)


def _words(error: Exception) -> str:
    """One line for what went wrong; what nobody foresaw is named as what it is."""
    if isinstance(error, CaffeError):
        return str(error)
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG):
        return f"the output cannot be written: {error.strerror}"
    return f"{type(error).__name__}: {error} (--debug shows where)"


def _examples(text: str, written: str, program: str) -> str:
    lines = text.strip().replace(written, program).splitlines()
    return "\n".join(["examples:", *(f"  {line}" for line in lines)]) if lines else ""


def _top(known: Sequence[str], words: Sequence[str]) -> None:
    """Help, version, or a usage error: where there is no command to run."""
    width = max(map(len, known)) + 2
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        usage=f"{PROGRAM} COMMAND ...",
        description="Train and use Caffe networks on PyTorch; read what they log.\n\ncommands:\n"
        + "\n".join(f"  {name:{width}}{_summary(name)}" for name in known),
        epilog=f"`{PROGRAM} COMMAND --help` explains a command. Exit status: 0 done, 1 the run failed, 2 wrong usage.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=_version())
    _, rest = parser.parse_known_args(words)
    wrong = next((word for word in rest if not word.startswith("-")), None)
    if wrong is None:
        parser.error("a command is missing")
    close = difflib.get_close_matches(wrong, known, 1)
    parser.error(f"there is no command '{wrong}'" + (f"; did you mean {close[0]}?" if close else ""))


def _summary(name: str) -> str:
    """The first line of a command's docstring, read without importing what the command needs."""
    tree = ast.parse(Path(__path__[0], f"{name}.py").read_bytes())
    return (ast.get_docstring(tree) or "").partition("\n")[0].rstrip(".")


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"{PROGRAM} {version(PROGRAM)}"
    except PackageNotFoundError:
        return f"{PROGRAM} (not installed)"


def _command_first(argv: Sequence[str], known: Sequence[str]) -> list[str]:
    """gflags takes flags before the command too (`caffe --solver=F train`); argparse wants the command first."""
    if argv and argv[0].startswith("-"):
        for index, word in enumerate(argv):
            if word in known and (index == 0 or "=" in argv[index - 1] or not argv[index - 1].startswith("-")):
                return [word, *argv[:index], *argv[index + 1 :]]
    return list(argv)

"""What all tools share: one clear line for an error, exit status 0, 1 or 2, a traceback only with --debug."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

from pysolver.errors import CaffeError
from pysolver.logs.reader import read_log
from pysolver.logs.run import Run


def parser(description: str, examples: str, logs: str | None = "+") -> argparse.ArgumentParser:
    """An argument parser with examples in its help; `logs` is the nargs of the LOG arguments, None for none."""
    made = argparse.ArgumentParser(
        description=description,
        epilog="examples:\n" + "\n".join(f"  {line}" for line in examples.strip().splitlines()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if logs:
        made.add_argument("logs", metavar="LOG", nargs=logs, help="log of a Caffe solver, .gz too; - is standard input")
    made.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    return made


def main(arguments: argparse.ArgumentParser, work: Callable[[argparse.Namespace], int | None]) -> int:
    """Parses the command line, does the work, answers the exit status."""
    options = arguments.parse_args()
    try:
        return work(options) or 0
    except (CaffeError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        if options.debug:
            raise
        print(f"{arguments.prog}: {_words(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def read_logs(paths: list[str]) -> list[Run]:
    """The runs of some logs; what was not understood is said on stderr."""
    if paths.count("-") > 1:
        raise CaffeError("standard input (-) can be read as one log only")
    runs = [read_log(path) for path in paths]
    for run in runs:
        if run.unknown:
            print(run.summary(), file=sys.stderr)
    return runs


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)

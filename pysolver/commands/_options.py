"""Options that several commands have, and kinds of their values."""

from __future__ import annotations

import argparse
from argparse import ArgumentParser
from typing import Any

from pysolver.errors import UsageError

MOST = (1 << 31) - 1  # of anything that is counted, as in Caffe


def flag(parser: ArgumentParser, *names: str, **options: Any) -> None:
    """A flag in gflags' forms: one dash or two."""
    dashed = [dashes + name for name in names for dashes in ("-", "--")]
    parser.add_argument(*dashed, dest=names[0], **options)


def solver(parser: ArgumentParser) -> None:
    """--solver"""
    flag(parser, "solver", metavar="FILE", help="solver prototxt")


def model(parser: ArgumentParser) -> None:
    """--model"""
    flag(parser, "model", metavar="FILE", help="net prototxt")


def weights(parser: ArgumentParser) -> None:
    """--weights"""
    flag(parser, "weights", metavar="FILE[,FILE]", help="weights, the later ones win")


def gpu(parser: ArgumentParser) -> None:
    """--gpu"""
    flag(parser, "gpu", default="", metavar="IDS|all", help="GPU ids, separated by commas")


def net_state(parser: ArgumentParser) -> None:
    """--phase, --level, --stage and whether Python layers may run: which layers of a net file are in the net."""
    flag(
        parser, "phase", default="", metavar="TRAIN|TEST", help="network phase; `test` does not look at it, as in Caffe"
    )
    flag(parser, "level", type=integer, default=0, metavar="N", help="network level (default 0)")
    flag(parser, "stage", default="", metavar="S[,S]", help="network stages")
    python_layers(parser)


def python_layers(parser: ArgumentParser) -> None:
    """--allow-python-layers"""
    flag(parser, "allow_python_layers", "allow-python-layers", action="store_true",
         help="let Python layers of the net run their code")  # fmt: skip


def state(args: argparse.Namespace) -> dict[str, Any]:
    """What net_state has read, as pysolver.export.files.open_net takes it; the phase is TEST unless told."""
    if args.phase not in ("", "TRAIN", "TEST"):
        raise UsageError(f'--phase must be "TRAIN" or "TEST", not "{args.phase}"')
    return {
        "phase": 0 if args.phase == "TRAIN" else 1,  # caffe.Phase
        "level": args.level,
        "stages": [stage for stage in args.stage.split(",") if stage],
        "allow_python_layers": args.allow_python_layers,
    }


def logs(parser: ArgumentParser, count: int | str = "+") -> None:
    """The LOG arguments; count is their nargs."""
    parser.add_argument("logs", metavar="LOG", nargs=count, help="log of a Caffe solver, .gz too; - is standard input")


def upgrade_files(parser: ArgumentParser) -> None:
    """The two files of an upgrade."""
    parser.add_argument("input", metavar="IN")
    parser.add_argument("output", metavar="OUT")


def required(value: str | None, message: str) -> str:
    """The value of an option that must be there; UsageError if it is not."""
    if not value:
        raise UsageError(message)
    return value


def integer(text: str) -> int:
    """An argument that is an int of Caffe's, of 32 bits."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, not '{text:.40}'") from None
    if abs(value) > MOST:
        raise argparse.ArgumentTypeError(f"must be at most {MOST}, not {text:.40}")
    return value


def natural(text: str) -> int:
    """An argument that counts what there may be none of."""
    value = integer(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, not {text}")
    return value


def positive(text: str) -> int:
    """An argument that counts something."""
    value = integer(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return value


def size(text: str) -> int:
    """Bytes from `500M`, `2G`, `1000`."""
    unit = {"K": 10, "M": 20, "G": 30}.get(text[-1:].upper())
    try:
        value = int(float(text[:-1]) * 2**unit) if unit else int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a size such as 500M or 2G")
    return value

"""Write the mean image of a database."""

from __future__ import annotations

import argparse

from pysolver.commands import _options as o
from pysolver.data.prepare import mean


def options(parser: argparse.ArgumentParser) -> None:
    o.flag(parser, "backend", default="lmdb", metavar="lmdb|leveldb", help="kind of the database (default lmdb)")
    parser.add_argument("db", metavar="INPUT_DB")
    parser.add_argument("out", metavar="OUTPUT_FILE", nargs="?")


def call(args: argparse.Namespace) -> None:
    mean.compute_image_mean(args.db, args.out, backend=args.backend, emit=args.emit)

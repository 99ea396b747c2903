"""Rewrite an old net prototxt in today's form."""

from __future__ import annotations

import argparse

from pysolver.commands import _options as o
from pysolver.proto import upgrade_files


def options(parser: argparse.ArgumentParser) -> None:
    o.upgrade_files(parser)
    parser.add_argument(
        "--to", choices=["bvlc"], help="bvlc: without what only other Caffes read, where that is possible"
    )


def call(args: argparse.Namespace) -> int:
    return upgrade_files.upgrade_net_proto_text(args.input, args.output, args.emit, bvlc=args.to == "bvlc")

"""Show the GPUs."""

from __future__ import annotations

import argparse

from pysolver.commands import _options as o
from pysolver.solver import devices


def options(parser: argparse.ArgumentParser) -> None:
    o.gpu(parser)


def call(args: argparse.Namespace) -> None:
    devices.query(args.gpu, args.emit)

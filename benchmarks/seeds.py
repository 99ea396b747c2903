"""What the benchmarks that train with several seeds share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def parser_of(doc: str, epochs: str) -> argparse.ArgumentParser:
    """A parser with the solver, the folder, the length (`epochs` says of what), the seeds and the jobs."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--solver", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--epochs", type=float, required=True, help=epochs)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--jobs", type=int, default=1)
    return parser


def mean(values: Sequence[float], digits: int) -> str:
    """`0.0248 ± 0.0083`: mean and sample deviation; a single value alone."""
    spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{spread}"

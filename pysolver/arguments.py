"""Kinds of command-line arguments that the command and the tools share."""

from __future__ import annotations

import argparse


def positive(text: str) -> int:
    """An argument that counts something."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return value

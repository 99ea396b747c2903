"""The grammar of a Caffe log: written, read and plotted. Nothing here imports torch."""

from .reader import read_log
from .run import Run, Table

__all__ = ["Run", "Table", "read_log"]

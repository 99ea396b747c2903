"""The grammar of a Caffe log: written, read and plotted. Nothing here imports torch."""

from pysolver.logs.reader import read_log
from pysolver.logs.run import Run, Table

__all__ = ["Run", "Table", "read_log"]

"""`import caffe` in a process that a script of `pysolver run` started: its PYTHONPATH leads here."""

from pysolver.pycaffe import run

run.install()

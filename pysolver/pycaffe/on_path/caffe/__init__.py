"""`import caffe` in a process that a script of pysolver.as_caffe started: its PYTHONPATH leads here."""

from pysolver import as_caffe

as_caffe.install()

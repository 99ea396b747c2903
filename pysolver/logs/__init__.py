"""The grammar of a Caffe log: written, read and plotted. Nothing here imports torch."""

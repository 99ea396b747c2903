"""A net whose weights are in files: the fillers of what these have never run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from pysolver.context import Context
from pysolver.layers.fillers import fill
from pysolver.net.net import Net
from pysolver.proto.caffe_pb2 import FillerParameter, NetParameter


def pretrained(param: NetParameter, context: Context, files: Sequence[str], name: str = "") -> Net:
    """The net of `param`, from the file `name`, with the weights of all files, the later ones win.

    A parameter that no file has is filled by its filler, after the others. Errors: those of Net, with the name in
    front, and of Net.copy_trained_layers_from.
    """
    unfilled: list[tuple[nn.Parameter, FillerParameter]] = []
    net = Net(param, replace(context, unfilled=unfilled) if files else context, name)
    try:
        given = {blob.data_ptr() for file in files for blob in net.copy_trained_layers_from(file)}
    except BaseException:
        net.close()
        raise
    for blob, filler in unfilled:
        if blob.data_ptr() not in given:  # shared memory is given if one of its layers is
            fill(blob.data, filler)
    return net

"""Bring weights that were trained in PyTorch back into a caffemodel.

The safetensors file is the state_dict of the module that `pysolver export --to torch` has written for the same net.
"""

from __future__ import annotations

import argparse

from pysolver.commands import _options as o
from pysolver.commands._net import quiet_net
from pysolver.errors import about
from pysolver.export.module import load_back, torch_form
from pysolver.net import weights

EXAMPLES = """
pysolver import --model=deploy.prototxt net.safetensors net.caffemodel
"""


def options(parser: argparse.ArgumentParser) -> None:
    for add in (o.model, o.net_state):
        add(parser)
    parser.add_argument("tensors", metavar="IN.safetensors")
    parser.add_argument("out", metavar="OUT.caffemodel")


def call(args: argparse.Namespace) -> None:
    model = o.required(args.model, "Need the model definition that was exported: --model=FILE")
    with quiet_net(args, model) as net:
        with about(model):
            form = torch_form(net)
        load_back(form, args.tensors)
        weights.save(net, args.out)
        print(f"{args.out}: {sum(len(layer.blobs) for layer in net.layers)} blobs, from {args.tensors}")

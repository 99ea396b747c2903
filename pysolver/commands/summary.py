"""Print the layers of a net: types, output shapes, parameters, settings."""

from __future__ import annotations

import argparse

from pysolver.commands import _options as o
from pysolver.commands._net import quiet_net
from pysolver.drawing.net import table

EXAMPLES = """
pysolver summary --model=deploy.prototxt
"""


def options(parser: argparse.ArgumentParser) -> None:
    for add in (o.model, o.net_state):
        add(parser)


def call(args: argparse.Namespace) -> None:
    with quiet_net(args, o.required(args.model, "Need a model definition to show: --model=FILE")) as net:
        print(table(net), end="")

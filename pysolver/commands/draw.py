"""Draw a net: its layers with shapes, parameters and settings.

OUT.svg is the picture, OUT.html the picture and the table of `pysolver summary`; OUT.png and OUT.pdf work too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pysolver.commands import _options as o
from pysolver.commands._net import quiet_net
from pysolver.drawing.net import picture_of, to_html
from pysolver.drawing.picture import render
from pysolver.errors import UsageError
from pysolver.files import write_atomic

EXAMPLES = """
pysolver draw --model=deploy.prototxt net.svg
pysolver draw --model=train_val.prototxt --phase=TRAIN net.html
"""


def options(parser: argparse.ArgumentParser) -> None:
    for add in (o.model, o.net_state):
        add(parser)
    parser.add_argument("out", metavar="OUT.svg|.html")


def call(args: argparse.Namespace) -> None:
    model = o.required(args.model, "Need a model definition to draw: --model=FILE")
    kind = Path(args.out).suffix[1:].lower()
    if not kind:
        raise UsageError(f"{args.out}: its ending says what to write: .svg or .html")
    with quiet_net(args, model) as net:
        data = to_html(net, net.name or model).encode() if kind == "html" else render(picture_of(net), kind)
    write_atomic(args.out, data)

"""Turn a trained net into an ONNX model or a plain PyTorch module.

What only trains or judges (losses, accuracies, labels) leaves; a softmax loss becomes the softmax. Layers, blobs and
parameters keep Caffe's names. The net is that of phase TEST unless --phase says TRAIN.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pysolver.commands import _options as o
from pysolver.commands._net import quiet_net
from pysolver.errors import CaffeError, UsageError, about
from pysolver.export import check
from pysolver.export.convert import OPSET, to_onnx
from pysolver.export.files import metadata_of
from pysolver.export.module import save_torch, torch_form
from pysolver.export.onnx.model import described, save, verify
from pysolver.export.preprocess import preprocessing_of
from pysolver.export.program import program_of
from pysolver.net.net import Net

EXAMPLES = """
pysolver export --model=deploy.prototxt --weights=net.caffemodel net.onnx --fold --check
pysolver export --model=deploy.prototxt --weights=net.caffemodel net.onnx --batch dynamic
pysolver export --model=deploy.prototxt --weights=net.caffemodel --to torch net.py net.safetensors
"""


def options(parser: argparse.ArgumentParser) -> None:
    for add in (o.model, o.weights, o.solver, o.net_state):
        add(parser)
    o.flag(parser, "to", choices=("onnx", "torch"), default="onnx", help="what to write (default onnx)")
    o.flag(parser, "batch", type=_batch, metavar="N|dynamic", help="first dimension of the inputs (default: the net's)")
    o.flag(parser, "fold", action="store_true",
           help="BatchNorm and Scale into the convolution before them, Dropout away, constants computed")  # fmt: skip
    o.flag(parser, "opset", type=o.integer, metavar="N", help=f"ONNX operator set, 13 to 24 (default {OPSET})")
    o.flag(parser, "preprocess", action="store_true",
           help="mean and scale of the data layer's transform_param in front: the input is the picture")  # fmt: skip
    o.flag(parser, "check", action="store_true",
           help="run what was written beside pysolver; exit status 1 if they differ by more than "
                f"{check.TOLERANCE:g} of the largest number of an output")  # fmt: skip
    parser.add_argument("out", metavar="OUT", nargs="+", help="OUT.onnx; with --to torch OUT.py OUT.safetensors")


def call(args: argparse.Namespace) -> int:
    model = o.required(args.model, "Need a model definition to export: --model=FILE")
    weights = o.required(args.weights, "Need the weights to export: --weights=FILE")
    _check_usage(args)
    with quiet_net(args, model, weights) as net:
        return (_torch if args.to == "torch" else _onnx)(net, model, weights, args)


def _batch(text: str) -> int | Literal["dynamic"]:
    return "dynamic" if text == "dynamic" else o.positive(text)


def _check_usage(args: argparse.Namespace) -> None:
    if args.to == "onnx" and len(args.out) != 1:
        raise UsageError(f"one ONNX file is written, not {len(args.out)}: {', '.join(args.out)}")
    if args.to == "torch":
        if len(args.out) != 2:
            raise UsageError("--to torch writes two files: OUT.py OUT.safetensors")
        given = [name for name in ("batch", "fold", "opset", "preprocess", "solver") if getattr(args, name)]
        if given:
            raise UsageError(f"--{given[0]} is for ONNX models only")
    if len(set(args.out)) < len(args.out):
        raise UsageError(f"{args.out[0]}: one name for two files")
    for path in args.out:
        if Path(path).is_dir():
            raise CaffeError(f"{path}: cannot be written: it is a folder")
        if not Path(path).parent.is_dir():
            raise CaffeError(f"{path}: cannot be written: there is no folder {Path(path).parent}")


def _onnx(net: Net, model: str, weights: str, args: argparse.Namespace) -> int:
    program = program_of(net)
    metadata = metadata_of(model, weights, args.solver, program.dropped)
    opset = OPSET if args.opset is None else args.opset
    with about(model):
        inputs = [value.name for value in program.inputs]
        preprocessing = preprocessing_of(net, inputs) if args.preprocess else None
        proto = to_onnx(
            net, batch=args.batch, opset=opset, folded=args.fold, preprocessing=preprocessing, metadata=metadata
        )
        verify(proto)
    files = save(proto, args.out[0])
    ends = described(proto.graph.input), described(proto.graph.output)
    _tell(files, f"{len(proto.graph.node)} nodes for {len(net.layers)} layers", ends, program.dropped)
    if not args.check:
        return 0
    size = None if args.batch == "dynamic" else args.batch
    return _say_differences(check.differences(net, files[0], size, preprocessing))


def _torch(net: Net, model: str, weights: str, args: argparse.Namespace) -> int:
    code, tensors = map(Path, args.out)
    with about(model):
        form = torch_form(net, f"{model} and {weights}", tensors.name)
    save_torch(form, code, tensors)
    inputs, outputs = ({v.name: list(v.shape) for v in vs} for vs in (form.program.inputs, form.program.outputs))
    lines = f"{len(form.text.splitlines())} lines for {len(net.layers)} layers"
    _tell([code, tensors], lines, (inputs, outputs), form.program.dropped)
    return _say_differences(check.differences_of_module(form, tensors)) if args.check else 0


def _tell(files: list[Path], what: str, ends: tuple[dict, dict], dropped: list[str]) -> None:
    sizes = ", ".join(f"{file} ({file.stat().st_size:,} bytes)" for file in files)
    print(f"{sizes}: {what}")
    for kind, shapes in zip(("inputs", "outputs"), ends, strict=True):
        texts = [f"{name} ({', '.join(map(str, dims))})" for name, dims in shapes.items()]
        print(f"  {kind}: {', '.join(texts)}")
    if dropped:
        print(f"  left out: {', '.join(dropped)}")


def _say_differences(found: Iterable[check.Difference]) -> int:
    bad = 0
    for d in found:
        print(f"  {d.output}: largest difference {d.largest:.2g}, largest number {d.scale:.3g} ({d.data})")
        bad += not d.is_small
    if bad:
        print(f"differs by more than {check.TOLERANCE:g} of the largest number in {bad} outputs", file=sys.stderr)
    return 1 if bad else 0

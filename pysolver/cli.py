"""The command line: parses arguments and calls the package; no logic of its own.

Caffe's flag forms are all accepted: `-solver F`, `--solver F`, `-solver=F`, before or after the command.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from typing import TextIO

from pysolver.arguments import positive
from pysolver.errors import CaffeError, about
from pysolver.pycaffe import alias

Arguments = argparse.Namespace


# ---- commands --------------------------------------------------------------------------------------------------


def train(args: Arguments) -> int:
    """train or resume the net of a solver"""
    from pysolver.disciplined.checker import check_training
    from pysolver.solver.train import TrainOptions, main

    main(
        TrainOptions(
            _required(args.solver, "Need a solver definition to train: --solver=FILE"),
            snapshot=args.snapshot,
            weights=args.weights,
            gpu=args.gpu,
            sigint_effect=args.sigint_effect,
            sighup_effect=args.sighup_effect,
            level=args.level,
            stage=args.stage,
            keep=args.keep,
            stop_on_nan=args.stop_on_nan,
            progress=args.progress,
            tensorboard=args.tensorboard,
            allow_python_layers=args.allow_python_layers,
            cache_data=args.cache_data,
        ),
        advise=check_training,
    )
    return 0


def test(args: Arguments) -> int:
    """score a net with given weights"""
    from pysolver.solver import evaluate

    evaluate.test(
        _required(args.model, "Need a model definition to score: --model=FILE"),
        _required(args.weights, "Need model weights to score: --weights=FILE"),
        iterations=args.iterations,
        gpu=args.gpu,
        level=args.level,
        stage=args.stage,
        allow_python_layers=args.allow_python_layers,
    )
    return 0


def time(args: Arguments) -> int:
    """benchmark the layers of a net"""
    from pysolver.solver import evaluate

    evaluate.time(
        _required(args.model, "Need a model definition to time: --model=FILE"),
        iterations=args.iterations,
        phase=args.phase,
        gpu=args.gpu,
        level=args.level,
        stage=args.stage,
        allow_python_layers=args.allow_python_layers,
    )
    return 0


def device_query(args: Arguments) -> int:
    """show the GPUs"""
    from pysolver.solver import devices

    devices.query(args.gpu)
    return 0


def schedule(args: Arguments) -> int:
    """print or plot a solver's learning rate, momentum and weight decay, without training"""
    from pysolver import schedule as schedules
    from pysolver.proto.upgrade import read_solver

    solver = read_solver(_required(args.solver, "Need a solver definition: --solver=FILE"))
    with about(args.solver):
        schedules.check_schedule(solver)
        end, every = schedules.extent(solver)
    if not solver.HasField("max_iter"):
        print(f"max_iter is not set: the table goes to iteration {end}, by {args.every or every}", file=sys.stderr)
    if args.csv or not args.plot:
        with _output(args.csv or "-") as file:
            schedules.write_csv(schedules.table(solver, args.every), file)
    if args.plot:
        from pysolver.schedule_plot import plot_schedule

        plot_schedule(schedules.table(solver, max(args.every or 1, -(-end // 20_000))), args.plot, title=args.solver)
    return 0


def data(args: Arguments) -> int:
    """prepare a known data set as LMDBs and a mean file, ready for a Data layer"""
    from pysolver.data.prepare import prepare

    prepare(args.name, args.out, source_dir=args.from_dir, force=args.force)
    return 0


def convert_imageset(args: Arguments) -> int:
    """write a list of images into a database"""
    from pysolver.data.prepare.imageset import convert_imageset as convert

    convert(
        args.root,
        args.list,
        args.db,
        gray=args.gray,
        shuffle=args.shuffle,
        backend=args.backend,
        resize_width=args.resize_width,
        resize_height=args.resize_height,
        check_size=args.check_size,
        encoded=args.encoded,
        encode_type=args.encode_type,
    )
    return 0


def compute_image_mean(args: Arguments) -> int:
    """write the mean image of a database"""
    from pysolver.data.prepare.mean import compute_image_mean as compute

    compute(args.db, args.out, backend=args.backend)
    return 0


def extract_features(args: Arguments) -> int:
    """write blobs of a net as databases of features"""
    from pysolver.net.features import extract_features as extract

    extract(
        args.weights_file,
        args.net,
        args.blobs.split(","),
        args.dbs.split(","),
        args.batches,
        args.db_type,
        mode=args.mode,
        device=args.device,
    )
    return 0


def upgrade_net_proto_text(args: Arguments) -> int:
    """rewrite an old net prototxt in today's form"""
    from pysolver.proto.upgrade_files import upgrade_net_proto_text as upgrade

    return upgrade(args.input, args.output)


def upgrade_net_proto_binary(args: Arguments) -> int:
    """rewrite an old caffemodel in today's form"""
    from pysolver.proto.upgrade_files import upgrade_net_proto_binary as upgrade

    return upgrade(args.input, args.output)


def upgrade_solver_proto_text(args: Arguments) -> int:
    """rewrite an old solver prototxt in today's form"""
    from pysolver.proto.upgrade_files import upgrade_solver_proto_text as upgrade

    return upgrade(args.input, args.output)


def run(args: Arguments) -> int:
    """run a pycaffe script; its `import caffe` is pysolver"""
    from pysolver.as_caffe import run_script

    if not os.path.exists(args.script):
        raise CaffeError(f"{args.script}: file not found")
    return run_script(args.script, args.args) or 0


# ---- their arguments -------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    top = argparse.ArgumentParser(
        prog="pysolver",
        description="Train and use Caffe networks on PyTorch.",
        epilog="`pysolver COMMAND --help` explains a command. Exit status: 0 done, 1 the run failed, 2 wrong usage.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=_version())
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(function: object, *flags: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            function.__name__,
            help=function.__doc__,
            description=f"{function.__doc__[0].upper()}{function.__doc__[1:]}.",
            allow_abbrev=False,
        )
        sub.set_defaults(function=function)
        sub.add_argument("-debug", "--debug", action="store_true", help="show the traceback of an error")
        _flag(sub, "minloglevel", type=int, metavar="N", help="0: all log lines, 1: from warnings on, 2: errors only")
        _flag(sub, "logtostderr", "alsologtostderr", nargs="?", const="1", help=argparse.SUPPRESS)  # it always is there
        for name in flags:
            _FLAGS[name](sub)
        return sub

    _training(command(train, "solver", "weights", "gpu", "phase", "level", "stage", "python"))
    sub = command(test, "model", "weights", "gpu", "level", "stage", "python")
    _flag(sub, "iterations", type=positive, default=50, metavar="N", help="batches to run (default 50)")
    sub = command(time, "model", "gpu", "phase", "level", "stage", "python")
    _flag(sub, "iterations", type=positive, default=50, metavar="N", help="passes to time (default 50)")
    command(device_query, "gpu")

    sub = command(schedule, "solver")
    _flag(sub, "csv", metavar="FILE|-", help="write iter,lr,momentum,weight_decay there (default: standard output)")
    _flag(sub, "every", type=positive, metavar="N", help="only every N-th iteration")
    _flag(sub, "plot", metavar="FILE", help="draw the schedule (PNG, SVG or PDF)")

    sub = command(data)
    sub.add_argument("name", metavar="NAME", help="digits, mnist, fashion-mnist, cifar10, cifar100 or imagenet")
    sub.add_argument("out", metavar="OUT", help="folder for the databases")
    sub.add_argument("--from", dest="from_dir", metavar="DIR", help="folder with the original files (else: download)")
    sub.add_argument("--force", action="store_true", help="replace databases that are there")
    _imageset(command(convert_imageset))
    sub = command(compute_image_mean)
    _flag(sub, "backend", default="lmdb", metavar="lmdb|leveldb", help="kind of the database (default lmdb)")
    sub.add_argument("db", metavar="INPUT_DB")
    sub.add_argument("out", metavar="OUTPUT_FILE", nargs="?")
    _features(command(extract_features))
    for function in (upgrade_net_proto_text, upgrade_net_proto_binary, upgrade_solver_proto_text):
        sub = command(function)
        sub.add_argument("input", metavar="IN")
        sub.add_argument("output", metavar="OUT")
    sub = command(run)
    sub.add_argument("script", metavar="SCRIPT")
    sub.add_argument("args", metavar="ARGS", nargs=argparse.REMAINDER)
    return top


def _flag(sub: argparse.ArgumentParser, *names: str, **options: object) -> None:
    """A flag in gflags' forms: one dash or two."""
    dashed = [dashes + name for name in names for dashes in ("-", "--")]
    sub.add_argument(*dashed, dest=names[0], **options)


_FLAGS = {
    "solver": lambda sub: _flag(sub, "solver", metavar="FILE", help="solver prototxt"),
    "model": lambda sub: _flag(sub, "model", metavar="FILE", help="net prototxt"),
    "weights": lambda sub: _flag(sub, "weights", metavar="FILE[,FILE]", help="weights, the later ones win"),
    "gpu": lambda sub: _flag(sub, "gpu", default="", metavar="IDS|all", help="GPU ids, separated by commas"),
    "phase": lambda sub: _flag(
        sub, "phase", default="", metavar="TRAIN|TEST", help="network phase; only `time` looks at it, as in Caffe"
    ),
    "level": lambda sub: _flag(sub, "level", type=int, default=0, metavar="N", help="network level (default 0)"),
    "stage": lambda sub: _flag(sub, "stage", default="", metavar="S[,S]", help="network stages"),
    "python": lambda sub: _flag(
        sub,
        "allow_python_layers",
        "allow-python-layers",
        action="store_true",
        help="let Python layers of the net run their code",
    ),  # fmt: skip
}


def _training(sub: argparse.ArgumentParser) -> None:
    _flag(sub, "snapshot", metavar="FILE|auto", help="resume from this state; auto: the newest one of the prefix")
    for signal, effect in (("sigint", "stop"), ("sighup", "snapshot")):
        _flag(sub, f"{signal}_effect", default=effect, metavar="EFFECT",
              help=f"what {signal.upper()} does: stop, snapshot or none (default {effect})")  # fmt: skip
    _flag(sub, "keep", type=positive, metavar="N", help="keep only the newest N snapshots (default: all)")
    _flag(sub, "stop_on_nan", action="store_true", help="end with an error when the loss is not a finite number")
    _flag(sub, "tensorboard", metavar="DIR", help="write TensorBoard event files there")
    _flag(sub, "cache_data", "cache-data", type=_size, default=2 << 30, metavar="SIZE",
          help="data sets up to this size are kept in memory, e.g. 500M or 0 (default 2G)")  # fmt: skip
    sub.add_argument("--progress", action=argparse.BooleanOptionalAction, default=None,
                     help="a progress bar (default: on a terminal)")  # fmt: skip


def _imageset(sub: argparse.ArgumentParser) -> None:
    _flag(sub, "gray", action="store_true", help="read as grey")
    _flag(sub, "shuffle", action="store_true", help="in random order")
    _flag(sub, "check_size", action="store_true", help="all images must have one size")
    _flag(sub, "encoded", action="store_true", help="store compressed")
    _flag(sub, "backend", default="lmdb", metavar="lmdb|leveldb", help="kind of the database (default lmdb)")
    _flag(sub, "resize_width", type=int, default=0, metavar="PIXELS", help="resize to this width (with a height)")
    _flag(sub, "resize_height", type=int, default=0, metavar="PIXELS", help="resize to this height (with a width)")
    _flag(sub, "encode_type", default="", metavar="png|jpg|...", help="store compressed in this format")
    sub.add_argument("root", metavar="ROOTFOLDER/")
    sub.add_argument("list", metavar="LISTFILE")
    sub.add_argument("db", metavar="DB_NAME")


def _features(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("weights_file", metavar="WEIGHTS")
    sub.add_argument("net", metavar="NET")
    sub.add_argument("blobs", metavar="BLOB[,BLOB...]")
    sub.add_argument("dbs", metavar="DB[,DB...]")
    sub.add_argument("batches", metavar="BATCHES", type=positive)
    sub.add_argument("db_type", metavar="lmdb|leveldb")
    sub.add_argument("mode", metavar="CPU|GPU", nargs="?", default="CPU")
    sub.add_argument("device", metavar="DEVICE_ID", nargs="?", type=int, default=0)


def _size(text: str) -> int:
    """Bytes from `500M`, `2G`, `1000`."""
    unit = {"K": 10, "M": 20, "G": 30}.get(text[-1:].upper())
    try:
        value = int(float(text[:-1]) * 2**unit) if unit else int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a size such as 500M or 2G")
    return value


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"pysolver {version('pysolver')}"
    except PackageNotFoundError:
        return "pysolver (not installed)"


def _output(path: str) -> contextlib.AbstractContextManager[TextIO]:
    """A file to write, or standard output for `-`."""
    if path == "-":
        return contextlib.nullcontext(sys.stdout)
    try:
        return open(path, "w", encoding="utf-8")
    except OSError as error:
        raise CaffeError(f"{path}: cannot write: {error.strerror}") from error


class UsageError(CaffeError):
    """Wrong arguments: exit status 2."""


def _required(value: str | None, message: str) -> str:
    if not value:
        raise UsageError(message)
    return value


def _command_first(argv: Sequence[str]) -> list[str]:
    """gflags takes flags before the command too (`caffe --solver=F train`); argparse wants the command first."""
    names = {"train", "test", "time", "device_query", "schedule"}
    if argv and argv[0].startswith("-"):
        for index, word in enumerate(argv):
            if word in names and (index == 0 or "=" in argv[index - 1] or not argv[index - 1].startswith("-")):
                return [word, *argv[:index], *argv[index + 1 :]]
    return list(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0 done, 1 failed, 2 usage."""
    args = parser().parse_args(_command_first(sys.argv[1:] if argv is None else argv))
    alias.offer()  # modules of Python layers `import caffe`
    if args.minloglevel is not None:
        os.environ["GLOG_minloglevel"] = str(args.minloglevel)
    try:
        return args.function(args)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `pysolver schedule ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        of_a_script = args.function is run and not isinstance(error, CaffeError)
        if args.debug or of_a_script:  # a user's own script fails as it would under python
            raise
        what = str(error) if isinstance(error, CaffeError) else f"{type(error).__name__}: {error} (--debug shows where)"
        print(f"pysolver: {what}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1


if __name__ == "__main__":
    sys.exit(main())

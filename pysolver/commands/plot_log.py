"""Draw the curves of training logs: any output, train and test, against iteration, epoch, time or rate."""

from __future__ import annotations

import argparse

from pysolver.commands import _options as o
from pysolver.logs.drawing import CHARTS, Wish, draw

EXAMPLES = """
pysolver plot_log caffe.log -o curves.png                       losses and accuracy of one run
pysolver plot_log *.log -o compare.png                          many runs, named by what differs in their parameters
pysolver plot_log run?_seed*.log --group '(run.)' -o mean.png   mean and standard deviation of each group
pysolver plot_log caffe.log -y gap --x epoch --epoch-size 50000 -o gap.pdf   the generalisation error
pysolver plot_log caffe.log --rates --smooth 5 --log-y -o curves.svg
pysolver plot_log caffe.log --follow -o live.png                draws again while the log grows
pysolver plot_log *.log --interactive curves.html               zoom and hover in a browser, no server
pysolver plot_log caffe.log --type 6 -o loss.png                Caffe's own chart types by number
"""


def options(parser: argparse.ArgumentParser) -> None:
    o.logs(parser)
    add = parser.add_argument
    add("-o", "--output", metavar="FILE", help="picture to write: .png, .svg or .pdf")
    add("--interactive", metavar="FILE", help="a self-contained HTML page to write")
    add("-y", action="append", metavar="NAME", help="series to draw, may be repeated: 'test accuracy', 'train loss', "
        "'test1 NAME' (second test net), 'smoothed loss', gap, lr, momentum, weight_decay, speed; a wrong name lists "
        "what the log has")  # fmt: skip
    add("--x", choices=("iteration", "epoch", "seconds", "lr"), default="iteration", help="what to draw against")
    add(
        "--epoch-size",
        type=o.positive,
        metavar="N",
        help="images of the training set, where the log does not tell",
    )
    add("--batch", type=o.positive, metavar="N", help="images per iteration, where the log does not tell")
    add("--smooth", type=o.positive, default=1, metavar="N", help="running mean over N points")
    add("--group", metavar="REGEX", help="average the runs whose file names capture the same text")
    add("--rates", action="store_true", help="learning rate and momentum in a panel below")
    add("--log-x", action="store_true", help="logarithmic x axis")
    add("--log-y", action="store_true", help="logarithmic loss axis")
    add("--label", action="append", metavar="TEXT", help="a log's name in the legend, one --label for each log")
    add("--title", help="text above the picture")
    add("--size", metavar="WxH", help="inches, such as 8x5")
    add("--type", type=int, choices=range(len(CHARTS)), metavar="N",
        help="Caffe's chart types: " + ", ".join(f"{n}: {c.title}" for n, c in enumerate(CHARTS)))  # fmt: skip
    add("--follow", nargs="?", type=float, const=5.0, metavar="SECONDS", help="draw again whenever the log has grown")


def call(args: argparse.Namespace) -> None:
    wish = Wish(
        output=args.output, interactive=args.interactive, names=args.y, x=args.x,
        epoch_size=args.epoch_size, batch=args.batch, smooth=args.smooth, group=args.group,
        rates=args.rates, log_x=args.log_x, log_y=args.log_y, labels=args.label, title=args.title,
        size=args.size, chart=args.type,
    )  # fmt: skip
    draw(args.logs, wish, args.follow)

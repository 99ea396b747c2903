#!/usr/bin/env python3
"""Draws the curves of one or many training logs: any output, train and test, against iteration, epoch, time or rate."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # from a checkout, installed or not

from pysolver.arguments import positive
from pysolver.logs import command
from pysolver.logs.picture import CHARTS, Wish, draw

EXAMPLES = """
plot_log.py caffe.log -o curves.png                       losses and accuracy of one run
plot_log.py *.log -o compare.png                          many runs, named by what differs in their parameters
plot_log.py run?_seed*.log --group '(run.)' -o mean.png   mean and standard deviation of each group
plot_log.py caffe.log -y gap --x epoch --epoch-size 50000 -o gap.pdf   the generalisation error
plot_log.py caffe.log --rates --smooth 5 --log-y -o curves.svg
plot_log.py caffe.log --follow -o live.png                draws again while the log grows
plot_log.py *.log --interactive curves.html               zoom and hover in a browser, no server
plot_log.py caffe.log --type 6 -o loss.png                Caffe's own chart types by number
"""


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    made = command.parser(__doc__, EXAMPLES)
    add = made.add_argument
    add("-o", "--output", metavar="FILE", help="picture to write: .png, .svg or .pdf")
    add("--interactive", metavar="FILE", help="a self-contained HTML page to write")
    add("-y", action="append", metavar="NAME", help="series to draw, may be repeated: 'test accuracy', 'train loss', "
        "'test1 NAME' (second test net), 'smoothed loss', gap, lr, momentum, weight_decay, speed; a wrong name lists "
        "what the log has")  # fmt: skip
    add("--x", choices=("iteration", "epoch", "seconds", "lr"), default="iteration", help="what to draw against")
    add(
        "--epoch-size",
        type=positive,
        metavar="N",
        help="images of the training set, where the log does not tell",
    )
    add("--batch", type=positive, metavar="N", help="images per iteration, where the log does not tell")
    add("--smooth", type=positive, default=1, metavar="N", help="running mean over N points")
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
    return made


def work(options: argparse.Namespace) -> None:
    """Draws once, or again and again."""
    wish = Wish(
        output=options.output, interactive=options.interactive, names=options.y, x=options.x,
        epoch_size=options.epoch_size, batch=options.batch, smooth=options.smooth, group=options.group,
        rates=options.rates, log_x=options.log_x, log_y=options.log_y, labels=options.label, title=options.title,
        size=options.size, chart=options.type,
    )  # fmt: skip
    draw(options.logs, wish, options.follow)


if __name__ == "__main__":
    sys.exit(command.main(arguments(), work))

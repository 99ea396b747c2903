"""Write a list of images into a database."""

from __future__ import annotations

import argparse

from pysolver.commands import _options as o
from pysolver.data.prepare import imageset


def options(parser: argparse.ArgumentParser) -> None:
    o.flag(parser, "gray", action="store_true", help="read as grey")
    o.flag(parser, "shuffle", action="store_true", help="in random order")
    o.flag(parser, "check_size", action="store_true", help="all images must have one size")
    o.flag(parser, "encoded", action="store_true", help="store compressed")
    o.flag(parser, "backend", default="lmdb", metavar="lmdb|leveldb", help="kind of the database (default lmdb)")
    o.flag(
        parser, "resize_width", type=o.natural, default=0, metavar="PIXELS", help="resize to this width (with a height)"
    )
    o.flag(
        parser,
        "resize_height",
        type=o.natural,
        default=0,
        metavar="PIXELS",
        help="resize to this height (with a width)",
    )
    o.flag(parser, "encode_type", default="", metavar="png|jpg|...", help="store compressed in this format")
    parser.add_argument("root", metavar="ROOTFOLDER/")
    parser.add_argument("list", metavar="LISTFILE")
    parser.add_argument("db", metavar="DB_NAME")


def call(args: argparse.Namespace) -> None:
    imageset.convert_imageset(
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
        emit=args.emit,
    )

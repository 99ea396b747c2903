"""Prepare a known data set as LMDBs and a mean file, ready for a Data layer."""

from __future__ import annotations

import argparse

from pysolver.data.prepare import prepare


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="digits, mnist, fashion-mnist, cifar10, cifar100, imagenet or voc")
    parser.add_argument("out", metavar="OUT", help="folder for the databases")
    parser.add_argument("--from", dest="source", metavar="DIR", help="folder with the original files (else: download)")
    parser.add_argument("--force", action="store_true", help="replace databases that are there")


def call(args: argparse.Namespace) -> None:
    prepare(args.name, args.out, source_dir=args.source, force=args.force)

"""Run a pycaffe script; its `import caffe` is pysolver."""

from __future__ import annotations

import argparse
import os
import sys

from pysolver.errors import CaffeError
from pysolver.pycaffe import mode, run

EXAMPLES = """
pysolver run classify.py cat.jpg
pysolver run -m pytest tests/           a module, as `python -m` runs it
pysolver run -c "import caffe; print(caffe.layer_type_list())"
"""


def options(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("-m", dest="run", action="store_const", const=run.run_module, help="SCRIPT names a module")
    kinds.add_argument("-c", dest="run", action="store_const", const=run.run_code, help="SCRIPT is Python code")
    parser.add_argument("script", metavar="SCRIPT")
    parser.add_argument("args", metavar="ARGS", nargs=argparse.REMAINDER)


def call(args: argparse.Namespace) -> int:
    if args.run is None and not os.path.exists(args.script):
        raise CaffeError(f"{args.script}: file not found")
    mode.set_log_level(args.emit.level)
    try:
        (args.run or run.run_script)(args.script, args.args)
    except CaffeError:
        raise
    except Exception:  # a user's own script fails as it would under python
        sys.excepthook(*sys.exc_info())
        return 1
    return 0

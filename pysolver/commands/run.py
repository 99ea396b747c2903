"""Run a pycaffe script; its `import caffe` is pysolver."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from pathlib import Path

from pysolver.commands._options import flag
from pysolver.errors import CaffeError
from pysolver.files import looked_for
from pysolver.pycaffe import mode, run

EXAMPLES = """
pysolver run classify.py cat.jpg
pysolver run -m pytest tests/           a module, as `python -m` runs it
pysolver run -c "import caffe; print(caffe.layer_type_list())"
"""

_OLD_SYNTAX = (
    "call to 'print'",
    "call to 'exec'",
    "multiple exception types",
    "leading zeros in decimal",
    "use of tabs",
)
_OLD_MODULES = {"cPickle", "urllib2", "StringIO", "cStringIO", "ConfigParser", "Queue", "Tkinter", "HTMLParser"}
_OLD_NAMES = {"xrange", "raw_input", "unicode", "basestring", "long", "unichr", "reduce", "file", "execfile"}
_OLD_METHODS = {"iteritems", "itervalues", "iterkeys", "has_key"}


def options(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("-m", dest="run", action="store_const", const=run.run_module, help="SCRIPT names a module")
    kinds.add_argument("-c", dest="run", action="store_const", const=run.run_code, help="SCRIPT is Python code")
    flag(parser, "allow_python_layers", "allow-python-layers", action="store_true",
         help="let Python layers of the nets import modules that the script has not imported")  # fmt: skip
    parser.add_argument("script", metavar="SCRIPT")
    parser.add_argument("args", metavar="ARGS", nargs=argparse.REMAINDER)


def call(args: argparse.Namespace) -> int:
    mode.allow_python_layers(args.allow_python_layers)
    if args.run is None and not os.path.exists(args.script):
        raise CaffeError(f"{args.script}: file not found{looked_for(args.script)}")
    if args.run is None and os.path.isdir(args.script) and not os.path.exists(f"{args.script}/__main__.py"):
        raise CaffeError(f"{args.script}: a folder, not a script")
    mode.set_log_level(args.emit.level)
    try:
        (args.run or run.run_script)(args.script, args.args)
    except CaffeError as error:
        raise CaffeError(f"{_line_of_script(error)}{error}") from error
    except Exception as error:  # a user's own script fails as it would under python
        sys.excepthook(*sys.exc_info())
        if _is_of_python_2(error):
            print(f"pysolver: {args.script} is written for Python 2, it seems; this is Python 3", file=sys.stderr)
        return 1
    return 0


def _is_of_python_2(error: Exception) -> bool:
    """Whether it is what Python 3 says to things that most pycaffe scripts once had."""
    if isinstance(error, SyntaxError):
        return any(word in str(error) for word in _OLD_SYNTAX)
    names = {ModuleNotFoundError: _OLD_MODULES, NameError: _OLD_NAMES, AttributeError: _OLD_METHODS}
    return getattr(error, "name", None) in names.get(type(error), ())


def _line_of_script(error: CaffeError) -> str:
    """`solve.py:12: `: the last place in code of the user's that led to the error."""
    ours = str(Path(__file__).resolve().parents[1])
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((ours, "<frozen", sys.base_prefix))
    ]
    return f"{os.path.relpath(frames[-1].filename)}:{frames[-1].lineno}: " if frames else ""

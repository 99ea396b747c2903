"""Run a pycaffe script, module or command as it is: its `import caffe` is pysolver.

    python -m pysolver.as_caffe script.py [ARGS]
    python -m pysolver.as_caffe -m pytest [ARGS]
    python -m pysolver.as_caffe -c "import caffe; ..." [ARGS]

`pysolver run script.py [ARGS]` is the first of these.
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from pysolver.pycaffe import alias

_ON_PATH = Path(__file__).parent / "pycaffe" / "on_path"


def install() -> None:
    """From now on `caffe` is pysolver, here and in processes that are started from here."""
    alias.take()
    folders = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(_ON_PATH) not in folders:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(_ON_PATH), *filter(None, folders)])


def run_script(path: str, argv: Sequence[str] = ()) -> int | None:
    """Run a script as `python path argv...` would, with caffe installed. The script's SystemExit comes through."""
    install()
    sys.argv = [path, *argv]
    sys.path[0] = str(Path(path).resolve().parent)
    runpy.run_path(path, run_name="__main__")
    return 0


def main(argv: Sequence[str]) -> int | None:
    """The command line: a script, `-m module` or `-c command`, then its arguments."""
    if not argv or argv[0] in ("-h", "--help") or (argv[0] in ("-m", "-c") and len(argv) < 2):
        print(__doc__, file=sys.stderr)
        return 0 if argv and argv[0] in ("-h", "--help") else 2
    if argv[0] not in ("-m", "-c"):
        return run_script(argv[0], argv[1:])
    install()
    sys.argv = [argv[0], *argv[2:]]
    if argv[0] == "-m":
        runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
    else:
        exec(compile(argv[1], "<string>", "exec"), {"__name__": "__main__"})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""python -m tests.fuzz [--seconds 60] [--target NAME] [--cases N] [--seed N] [--again CASE]

Fuzzes every target in turn, one minute in all unless told otherwise; the first line says on which commit. --again runs
one case of a target without a guard, so that its traceback shows.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from pysolver.checkout import commit
from tests.fuzz.hunt import case_content, hunt
from tests.fuzz.targets import TARGETS

MANY = 1 << 60
ROOT = Path(__file__).parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="in all, shared by the targets")
    parser.add_argument("--target", default="", help=f"this, or all with this in their name ({', '.join(TARGETS)})")
    parser.add_argument("--cases", type=int, default=MANY, help="at most so many of each target")
    parser.add_argument("--seed", type=int, default=None, help="default: another one each time")
    parser.add_argument("--again", type=int, metavar="CASE", help="this case only, unguarded")
    options = parser.parse_args()
    wanted = options.target
    chosen = [wanted] if wanted in TARGETS else [name for name in TARGETS if wanted in name]
    if not chosen:
        parser.error(f"no target called '{wanted}'; there are {', '.join(TARGETS)}")
    seed = options.seed if options.seed is not None else int(time.time())
    if options.again is not None:
        content = case_content(chosen[0], options.again, seed)
        with tempfile.TemporaryDirectory(prefix="fuzz_") as folder:
            os.chdir(folder)
            TARGETS[chosen[0]].run(content)
        return 0
    found = 0
    print(f"{'target':20} {'cases':>8} {'refused':>8} {'findings':>8}   seed {seed}, commit {commit(ROOT)}", flush=True)
    for name in chosen:
        until = time.monotonic() + options.seconds / len(chosen)
        tally = hunt(name, 0, options.cases, seed, until)
        print(f"{name:20} {tally.cases:8} {tally.refused:8} {len(tally.findings):8}", flush=True)
        for kind, count in tally.kinds.most_common():
            first = next(finding for finding in tally.findings if finding.what == kind)
            print(f"    {count} x {kind}: case {first.case}")
            print("".join(f"        {line}\n" for line in first.details.splitlines()[-3:]), end="", flush=True)
        found += len(tally.findings)
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())

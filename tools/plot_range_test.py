#!/usr/bin/env python3
"""`pysolver plot_range_test` from a checkout, installed or not."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pysolver.commands import tool

sys.exit(tool(__file__))

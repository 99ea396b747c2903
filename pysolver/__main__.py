"""`python -m pysolver` is the command `pysolver`."""

import sys

from pysolver.cli import main

sys.exit(main())

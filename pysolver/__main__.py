"""`python -m pysolver` is the command `pysolver`."""

import sys

from pysolver.commands import main

sys.exit(main())

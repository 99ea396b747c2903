"""The stand-in trees live beside the tests, and the tool at the top of the checkout."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

"""What is fuzzed: for each thing that is read, some good inputs, a way to change them, and the reading."""

from tests.fuzz.targets import (  # noqa: F401  each adds its targets
    databases,
    detection,
    downloads,
    exchange,
    forks,
    hdf5_data,
    lists,
    logs,
    notes,
    paper,
    pictures,
    programs,
    prototxts,
    weights,
)
from tests.fuzz.targets.target import TARGETS, Target

__all__ = ["TARGETS", "Target"]

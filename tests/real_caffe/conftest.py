"""The two Caffes, built once a session; without them every test here fails, with the reason."""

from pathlib import Path

import pytest
import real


def _built(patched: bool) -> Path:
    try:
        return real.build(patched)
    except real.NoCaffe as error:
        pytest.fail(f"no real Caffe: {error}", pytrace=False)


@pytest.fixture(scope="session")
def plain() -> Path:
    """The tree of the Caffe as it comes."""
    return _built(patched=False)


@pytest.fixture(scope="session")
def patched() -> Path:
    """The tree of the Caffe with the patch."""
    return _built(patched=True)

"""The parser of prototxts takes no more time and memory than a text is long."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pysolver.errors import CaffeError
from pysolver.proto.caffe_pb2 import NetParameter
from pysolver.proto.parser import Parser
from pysolver.proto.text import parse_text


@pytest.mark.timeout(60)
def test_blanks_before_a_nul() -> None:
    """Took two to the power of their number."""
    with pytest.raises(CaffeError, match="<text>:1:101: a NUL byte: this is not text"):
        parse_text(" " * 100 + "\0", NetParameter)


@pytest.mark.timeout(60)
def test_a_string_as_long_as_the_file() -> None:
    """Each character took a hundred bytes of the matcher's memory: 64 MB, which a file may have, more than 3 GB."""
    code = (
        "import resource, sys; from pysolver.proto import caffe_pb2; from pysolver.proto.text import parse_text\n"
        "text = f'name: \"{\"a\" * (1 << 24)}' + '\"' * int(sys.argv[1])\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: parse_text(text, caffe_pb2.NetParameter)\n"
        "except Exception as error: print(error)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)"
    )
    for ends in "10":
        done = subprocess.run([sys.executable, "-c", code, ends], capture_output=True, text=True, check=True)
        *error, megabytes = done.stdout.splitlines()
        assert error == ([] if ends == "1" else ["<text>:1:7: this string does not end in its line"])
        assert int(megabytes) < 250  # a few copies of 16 MB


@pytest.mark.timeout(60)  # a second's work; where each layer counted its lines from the first, minutes
def test_where_layers_begin() -> None:
    parser = Parser("\n\nlayer {\n}\n" * 100_000, "n")
    parser.parse(NetParameter())
    lines = parser.layer_lines()
    assert lines[:3] == [3, 7, 11] and lines[-1] == 399_999

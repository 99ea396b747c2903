"""The example of docs/pycaffe.md does what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[2] / "docs" / "pycaffe.md"


@pytest.mark.filterwarnings("ignore")
def test_example(tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(GUIDE), "exec"), {})
    loss, score = capsys.readouterr().out.splitlines()
    assert 0 < float(loss.split()[1]) < 0.2
    assert score.startswith("score [[")

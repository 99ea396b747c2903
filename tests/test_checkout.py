"""The commit of a checkout."""

from __future__ import annotations

import re
import subprocess

from pysolver.checkout import commit


def test_a_commit_has_a_plus_once_a_file_of_it_was_changed(tmp_path, monkeypatch) -> None:
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "x")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "x@y")
    code, beside = tmp_path / "code", tmp_path / "beside"
    for folder in (code, beside):
        folder.mkdir()
        (folder / "a.txt").write_text("1")
    for words in ("init -q", "add .", "commit -qm one"):
        subprocess.run(["git", "-C", str(tmp_path), *words.split()], check=True)
    words = ["git", "-C", str(tmp_path), "log", "-1", "--format=%H"]
    full = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    (beside / "a.txt").write_text("2")
    (code / "new.txt").write_text("1")
    assert re.fullmatch(r"[0-9a-f]{10}", commit(code)) and full.startswith(commit(code))
    (code / "a.txt").write_text("2")
    assert commit(code) == full[:10] + "+"


def test_outside_a_checkout_it_is_unknown(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert commit(tmp_path) == "unknown"

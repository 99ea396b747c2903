"""A Caffe checkout on disk: its state, and changing it all or nothing."""

from __future__ import annotations

import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from caffe_patch import edits
from caffe_patch.source import PlaceNotFound

REQUIRED = (edits.PROTO, edits.HEADER, *edits.MOMENTUM_SOLVERS)
OPTIONAL = (edits.DOCUMENTATION, f"{edits.TESTS}/test_caffe_main.cpp")


class Refused(Exception):
    """The tree cannot be patched or reverted as it is; nothing was changed. The message says why."""


@dataclass(frozen=True)
class Tree:
    """A checkout with both of its faces: the files that the patch touches, without it and with it."""

    root: Path
    patched: bool
    plain: dict[str, str | None]
    cyclical: dict[str, str | None]


def open_tree(root: Path) -> Tree:
    """Read a checkout and work out every edit, or raise Refused. Changes nothing."""
    files = _read(root)
    try:
        plan = edits.edits_of(files)
        added = edits.new_files(files)
    except PlaceNotFound as error:
        raise Refused(f"place not found: {error}") from None
    added = {path: text.replace("\n", edits.line_end(files[edits.PROTO])) for path, text in added.items()}
    current = {path: _read_file(root, path) for path in added}
    patched = _is_patched(plan, files, added, current)
    plain = {path: _remove(plan[path], files[path]) if patched else files[path] for path in plan}
    cyclical = _apply(plan, plain)
    if patched and cyclical != {path: files[path] for path in plan}:
        raise Refused("the patch is in this tree, but its lines were edited since: restore them first")
    for path in plan:
        if _remove(plan[path], cyclical[path]) != plain[path]:
            raise Refused(f"{path}: the patch could not be taken out again, so it is not put in")
    return Tree(
        root,
        patched,
        {**plain, **dict.fromkeys(added)},
        {**cyclical, **(current if patched else added)},
    )


def write(root: Path, old: dict[str, str | None], new: dict[str, str | None]) -> list[str]:
    """Turn the files from `old` into `new`, all or none. Returns the paths that changed."""
    changed = [path for path in new if new[path] != old[path]]
    targets = {path: _inside(root, path) for path in changed}
    locked = [str(path) for target in targets.values() for path in (target, target.parent) if _locked(path)]
    if locked:
        raise Refused(_list("read-only", sorted(set(locked))))
    model = os.stat(root / edits.PROTO)
    staged: dict[str, Path] = {}
    done: list[str] = []
    try:
        for path in changed:
            if new[path] is not None:
                staged[path] = _stage(targets[path], new[path], model)
        for path in changed:
            done.append(path)
            if path in staged:
                os.replace(staged[path], targets[path])
                del staged[path]
            else:
                os.unlink(targets[path])
    except BaseException as error:
        for path in done:
            _put_back(targets[path], old[path], model)
        if isinstance(error, OSError):
            raise Refused(f"writing failed, everything is as it was: {error}") from error
        raise
    finally:
        for leftover in staged.values():
            leftover.unlink()
    return changed


def _is_patched(plan: dict[str, list], files: dict[str, str], added: dict[str, str], current: dict) -> bool:
    """True if every piece of the patch is there, False if none is; anything between is refused."""
    foreign = [path for path in added if current[path] is not None and not _same(current[path], added[path])]
    if foreign:
        raise Refused(_list("exists already, but is not what the patch puts there", foreign))
    present = {f"{path}: {edit.what}": edit.present(files[path]) for path in plan for edit in plan[path]}
    present.update({f"{path}: the file": current[path] is not None for path in added})
    if any(present.values()) and not all(present.values()):
        raise Refused(
            _list("half patched; the patch is missing at", [place for place in present if not present[place]])
        )
    return all(present.values())


def _read(root: Path) -> dict[str, str]:
    if not root.is_dir():
        raise Refused(f"{root} is not a folder")
    missing = [path for path in REQUIRED if not os.path.lexists(root / path)]
    if missing:
        raise Refused(_list(f"{root} is not a Caffe tree (of release candidate 3 or later); it lacks", missing))
    solvers = sorted(f"{edits.SOLVERS}/{path.name}" for path in (root / edits.SOLVERS).glob("*.cpp"))
    files = {path: _read_file(root, path) for path in (*REQUIRED, *solvers, *OPTIONAL)}
    return {path: text for path, text in files.items() if text is not None}


def _read_file(root: Path, path: str) -> str | None:
    """The text of a file, its bytes recoverable; None if there is none."""
    target = _inside(root, path)
    if os.path.lexists(target) and not target.is_file():
        raise Refused(f"{path} cannot be read: it is a folder, a pipe or a device")
    try:
        return target.read_bytes().decode("utf-8", "surrogateescape") if os.path.lexists(target) else None
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}") from error


def _inside(root: Path, path: str) -> Path:
    """The real place of a path of the tree, which must not lie outside of it."""
    try:
        real = (root / path).resolve()
    except (OSError, RuntimeError) as error:  # a loop of links
        raise Refused(f"{path} cannot be read: {error}") from error
    if root.resolve() not in real.parents:
        raise Refused(f"{path} leads out of the tree, to {real}")
    return real


def _apply(plan: dict[str, list], plain: dict[str, str | None]) -> dict[str, str | None]:
    result, lost = {}, []
    for path, steps in plan.items():
        text = plain[path]
        for edit in steps:
            try:
                text = edit.apply(text)
            except PlaceNotFound as error:
                lost.append(f"{path}: {error}")
        result[path] = text
    if lost:
        raise Refused(_list("place not found", lost))
    return result


def _remove(steps: list, text: str) -> str:
    for edit in steps:
        text = edit.remove(text)
    return text


def _same(text: str, ours: str) -> bool:
    return text.replace("\r\n", "\n") == ours.replace("\r\n", "\n")


def _locked(path: Path) -> bool:
    """Whether a file or folder may not be written: by its mode (which root could ignore) or to this user."""
    return path.exists() and not (path.stat().st_mode & 0o222 and os.access(path, os.W_OK))


def _stage(target: Path, text: str, model: os.stat_result) -> Path:
    """Write a text beside its target, with the target's mode and owner (for a new file: those of the proto)."""
    like = target.stat() if target.exists() else model
    handle, name = tempfile.mkstemp(prefix=".caffe_patch-", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode("utf-8", "surrogateescape"))
            file.flush()
            os.fsync(file.fileno())  # whole on the disk before it takes the name
        os.chmod(name, stat.S_IMODE(like.st_mode))
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            os.chown(name, like.st_uid, like.st_gid)
    except BaseException:
        os.unlink(name)
        raise
    return Path(name)


def _put_back(target: Path, text: str | None, model: os.stat_result) -> None:
    if text is not None:
        os.replace(_stage(target, text, model), target)
    elif target.exists():
        target.unlink()


def _list(title: str, items: list[str]) -> str:
    return f"{title}:\n" + "\n".join(f"  {item}" for item in items)

"""What is given to a command: a Caffe tree to be patched, and arguments."""

from __future__ import annotations

import io
import random
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pysolver.errors import CaffeError
from tests.fuzz.mutation import mutate_text
from tests.fuzz.targets.logs import golden_logs
from tests.fuzz.targets.pictures import write_pictures
from tests.fuzz.targets.target import folder_of, target
from tests.fuzz.targets.weights import NET, caffemodels


def _trees() -> list[bytes]:
    import sys

    sys.path.insert(0, str(Path(__file__).parents[2] / "caffe_patch"))
    import stand_in

    made = []
    for line in stand_in.LINES:
        with tempfile.TemporaryDirectory() as folder:
            stand_in.build(Path(folder), line)
            archive = io.BytesIO()
            with tarfile.open(fileobj=archive, mode="w") as tar:
                for path in sorted(Path(folder).rglob("*")):
                    tar.add(path, str(path.relative_to(folder)), recursive=False)
            made.append(archive.getvalue())
    return made


def _mutate_source_file(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    source, target = tarfile.open(fileobj=io.BytesIO(data)), io.BytesIO()  # noqa: SIM115
    members = list(source)
    chosen = rng.choice([member for member in members if member.size])
    contents = {member.name: source.extractfile(member).read() for member in members if member.isfile()}
    with tarfile.open(fileobj=target, mode="w") as tar:
        for member in members:
            if member.isfile():
                content = contents[member.name]
                content = mutate_text(rng, content, list(contents.values())) if member is chosen else content
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            else:
                tar.addfile(member)
    return target.getvalue()


def _files_below(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@target("Caffe tree", _trees, _mutate_source_file)
def _tree(data: bytes) -> None:
    """apply then revert: refused, or the very bytes that were there."""
    from caffe_patch.cli import main

    with folder_of("caffe") as folder:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            tar.extractall(folder, filter="data")
        before = _files_below(folder)
        if main(["apply", "caffe"]) != 0:
            if _files_below(folder) != before:
                raise AssertionError("refused, but something was changed")
            raise CaffeError("refused")
        if main(["check", "caffe"]) or main(["diff", "caffe"]) or main(["revert", "caffe"]):
            raise AssertionError("applied, but not taken out again")
        if _files_below(folder) != before:
            raise AssertionError("not as it was")


COMMANDS = [
    "train -solver solver.prototxt --gpu 0 --snapshot=auto --keep 2",
    "train --solver=solver.prototxt --weights=w.caffemodel --sigint_effect=stop --no-progress",
    "test -model net.prototxt -weights w.caffemodel -iterations 2",
    "time --model=net.prototxt --iterations=1 --phase TEST --level 1 --stage a,b",
    "schedule --solver=solver.prototxt --csv - --every 3",
    "device_query -gpu all",
    "upgrade_net_proto_text net.prototxt out.prototxt",
    "upgrade_solver_proto_text solver.prototxt out.prototxt",
    "upgrade_net_proto_binary w.caffemodel out.caffemodel",
    "compute_image_mean db mean.binaryproto --backend lmdb",
    "convert_imageset ./ list.txt out --gray --resize_width 3 --resize_height=4 --encode_type png",
    "extract_features w.caffemodel net.prototxt y feat 1 lmdb CPU 0",
    "data digits out --from nowhere --force",
    "parse_log caffe.log . --json -v",
    "plot_log caffe.log -o out.png",
    "check_solver solver.prototxt caffe.log",
    "diagnose_log caffe.log",
    "--version",
]


_ODD_WORDS = ["", "-1", "0", "x" * 300, "1e9", "99999999999999999999", "-", "--", "=", "a=b", ",", "1,2", "all", "."]
_ODD_WORDS += ["net.prototxt", "w.caffemodel", "/dev/null", "\udcff", "ü", "list.txt"]


def _mutate_words(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    words = data.decode().split(" ")
    more = [word for other in others for word in other.decode().split(" ")]
    for _ in range(1 << rng.randrange(3)):
        at = rng.randrange(len(words) + 1)
        kind = rng.randrange(4)
        if kind == 0:
            words.insert(at, rng.choice(more))
        elif kind == 1:
            del words[at : at + 1]
        else:
            words[at : at + 1] = [rng.choice(_ODD_WORDS)]
    return " ".join(words).encode("utf-8", "surrogateescape")


@target("arguments", lambda: [line.encode() for line in COMMANDS], _mutate_words)
def _arguments(data: bytes) -> None:
    """Status 0, 1 or 2, and an error in one line without the words that only a bare exception gets."""
    import sys

    words = data.decode("utf-8", "surrogateescape").split(" ")
    if "digits" in words or "run" in words or "mnist" in " ".join(words):
        return  # long, or code of one's own
    write_pictures()
    Path("net.prototxt").write_text(NET)
    solver = 'net: "net.prototxt" max_iter: 1 base_lr: 0.1 lr_policy: "fixed" snapshot_prefix: "snap" solver_mode: CPU'
    Path("solver.prototxt").write_text(solver)
    Path("list.txt").write_text("0.png 0\n")
    Path("caffe.log").write_bytes(golden_logs()[0])
    Path("w.caffemodel").write_bytes(caffemodels()[0])
    for path in ("out", "feat"):
        shutil.rmtree(path, ignore_errors=True)
    said, sys.stderr = sys.stderr, io.StringIO()
    try:
        status = _main(words)
        text = sys.stderr.getvalue()
    finally:
        sys.stderr = said
    if "--debug shows where" in text or "Traceback" in text or status not in (0, 1, 2, None):
        raise AssertionError(f"status {status}: {text[-2000:]}")
    if status:
        raise CaffeError(f"status {status}")


def _main(words: Sequence[str]) -> int | None:
    from pysolver.commands import main

    try:
        return main(words)
    except SystemExit as end:  # argparse
        return end.code

"""A real Caffe, built from the source distribution of the PyPI package brocolli-caffe (a Caffe of the SSD line).

Two trees are built, one as it comes and one with the patch put in by the tool. They live in the user's cache folder
under a key of everything that goes into them; a change of the patch rebuilds what depends on it and nothing else.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from contextlib import contextmanager
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
DISTRIBUTION = "brocolli-caffe==9.0.2"
SHA256 = "c6410cc60bdd6db685d441b66be7df05410f8850ac88d6b75d48ef9b2315c08a"
PACKAGES = [
    *("g++", "make", "protobuf-compiler", "libprotobuf-dev", "libgoogle-glog-dev", "libgflags-dev", "libhdf5-dev"),
    *(f"libboost-{part}-dev" for part in ("system", "thread", "filesystem", "regex")),
    *("liblmdb-dev", "libopenblas-dev"),
]
CONFIG = """\
CPU_ONLY := 1
USE_OPENCV := 0
USE_LEVELDB := 0
BLAS := open
CUSTOM_CXX := g++ -std=c++14 -w
LIBRARY_DIRS := $(shell gcc -print-multiarch | sed 's,.*,/usr/lib/& /usr/lib/&/hdf5/serial,')
INCLUDE_DIRS := /usr/include/hdf5/serial
BUILD_DIR := build
DISTRIBUTE_DIR := distribute
Q ?= @
"""
BUILT = ".temp_release"  # where this distribution's Makefile puts what it builds
BINARY = f"{BUILT}/tools/caffe.bin"
UNIT_TESTS = tuple(f"{BUILT}/test/test_cyclical_{name}.testbin" for name in ("policy", "solver"))


class NoCaffe(Exception):
    """This machine cannot build a Caffe; the message says what is missing."""


def build(patched: bool) -> Path:
    """The tree of a built Caffe. About six minutes on two cores the first time, seconds afterwards."""
    _install_packages()
    with _locked_cache() as cache:
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            fresh = _unpack(_download(cache), Path(scratch))
            (fresh / "Makefile.config").write_text(CONFIG)
            if patched:
                run_tool("apply", fresh)
            tree = cache / ("patched" if patched else "plain")
            synchronise(fresh, tree)
        make(tree, BINARY, *(UNIT_TESTS if patched else ()))
    return tree


def run_tool(command: str, tree: Path) -> str:
    """Run the project's patch tool as a person would; its output."""
    done = subprocess.run(
        [sys.executable, "-m", "caffe_patch", command, str(tree)], cwd=CHECKOUT, capture_output=True, text=True
    )
    if done.returncode:
        raise NoCaffe(f"caffe_patch {command} failed: {done.stderr}")
    return done.stdout


def make(tree: Path, *targets: str) -> None:
    """Build targets of a Caffe tree, politely."""
    done = subprocess.run(["nice", "make", "-j2", *targets], cwd=tree, capture_output=True, text=True)
    if done.returncode:
        log = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
        raise NoCaffe(f"Caffe does not build in {tree}. It needs the Debian packages\n{' '.join(PACKAGES)}\n{log}")


def synchronise(fresh: Path, tree: Path) -> None:
    """Make the sources in `tree` those of `fresh`, touching only what differs, so that make rebuilds only that."""
    wanted = {path.relative_to(fresh) for path in fresh.rglob("*") if path.is_file()}
    present = {path.relative_to(tree) for path in tree.rglob("*") if path.is_file()}
    for name in wanted:
        target = tree / name
        if name not in present or target.read_bytes() != (fresh / name).read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(fresh / name, target)  # with the time of now
    for name in present - wanted:
        if name.parts[0] != BUILT:
            (tree / name).unlink()


def run(tree: Path, binary: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run a binary of a Caffe tree in a folder; its log is on stderr (and not in files of glog's as well)."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "GLOG_logtostderr": "1"}
    return subprocess.run(
        [str(tree / binary), *arguments], cwd=folder, env=environment, capture_output=True, text=True, errors="replace"
    )


def caffe(tree: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run the caffe binary."""
    return run(tree, BINARY, folder, *arguments)


def train(tree: Path, folder: Path, *arguments: str, solver: str = "solver.prototxt") -> str:
    """`caffe train` of a solver file; the log of a run that ended well."""
    done = caffe(tree, folder, "train", f"--solver={solver}", *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


RATE_LINE = re.compile(r"Iteration (\d+), lr = (\S+), momentum = (\S+), weight decay = (\S+)$", re.MULTILINE)


def rates(log: str) -> dict[int, tuple[str, str, str]]:
    """What a patched Caffe printed: lr, momentum and weight decay of each displayed iteration."""
    return {int(found[1]): (found[2], found[3], found[4]) for found in RATE_LINE.finditer(log)}


def losses(log: str) -> list[float]:
    """The loss of each displayed iteration, as printed, the last forward pass of the run included."""
    return [float(found[1]) for found in re.finditer(r"Iteration \d+(?: \([^)]*\))?, loss = (\S+)$", log, re.MULTILINE)]


def _install_packages() -> None:
    if not shutil.which("dpkg-query"):
        return  # not Debian: whoever has the libraries builds, make tells the others
    status = ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Abbrev}\n", *PACKAGES]
    known = subprocess.run(status, capture_output=True, text=True).stdout
    missing = [name for name in PACKAGES if f"{name} ii" not in known]
    if not missing:
        return
    if os.geteuid() != 0:
        raise NoCaffe(f"a Caffe needs these Debian packages: apt-get install {' '.join(missing)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", *missing]):
        done = subprocess.run(["apt-get", *command], env=environment, capture_output=True, text=True)
        if done.returncode:
            raise NoCaffe(f"apt-get {' '.join(command)} failed: {(done.stdout + done.stderr)[-2000:]}")


@contextmanager
def _locked_cache():
    compiler = subprocess.run(["g++", "--version"], capture_output=True, text=True).stdout
    key = hashlib.sha256(f"{SHA256}\n{CONFIG}\n{compiler}".encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pysolver" / f"caffe-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def _download(cache: Path) -> Path:
    archive = cache / "source.tar.gz"
    if not archive.exists():
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "brocolli-caffe", DISTRIBUTION]
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            done = subprocess.run([*command, "-d", scratch], cwd=scratch, capture_output=True, text=True)
            found = list(Path(scratch).glob("*.tar.gz"))
            if len(found) != 1:
                raise NoCaffe(f"{DISTRIBUTION} cannot be downloaded: {done.stderr[-2000:]}")
            found[0].rename(archive)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != SHA256:
        archive.unlink()
        raise NoCaffe(f"{DISTRIBUTION} has the SHA-256 {digest}, not {SHA256}")
    return archive


def _unpack(archive: Path, folder: Path) -> Path:
    needed = re.compile(r"[^/]+/(src|include|tools|docs|Makefile)\b")
    with tarfile.open(archive) as file:
        members = [member for member in file.getmembers() if member.isfile() and needed.match(member.name)]
        file.extractall(folder, members=members, filter="data")
    return next(folder.iterdir())

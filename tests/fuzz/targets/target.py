"""A target: something that is read from a file, with good inputs and a way to change them."""

from __future__ import annotations

import contextlib
import functools
import io
import random
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pysolver.errors import CaffeError
from pysolver.proto.text import parse_text, to_text
from tests.fuzz.mutation import Mutate, message_mutator, mutate_bytes, mutate_text

GOLDEN = Path(__file__).parents[2] / "golden"


@dataclass(frozen=True)
class Target:
    """seeds: good inputs. run: reads one, in a folder of its own. clear: the errors that a person can act on."""

    seeds: Callable[[], list[bytes]]
    run: Callable[[bytes], None]
    mutate: Mutate = mutate_bytes
    clear: tuple[type[BaseException], ...] = (CaffeError,)

    def warm_up(self) -> None:
        """What is imported and started once does not count for the first case."""
        for seed in self.seeds()[:2]:
            with contextlib.suppress(*self.clear):
                self.run(seed)


TARGETS: dict[str, Target] = {}


def target(name: str, seeds: Callable[[], list[bytes]], mutate: Mutate = mutate_bytes, **options: Any) -> Callable:
    def add(run: Callable[[bytes], None]) -> Callable[[bytes], None]:
        TARGETS[name] = Target(functools.cache(seeds), run, mutate, **options)
        return run

    return add


def both(rng_text: Mutate, by_schema: Mutate, parse: Callable[[bytes], object]) -> Mutate:
    """Half of the inputs by the schema, where the seed has none of an older form; half as text or bytes."""

    def mutate(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
        if rng.random() < 0.5:
            with contextlib.suppress(CaffeError):
                return by_schema(rng, data, others)
        return rng_text(rng, data, others)

    return mutate


def prototxt(kind: type) -> Mutate:
    def parse(data: bytes, message: Any) -> None:
        message.CopyFrom(parse_text(data.decode(), kind))

    schema = message_mutator(kind, parse, lambda message: to_text(message).encode("utf-8", "replace"))
    return both(mutate_text, schema, parse)


def message(kind: type) -> Mutate:
    schema = message_mutator(
        kind, lambda data, message: message.ParseFromString(data), lambda m: m.SerializePartialToString()
    )
    return both(mutate_bytes, schema, kind.FromString)


def golden(*patterns: str) -> list[bytes]:
    return [path.read_bytes() for pattern in patterns for path in sorted(GOLDEN.glob(pattern))]


def written(save: Callable[[str], None]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/file.h5"
        save(path)
        return Path(path).read_bytes()


@contextlib.contextmanager
def folder_of(name: str) -> Iterator[Path]:
    shutil.rmtree(name, ignore_errors=True)
    path = Path(name)
    path.mkdir()
    yield path


def mutate_member(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """One file of an archive changed."""
    source, target = tarfile.open(fileobj=io.BytesIO(data)), io.BytesIO()  # noqa: SIM115
    members = [member for member in source if member.isfile()]
    chosen = rng.choice([member for member in members if member.size])
    with tarfile.open(fileobj=target, mode="w") as tar:
        for member in members:
            content = source.extractfile(member).read()
            content = mutate_bytes(rng, content, others) if member is chosen else content
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return target.getvalue()

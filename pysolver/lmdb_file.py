"""Reading an LMDB from its file, without the library: damage is an error, not the end of the process.

liblmdb maps data.mdb into memory and trusts it: a page that has vanished (a file cut short while it is being read) ends
the process with SIGBUS, a changed page number with SIGSEGV. Here pages are read from the file, and every number in them
is checked against it. The format: libraries/liblmdb/mdb.c of OpenLDAP, version 1 on a 64-bit little-endian machine.

    page        number 8, pad 2, flags 2, then lower 2 and upper 2 bounds of its free room; overflow: pages 4
    meta page   magic 4, version 4, address 8, map size 8, two databases of 48 bytes, last page 8, transaction 8
    database    pad 4 (of the first: the page size), flags 2, depth 2; branch, leaf, overflow pages, entries, root: 8
    node        lower 2, upper 2, flags 2, key size 2, key, data. Of a branch the first three are a page number;
                of a leaf two are the size of the data, which is a page number if the value has pages of its own
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

from pysolver.errors import CaffeError

_MAGIC, _VERSION = 0xBEEFC0DE, 1
_META_FLAG, _BRANCH, _LEAF = 0x08, 0x01, 0x02
_OWN_PAGES, _DUPLICATES = 0x01, 0x02 | 0x04  # flags of a leaf's node
_NO_PAGE = (1 << 64) - 1
_HEADER = struct.Struct("<QHHHH")
_META = struct.Struct("<IIQQ")
_DATABASE = struct.Struct("<IHHQQQQQ")
_NODE = struct.Struct("<HHHH")
_META_SIZE = _HEADER.size + _META.size + 2 * _DATABASE.size + 16
_PAGE_SIZES = {1 << power for power in range(8, 17)}
_DEEPEST = 32  # levels of the tree

Node = tuple[int, int, int, int, int]  # the four numbers of a node, and the offset of its key
Place = tuple[int, Node]  # of a record: its page and its node


class _Meta(NamedTuple):
    """One of the two states of the file; the later transaction counts."""

    transaction: int
    page_size: int
    flags: int
    last_page: int
    pages: int  # of the tree, branches and leaves
    entries: int
    root: int


class LmdbFile:
    """The records of data.mdb as its last complete transaction left them. Raises CaffeError if they cannot be had.

    entries: how many there are, by the file's own count.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            self._file = open(path, "rb", buffering=0)  # noqa: SIM115  open as long as this object lives
        except OSError as error:
            raise CaffeError(f"{path}: cannot be read: {error.strerror}") from None
        self._length = os.fstat(self._file.fileno()).st_size
        self._meta = self._last_meta()
        if self._meta.flags:
            raise CaffeError(f"{path}: an LMDB with options that Caffe does not use (flags {self._meta.flags:#x})")
        needed = (self._meta.last_page + 1) * self._meta.page_size
        if self._length < needed:
            raise CaffeError(f"{path} is cut short: {self._length} bytes of at least {needed}")
        self.entries = self._meta.entries

    def _last_meta(self) -> _Meta:
        first = self._meta_at(0)
        second = self._meta_at(first.page_size)
        return max(first, second, key=lambda meta: meta.transaction)

    def _meta_at(self, offset: int) -> _Meta:
        if self._length < _META_SIZE:
            raise CaffeError(f"{self._path}: not an LMDB: {self._length} bytes")
        page = self._read(offset, _META_SIZE)
        flags = _HEADER.unpack_from(page)[2]
        magic, version, _, _ = _META.unpack_from(page, 16)
        if magic != _MAGIC or version != _VERSION or not flags & _META_FLAG:
            raise CaffeError(f"{self._path}: not an LMDB of version {_VERSION}")
        page_size = _DATABASE.unpack_from(page, 40)[0]
        if page_size not in _PAGE_SIZES:
            raise self._damaged(f"a page size of {page_size}")
        _, flags, _, branches, leaves, _, entries, root = _DATABASE.unpack_from(page, 88)
        last_page, transaction = struct.unpack_from("<QQ", page, 136)
        return _Meta(transaction, page_size, flags, last_page, branches + leaves, entries, root)

    def items(self) -> Iterator[tuple[memoryview, memoryview]]:
        """(key, value) in key order."""
        left, budget = self.entries, self._budget()
        if self._meta.root != _NO_PAGE:
            for number, page, node in self._leaves(self._meta.root, 0, budget):
                left -= 1
                if left < 0:
                    raise self._damaged("more records than it counts")
                yield self._record(number, page, *node)
        if left:
            raise self._damaged(f"{left} records fewer than it counts")

    def places(self) -> list[Place]:
        """Where each record is, in key order."""
        found = [(number, node) for number, _, node in self._leaves(self._meta.root, 0, self._budget())]
        if len(found) != self.entries:
            raise self._damaged(f"{len(found)} records, not the {self.entries} that it counts")
        return found

    def at(self, place: Place) -> tuple[memoryview, memoryview]:
        """The (key, value) of a place."""
        number, node = place
        return self._record(number, self._read(number * self._meta.page_size, self._meta.page_size), *node)

    def _budget(self) -> Iterator[int]:
        """One for each page of the tree, of which there are no more than the file has."""
        return iter(range(min(self._meta.pages, self._meta.last_page + 1)))

    def _leaves(self, number: int, depth: int, budget: Iterator[int]) -> Iterator[tuple[int, memoryview, Node]]:
        """The nodes of the leaves below a page, with theirs; budget: one for each page that the tree has left."""
        if next(budget, None) is None or depth > _DEEPEST:
            raise self._damaged("its tree runs in circles")
        page = self._read(number * self._meta.page_size, self._meta.page_size)
        try:
            nodes = self._nodes(number, page)
            if nodes and _HEADER.unpack_from(page)[2] & _BRANCH:
                for low, high, top, _, _ in nodes:
                    yield from self._leaves(low | high << 16 | top << 32, depth + 1, budget)
                return
        except struct.error:
            raise self._damaged(f"page {number}") from None
        for node in nodes:
            yield number, page, node

    def _nodes(self, number: int, page: memoryview) -> list[Node]:
        """The four numbers of each node of a branch or leaf page, and the offset of its key."""
        own, _, flags, lower, upper = _HEADER.unpack_from(page)
        if own != number or flags & 0x0F not in (_BRANCH, _LEAF) or not 16 <= lower <= upper <= len(page):
            raise self._damaged(f"page {number}")
        offsets = struct.unpack_from(f"<{(lower - 16) // 2}H", page, 16)
        if _NODE.size * len(offsets) > len(page) - upper:  # some would be the same node
            raise self._damaged(f"page {number}")
        return [(*_NODE.unpack_from(page, offset), offset + 8) for offset in offsets]

    def _record(
        self, number: int, page: memoryview, low: int, high: int, flags: int, key_size: int, at: int
    ) -> tuple[memoryview, memoryview]:
        size, data = low | high << 16, at + key_size
        if flags & _DUPLICATES:
            raise CaffeError(
                f"{self._path}: an LMDB with several values to a key or databases inside: not Caffe's form"
            )
        if flags & _OWN_PAGES:
            if data + 8 > len(page):
                raise self._damaged(f"page {number}")
            (start,) = struct.unpack_from("<Q", page, data)
            return page[at:data], self._read(start * self._meta.page_size + 16, size)
        if data + size > len(page):
            raise self._damaged(f"page {number}")
        return page[at:data], page[data : data + size]

    def _read(self, offset: int, size: int) -> memoryview:
        if offset + size > self._length:
            raise CaffeError(f"{self._path} is cut short: {self._length} bytes of at least {offset + size}")
        try:
            data = os.pread(self._file.fileno(), size, offset)
        except OSError as error:
            raise CaffeError(f"{self._path}: cannot be read: {error.strerror}") from None
        if len(data) != size:
            raise CaffeError(f"{self._path} was cut short while it was read: it ends within {size} bytes at {offset}")
        return memoryview(data)

    def _damaged(self, what: str) -> CaffeError:
        return CaffeError(f"{self._path}: the LMDB is damaged: {what}")

"""What the lab's servers send: a stream of blocks, each different, all known from a seed.

So a receiver can check every byte without having had a copy of it. Standard library only.
"""

import hashlib
from collections.abc import Iterator
from random import Random

BLOCK_BYTES = 65536
_INDEX_BYTES = 8


class Content:
    """The stream that belongs to ``seed``."""

    def __init__(self, seed: int) -> None:
        self._body = Random(seed).randbytes(BLOCK_BYTES - _INDEX_BYTES)

    def block(self, index: int) -> bytes:
        """Block ``index`` of the stream, BLOCK_BYTES long."""
        return index.to_bytes(_INDEX_BYTES, "big") + self._body

    def blocks(self, size_bytes: int) -> Iterator[bytes]:
        """The first ``size_bytes`` of the stream, in blocks; the last one may be shorter."""
        for start in range(0, size_bytes, BLOCK_BYTES):
            block = self.block(start // BLOCK_BYTES)
            yield block[: size_bytes - start]

    def sha256(self, size_bytes: int) -> str:
        """The hexadecimal SHA-256 of the first ``size_bytes`` of the stream."""
        digest = hashlib.sha256()
        for block in self.blocks(size_bytes):
            digest.update(block)
        return digest.hexdigest()


class Checker:
    """Compares a stream as it arrives, in pieces of any size, with what it should be."""

    def __init__(self, content: Content) -> None:
        self._content = content
        self._pending = bytearray()
        self._index = 0
        self.wrong_blocks = 0

    def feed(self, data: bytes) -> None:
        """Take the next piece; whole blocks that differ are counted in ``wrong_blocks``."""
        self._pending += data
        offset = 0
        while len(self._pending) - offset >= BLOCK_BYTES:
            if not self._pending.startswith(self._content.block(self._index), offset):
                self.wrong_blocks += 1
            offset += BLOCK_BYTES
            self._index += 1
        del self._pending[:offset]

    def finish(self) -> None:
        """The stream has ended: compare what is left of it."""
        if self._pending and not self._content.block(self._index).startswith(self._pending):
            self.wrong_blocks += 1
        self._pending.clear()

"""The host's side of the rings in a domain's buffer region (nooks/xpc/block.py): no system call, either way.

The domain can write all of it at any time: each word is read once, and bounded by what the host knows itself.
"""

import threading
from collections.abc import Sequence

from nooks.xpc.block import AWAKE, REPLIED, REPLIES_AT, REPLY, REQUEST, REQUESTED, REQUESTS_AT, RING, TAKEN
from nooks.xpc.errors import ProtocolError

Reply = tuple[int, int, int, int, int]
"""The fields of REPLY."""

_WORD_BYTES = 4
_MASK = 2**32 - 1


class Rings:
    """Those at the beginning of ``region``, which are as new."""

    def __init__(self, region: memoryview) -> None:
        self._region = region
        self._words = region[:REQUESTS_AT].cast("I")
        self._barrier = threading.Lock()
        self.begin()

    def begin(self) -> None:
        """They are as new."""
        self._put = self._taken = 0

    @property
    def awake(self) -> bool:
        """Whether the mover looks at the rings."""
        return self._words[AWAKE // _WORD_BYTES] == 1

    def put(self, requests: Sequence[bytes]) -> bool:
        """Put packed requests in; False if the mover went to sleep meanwhile, and has to be woken.

        The caller sees to it that there are never more than RING without a reply.
        """
        region = self._region
        for request in requests:
            at = REQUESTS_AT + self._put % RING * REQUEST.size
            region[at : at + REQUEST.size] = request
            self._put += 1
        self._words[REQUESTED // _WORD_BYTES] = self._put & _MASK
        self._order()
        return self.awake

    def take(self, most: int) -> list[Reply]:
        """All replies that are there. Raises ProtocolError if the domain says that there are more than ``most``."""
        found: list[Reply] = []
        words, region = self._words, self._region
        while True:
            count = words[REPLIED // _WORD_BYTES] - self._taken & _MASK
            if not count:
                return found
            if count > most - len(found):
                raise ProtocolError(f"{len(found) + count} replies to {most} requests in the ring")
            for _ in range(count):
                found.append(REPLY.unpack_from(region, REPLIES_AT + self._taken % RING * REPLY.size))
                self._taken = self._taken + 1 & _MASK
            words[TAKEN // _WORD_BYTES] = self._taken
            self._order()

    def release(self) -> None:
        """Let go of the region."""
        self._words.release()

    def _order(self) -> None:
        """What was stored before this is visible to the other side before anything is read after it.

        Taking a lock is a locked instruction, which x86 needs between a store and a load that must not overtake it.
        """
        with self._barrier:
            pass

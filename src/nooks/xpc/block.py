"""The data port of class block: requests and replies of fixed size, beside a buffer region that both sides map.

A request says where in the region its data lie or are to be put; nothing else crosses the port. Both frames end in
a mark, so that one that was torn (a supervisor that died in the middle of it, zeros after it) is never taken for
whole. Used on both sides: standard library only.
"""

from struct import Struct

READ, WRITE, FLUSH, ZERO, DISCARD, BARRIER = range(6)
"""ZERO leaves zeros, DISCARD anything; a BARRIER is answered when all requests before it were."""

FUA = 1
"""Flag of a write: it is to be on the medium, not in a cache, when it is answered."""

ALONE = 2
"""Flag of a small request that is sent while no other is under way: the next one may wait for its end."""

REQUEST = Struct("<HBBIQQIHH")
"""Magic, operation, flags, tag, offset and length on the device and offset in the region in bytes, 0, mark."""

REPLY = Struct("<HHIiI")
"""Magic, 0, the request's tag, bytes or a negative errno, mark. Of operations without data 0 is success."""

REQUEST_MAGIC, REQUEST_MARK = 0x4B42, 0x516E
REPLY_MAGIC, REPLY_MARK = 0x4B52, 0x70E5A97D

REQUEST_BYTES_MAX = 1 << 20
"""The most that one request carries."""

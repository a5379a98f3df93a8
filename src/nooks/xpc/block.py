"""The data port of class block: requests and replies of fixed size, beside a buffer region that both sides map.

A request says where in the region its data lie or are to be put; nothing else crosses the port. Both frames end in
a mark, so that one that was torn (a supervisor that died in the middle of it, zeros after it) is never taken for
whole. Used on both sides: standard library only.

The port wakes two kernels for each frame. So there are rings too, in the first RINGS_BYTES of the region, for a mover
that looks at memory while it has something to do: requests go into the one as long as it is AWAKE, and its replies
into the other. Their words count frames since the region was new, or the last BARRIER; each is written by one side
only, and behind the frames that it counts (stores of x86 become visible in their order). Whoever is about to sleep
says so first and looks once more:

- The mover clears AWAKE, and is woken by a frame at the port: a request, or a KICK if one is in the ring already.
- The host is asleep when it has TAKEN all replies. The mover rings the bell (one byte, an I/O port's) for the next one.

All that the host reads there is the domain's to forge: it bounds each count by what it has asked for.
"""

from struct import Struct

READ, WRITE, FLUSH, ZERO, DISCARD, BARRIER, KICK = range(7)
"""ZERO leaves zeros, DISCARD anything; a BARRIER is answered at the port when all requests before it were, and the
rings are as new then; a KICK is not answered."""

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

RINGS_BYTES = 64 << 10
RING = 128
"""Frames that each ring holds, and so the most that may be without a reply."""

REQUESTED, BEGUN, AWAKE, REPLIED, TAKEN = 0, 64, 128, 192, 256
"""Words of 32 bits, each in a cache line of its own: byte offsets in the region. BEGUN is the mover's own, of requests
of the ring: a mover that comes out of a snapshot finds the rings of its new region, and is to begin with them."""

REQUESTS_AT, REPLIES_AT = 4096, 8192
"""Where the rings begin."""

BELL_IO_PORT = 0xE9
"""QEMU's isa-debugcon, which passes each byte on, and reads as its own number."""

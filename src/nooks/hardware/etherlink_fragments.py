"""The fragments of memory that make up a packet (3C90xC and 3C90xB NICs Technical Reference, packet descriptors)."""

from nooks.hardware.memory import GuestMemory

FRAGMENTS_MAX, FRAME_BYTES_MAX = 63, 4500

_LAST, _LENGTH_MASK = 0x80000000, 0x1FFF


def gather(memory: GuestMemory, at: int) -> bytearray:
    """The frame whose list of fragments is ``at``. Raises DmaRefused."""
    frame = bytearray()
    for _ in range(FRAGMENTS_MAX):
        address, length = memory.read_words(at, 2)
        frame += memory.read(address, length & _LENGTH_MASK)
        at += 8
        if length & _LAST:
            break
    return frame if len(frame) <= FRAME_BYTES_MAX else frame[:FRAME_BYTES_MAX]


def scatter(memory: GuestMemory, at: int, frame: bytes) -> bool:
    """Into the fragments listed ``at``; False if they are too short for it. Raises DmaRefused."""
    left = memoryview(frame)
    for _ in range(FRAGMENTS_MAX):
        address, length = memory.read_words(at, 2)
        piece = left[: length & _LENGTH_MASK]
        memory.write(address, piece)
        left = left[len(piece) :]
        if length & _LAST or not left:
            break
        at += 8
    return not left

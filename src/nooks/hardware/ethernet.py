"""What Ethernet cards have in common: the cable, and whom a frame is for.

The cable is a queue of a TAP, so frames come without preamble and frame check sequence, and none is ever damaged:
collisions, lost carrier and CRC errors don't happen.
"""

import os
import zlib
from collections.abc import Callable

from nooks.hardware.loop import Loop

FRAME_BYTES_MIN = 60
"""Without the frame check sequence (IEEE 802.3, 3.2.8)."""
FCS_BYTES = 4
ADDRESS_BYTES = 6
BROADCAST = b"\xff" * ADDRESS_BYTES

_READ_BYTES = 9216
_BURST_FRAMES = 32
"""Taken in one turn, before the driver is listened to again."""
_ZEROS = bytes(FRAME_BYTES_MIN)


class Cable:
    """The card's end. ``arrived`` takes a frame, and returns False if there is no room for it; ``settled`` is called
    when no more come for the moment. Frames wait in the cable then, until ``go_on``."""

    def __init__(
        self, loop: Loop, descriptor: int, arrived: Callable[[bytes], bool], settled: Callable[[], None]
    ) -> None:
        self.lost = 0
        """Frames that could not be sent: the far end is off, or its queue full."""
        self._loop = loop
        self._descriptor = descriptor
        self._arrived = arrived
        self._settled = settled
        self._waiting: bytes | None = None
        os.set_blocking(descriptor, False)
        loop.add(descriptor, self._readable)

    def send(self, frame: bytes | bytearray | memoryview) -> None:
        """Send a frame, filled up to the least length."""
        if len(frame) < FRAME_BYTES_MIN:
            frame = bytes(frame) + _ZEROS[len(frame) :]
        try:
            os.write(self._descriptor, frame)
        except OSError:
            self.lost += 1

    def go_on(self) -> None:
        """There may be room again."""
        frame = self._waiting
        if frame is None:
            return
        self._waiting = None
        if self._arrived(frame):
            self._loop.add(self._descriptor, self._readable)
        else:
            self._waiting = frame
        self._settled()

    def close(self) -> None:
        """Unplug it."""
        self._loop.remove(self._descriptor)
        os.close(self._descriptor)

    def _readable(self) -> None:
        for _ in range(_BURST_FRAMES):
            try:
                frame = os.read(self._descriptor, _READ_BYTES)
            except OSError:  # nothing more, or the far end is switched off
                break
            if not frame:
                self._loop.remove(self._descriptor)  # whoever made the cable is gone
                break
            if len(frame) < FRAME_BYTES_MIN:
                frame += _ZEROS[len(frame) :]
            if not self._arrived(frame):
                self._waiting = frame
                self._loop.remove(self._descriptor)
                break
        self._settled()


def frame_check_sequence(frame: bytes) -> bytes:
    """IEEE 802.3, 3.2.9."""
    return zlib.crc32(frame).to_bytes(FCS_BYTES, "little")


def hash_bit(address: bytes, bits: int) -> int:
    """The number that a multicast filter of 2**bits entries has for an address: the CRC's last bits."""
    return zlib.crc32(address) & ((1 << bits) - 1)


def is_multicast(frame: bytes) -> bool:
    """Whether the destination is a group address."""
    return bool(frame[0] & 1)


def card_address(vendor: bytes, serial: str) -> bytes:
    """A card's burnt-in address: the vendor's three bytes, and three that ``serial`` decides."""
    return vendor + zlib.crc32(serial.encode()).to_bytes(4, "big")[1:]

"""ALSA's kernel interface: the ioctls and structs of include/uapi/sound/asound.h, for 64 and for 32 bits.

Layouts are in native mode (sizes and alignment of this interpreter), which are those of the kernel that it runs on. An
ioctl's number carries the size of its struct, so a wrong layout is refused and not misread.
"""

import ctypes
import fcntl
from struct import Struct, calcsize

_WRITE, _READ = 1, 2  # include/uapi/asm-generic/ioctl.h


class Call:
    """One ioctl with a struct that the kernel reads and fills in."""

    __slots__ = ("number", "size")

    def __init__(self, direction: int, group: str, number: int, layout: Struct) -> None:
        self.size = layout.size
        self.number = direction << 30 | layout.size << 16 | ord(group) << 8 | number

    def __call__(self, descriptor: int, content: bytes = b"") -> bytearray:
        """The struct after the call, which began with ``content``; the rest was zero. Raises OSError."""
        buffer = bytearray(self.size)
        buffer[: len(content)] = content
        fcntl.ioctl(descriptor, self.number, buffer, True)
        return buffer


class Signal:
    """One ioctl without an argument."""

    __slots__ = ("_number",)

    def __init__(self, group: str, number: int) -> None:
        self._number = ord(group) << 8 | number

    def __call__(self, descriptor: int) -> None:
        """Raises OSError."""
        fcntl.ioctl(descriptor, self._number)


# Parameters of a stream: masks, then intervals of (min, max, flags).
ACCESS, FORMAT, SUBFORMAT = range(3)
CHANNELS, RATE, PERIOD_SIZE, PERIODS, BUFFER_SIZE = 10, 11, 13, 15, 17
FIRST_INTERVAL = 8
MASKS, INTERVALS, RESERVED_MASKS, RESERVED_INTERVALS = 3, 12, 5, 9
MASK_WORDS = 8
INTEGER = 1 << 2
ACCESS_INTERLEAVED = 3

HW_PARAMS = Struct(f"@I{(MASKS + RESERVED_MASKS) * MASK_WORDS}I{(INTERVALS + RESERVED_INTERVALS) * 3}I6IL64x")
"""flags, masks, intervals, rmask, cmask, info, msbits, rate_num, rate_den, fifo_size"""
SW_PARAMS = Struct("@i2I7L2I56x")
"""tstamp_mode, period_step, sleep_min, avail_min, xfer_align, the thresholds for start, stop and silence, silence_size,
boundary, proto, tstamp_type"""
_WORD_BYTES = calcsize("L")
_PART_BYTES = 64
_STATUS = Struct("@2iL")
SYNC_POINTERS = Struct(f"@I0L2iL{_PART_BYTES - _STATUS.size}s2L{_PART_BYTES - 2 * _WORD_BYTES}x")
"""flags; state, padding, hw_ptr, the rest of the status; appl_ptr, avail_min"""
LONG = Struct("@l")
LONG_MAX = 2 ** (8 * _WORD_BYTES - 1) - 1

hw_refine = Call(_WRITE | _READ, "A", 0x10, HW_PARAMS)
hw_params = Call(_WRITE | _READ, "A", 0x11, HW_PARAMS)
hw_free = Signal("A", 0x12)
sw_params = Call(_WRITE | _READ, "A", 0x13, SW_PARAMS)
delay = Call(_READ, "A", 0x21, LONG)
sync_pointers = Call(_WRITE | _READ, "A", 0x23, SYNC_POINTERS)
prepare = Signal("A", 0x40)
start = Signal("A", 0x42)
drop = Signal("A", 0x43)

SYNC_ASK_CARD, SYNC_KEEP_APPLICATION, SYNC_KEEP_AVAIL_MIN = 1, 2, 4
RUNNING, XRUN = 3, 4

# Control elements.
_NAME_BYTES = 44
ELEMENT_ID = Struct(f"@4I{_NAME_BYTES}sI")
"""numid, iface, device, subdevice, name, index"""
IFACE_CARD, IFACE_MIXER = 0, 2
BOOLEAN, INTEGER_VALUE, ENUMERATED = 1, 2, 3
ACCESS_READ, ACCESS_WRITE, ACCESS_TLV_READ, ACCESS_INACTIVE = 1 << 0, 1 << 1, 1 << 4, 1 << 8
VALUES_MAX = 128

CARD_INFO = Struct("@2i16s16s32s80s16x80s128s")
"""card, padding, id, driver, name, long name, mixer's name, components"""
ELEMENT_LIST = Struct("@4IP50x0P")
"""offset, space, used, count, address of the ids"""
ELEMENT_INFO = Struct(f"@{ELEMENT_ID.size}si2Ii0q128s64x")
"""the id; type, access, count of values, owner; what the type says of the values"""
INFO_RANGE = Struct("@3l")
"""least, greatest, step"""
INFO_ITEM = Struct("@2I64s")
"""how many items, which one, its name"""
ELEMENT_VALUE = Struct(f"@{ELEMENT_ID.size}sI0q{VALUES_MAX * _WORD_BYTES}s128x0q")
"""the id; 0; the values"""
TLV = Struct("@2I256s")
"""numid, length in bytes, the words"""

card_info = Call(_READ, "U", 0x01, CARD_INFO)
element_list = Call(_WRITE | _READ, "U", 0x10, ELEMENT_LIST)
element_info = Call(_WRITE | _READ, "U", 0x11, ELEMENT_INFO)
element_read = Call(_WRITE | _READ, "U", 0x12, ELEMENT_VALUE)
element_write = Call(_WRITE | _READ, "U", 0x13, ELEMENT_VALUE)
subscribe_events = Call(_WRITE | _READ, "U", 0x16, Struct("@i"))
TLV_READ_NUMBER = (_WRITE | _READ) << 30 | 8 << 16 | ord("U") << 8 | 0x1A
"""Its struct ends in an array that does not count for its size."""


def element_ids(descriptor: int) -> "list[bytes]":
    """The ids of a card's control elements, in its order. Raises OSError."""
    count = ELEMENT_LIST.unpack(element_list(descriptor))[3]
    ids = (ctypes.c_char * (ELEMENT_ID.size * max(count, 1)))()
    listed = element_list(descriptor, ELEMENT_LIST.pack(0, count, 0, 0, ctypes.addressof(ids)))
    used = ELEMENT_LIST.unpack(listed)[2]
    return [ids[number * ELEMENT_ID.size : (number + 1) * ELEMENT_ID.size] for number in range(used)]

"""Names for the bits of the EtherLink XL's registers, and its EEPROM (3C90xC and 3C90xB NICs Technical Reference)."""

import struct

from nooks.hardware.ethernet import BROADCAST, is_multicast

EEPROM_WORDS = 64


class Command:
    """The upper five bits of what is written to INT_STATUS."""

    GLOBAL_RESET = 0
    SELECT_WINDOW = 1
    RX_DISABLE = 3
    RX_ENABLE = 4
    RX_RESET = 5
    STALL = 6
    TX_ENABLE = 9
    TX_DISABLE = 10
    TX_RESET = 11
    REQUEST_INTERRUPT = 12
    ACKNOWLEDGE = 13
    SET_INTERRUPT_ENABLE = 14
    SET_INDICATION_ENABLE = 15
    SET_RX_FILTER = 16
    STATISTICS_ENABLE = 21
    STATISTICS_DISABLE = 22


class Event:
    """IntStatus."""

    LATCH = 0x001
    HOST_ERROR = 0x002
    TX_COMPLETE = 0x004
    RX_EARLY = 0x020
    INT_REQUESTED = 0x040
    UPDATE_STATS = 0x080
    LINK = 0x100
    DN_COMPLETE = 0x200
    UP_COMPLETE = 0x400


class Filter:
    """RxFilter."""

    INDIVIDUAL = 1
    ALL_MULTICAST = 2
    BROADCAST = 4
    PROMISCUOUS = 8


def wanted(frame: bytes, filters: int, station: bytearray) -> bool:
    """Whether RxFilter lets a frame pass. ``station`` is window 2: StationAddress and StationMask."""
    if filters & Filter.PROMISCUOUS:
        return True
    if not is_multicast(frame):
        return bool(filters & Filter.INDIVIDUAL) and _is_station(frame, station)
    if frame[:6] == BROADCAST:
        return bool(filters & Filter.BROADCAST)
    return bool(filters & Filter.ALL_MULTICAST)


def _is_station(frame: bytes, station: bytearray) -> bool:
    """The mask's bits say what does not matter."""
    if station.startswith(frame[:6]):
        return True
    return all((one ^ other) & ~mask == 0 for one, other, mask in zip(frame, station[:6], station[6:12], strict=False))


def eeprom(address: bytes) -> list[int]:
    """What 3Com's EEPROMs hold (Technical Reference, "EEPROM Data Format"), as far as drivers look at it."""
    words = [0] * EEPROM_WORDS
    words[0:3] = words[0xA:0xD] = struct.unpack(">3H", address)
    words[0x3] = 0x9055  # device
    words[0x4] = 0x5A2C  # manufacturing date
    words[0x7] = 0x6D50  # manufacturer: 3Com
    words[0xD] = 0x0010  # software information
    words[0x10] = 0x22A2  # capabilities: full bus mastering, power management ...
    checksum = 0
    for word in words[:0x20]:
        checksum ^= word
    words[0x20] = (checksum ^ checksum >> 8) & 0xFF
    return words

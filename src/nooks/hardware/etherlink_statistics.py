"""The EtherLink XL's counters of frames and bytes (3C90xC and 3C90xB NICs Technical Reference, windows 6 and 4)."""

from nooks.hardware.ethernet import FCS_BYTES

RX_OVERRUNS, FRAMES_XMITTED_OK, FRAMES_RCVD_OK, UPPER_FRAMES_OK, BYTES_RCVD_OK, BYTES_XMITTED_OK = 5, 6, 7, 9, 0xA, 0xC
"""In window 6."""
UPPER_BYTES_OK = 0x0D
"""In window 4."""

_OVERRUNS_LIMIT = 0xC0


class Statistics:
    """Frames in ten bits and bytes in twenty, of which the upper ones have registers of their own.

    ``six``, ``four``: the windows' registers; whoever reads one clears it.
    """

    def __init__(self, six: bytearray, four: bytearray) -> None:
        self._six = six
        self._four = four

    @property
    def full(self) -> bool:
        """Whether a counter is three quarters full."""
        frames, upper = self._six[UPPER_FRAMES_OK], self._four[UPPER_BYTES_OK]
        counted = frames & 0x30 == 0x30 or frames & 0x03 == 0x03 or upper & 0xC0 == 0xC0 or upper & 0x0C == 0x0C
        return counted or self._six[RX_OVERRUNS] >= _OVERRUNS_LIMIT

    def sent(self, size: int) -> None:
        """A frame of ``size`` bytes, without its check sequence, went down."""
        self._count(FRAMES_XMITTED_OK, BYTES_XMITTED_OK, size, upper=0x10)

    def received(self, size: int) -> None:
        """A frame of ``size`` bytes, without its check sequence, came up."""
        self._count(FRAMES_RCVD_OK, BYTES_RCVD_OK, size, upper=0x01)

    def overrun(self) -> None:
        """A frame found no room."""
        self._six[RX_OVERRUNS] = min(self._six[RX_OVERRUNS] + 1, 0xFF)

    def _count(self, frames: int, bytes_at: int, size: int, *, upper: int) -> None:
        """``upper``: one, in the register that holds the upper bits of both ways."""
        six, four = self._six, self._four
        six[frames] = count = six[frames] + 1 & 0xFF
        if not count:
            six[UPPER_FRAMES_OK] = six[UPPER_FRAMES_OK] + upper & 0x33
        total = int.from_bytes(six[bytes_at : bytes_at + 2], "little") + size + FCS_BYTES
        six[bytes_at : bytes_at + 2] = (total & 0xFFFF).to_bytes(2, "little")
        if total >> 16:
            four[UPPER_BYTES_OK] = four[UPPER_BYTES_OK] + upper & 0xFF

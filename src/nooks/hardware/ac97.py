"""An AC'97 codec (Intel's Audio Codec '97, revision 2.1): registers, and what its volumes do to samples.

Left out: sources beside PCM (CD, phone, PC beep ...), tone, 3D, modem, variable rates. What the file on the input holds
is at the microphone and the line input alike.
"""

RESET, MASTER, PCM_OUT, RECORD_SELECT, RECORD_GAIN, POWER = 0x00, 0x02, 0x18, 0x1A, 0x1C, 0x26
VENDOR_ID1, VENDOR_ID2 = 0x7C, 0x7E

_MUTE = 0x8000
_READY = 0x000F
_STEREO_VOLUME = 0x9F1F
_WRITABLE = {
    MASTER: _STEREO_VOLUME,
    0x04: _STEREO_VOLUME,  # headphones, or whatever the second output is
    0x06: 0x801F,  # mono
    0x0A: 0x801E,  # PC beep
    0x0C: 0x801F,  # phone
    0x0E: 0x805F,  # microphone
    0x10: _STEREO_VOLUME,  # line input
    0x12: _STEREO_VOLUME,  # CD
    0x14: _STEREO_VOLUME,  # video
    0x16: _STEREO_VOLUME,  # auxiliary
    PCM_OUT: _STEREO_VOLUME,
    RECORD_SELECT: 0x0707,
    RECORD_GAIN: 0x8F0F,
    0x20: 0x8380,  # general purpose
    POWER: 0xFF00,
}
_INITIAL = {
    MASTER: 0x8000,
    0x04: 0x8000,
    0x06: 0x8000,
    0x0C: 0x8008,
    0x0E: 0x8008,
    0x10: 0x8808,
    0x12: 0x8808,
    0x14: 0x8808,
    0x16: 0x8808,
    PCM_OUT: 0x8808,
    RECORD_GAIN: 0x8000,
}
_STEP_DB = 1.5
_GAIN_MAX_DB = 12.0
_HEARD = {0, 4}
"""What RECORD_SELECT may choose for the input to be recorded: the microphone, the line input."""


class Codec:
    """The registers. ``vendor`` is what both identification registers hold."""

    def __init__(self, vendor: int) -> None:
        self._vendor = vendor
        self.reset()

    def reset(self) -> None:
        """As after power-on, or a write to RESET."""
        self._registers = dict(_INITIAL)

    def read(self, register: int) -> int:
        """A register's value."""
        if register == POWER:
            return self._registers.get(POWER, 0) & 0xFF00 | _READY
        if register == VENDOR_ID1:
            return self._vendor >> 16
        if register == VENDOR_ID2:
            return self._vendor & 0xFFFF
        return self._registers.get(register, 0)

    def write(self, register: int, value: int) -> None:
        """Write a register: what is not there stays as it is."""
        if register == RESET:
            self.reset()
        elif register in _WRITABLE:
            self._registers[register] = value & _WRITABLE[register]

    @property
    def output_gains(self) -> tuple[float, float]:
        """What the codec makes of PCM samples on their way out, left and right."""
        master, pcm = self.read(MASTER), self.read(PCM_OUT)
        if (master | pcm) & _MUTE:
            return 0.0, 0.0
        return tuple(  # type: ignore[return-value]
            _factor(_GAIN_MAX_DB - _STEP_DB * ((pcm >> shift & 31) + (master >> shift & 31))) for shift in (8, 0)
        )

    @property
    def input_gains(self) -> tuple[float, float]:
        """... and of what comes in."""
        select, gain = self.read(RECORD_SELECT), self.read(RECORD_GAIN)
        if gain & _MUTE:
            return 0.0, 0.0
        left, right = (
            _factor(_STEP_DB * (gain >> shift & 15)) if select >> shift & 7 in _HEARD else 0.0 for shift in (8, 0)
        )
        return left, right


def _factor(decibels: float) -> float:
    return 1.0 if decibels == 0 else 10 ** (decibels / 20)

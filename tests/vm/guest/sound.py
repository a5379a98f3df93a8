"""Plays and records with a stock driver by raw ALSA ioctls, and says on the console what came of it.

The job is JSON, packed for the 2 KiB of the kernel's command line (``job=``): modules, and steps one after the
other. Source: include/uapi/sound/asound.h.
"""

import array
import binascii
import ctypes
import fcntl
import json
import os
import struct
import sys
import time
import zlib

_FINIT_MODULE = 313
_HW_PARAMS, _PREPARE, _DRAIN, _WRITEI, _READI = 0xC2604111, 0x4140, 0x4144, 0x40184150, 0x80184151
_ELEMENT_LIST, _ELEMENT_WRITE = 0xC0505510, 0xC4C85513
_HW_PARAMS_BYTES, _MASK_BYTES, _INTERVAL = 608, 32, struct.Struct("III")
_MASKS_AT, _INTERVALS_AT = 4, 4 + 8 * _MASK_BYTES
_RW_INTERLEAVED, _S16_LE = 3, 2
_CHANNELS, _RATE, _PERIOD, _PERIODS = 10, 11, 13, 15
_MIXER = 2
_INTEGER = 4
_EPIPE = 32

PATTERN_FRAMES = 60000

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Be init: do the job, switch the machine off."""
    try:
        for kind, place in ((b"proc", b"/proc"), (b"sysfs", b"/sys"), (b"devtmpfs", b"/dev")):
            os.makedirs(place, exist_ok=True)  # noqa: PTH103
            _libc.mount(kind, place, kind, 0, None)
        with open("/proc/cmdline") as file:
            words = file.read().split()
        packed = next(word[4:] for word in words if word.startswith("job="))
        job = json.loads(zlib.decompress(binascii.a2b_base64(packed)))
        for name in job["modules"]:
            insert(f"/modules/{name}")
        wait_for("/dev/snd/controlC0")
        for step in job["steps"]:
            tell(step["do"], STEPS[step.pop("do")](**step))
    except BaseException as error:  # noqa: BLE001 - the console is all there is
        tell("failed", f"{type(error).__name__}: {error}")
        sys.excepthook(type(error), error, error.__traceback__)
    os.sync()
    _libc.reboot(0x4321FEDC)


def tell(what: str, result: object) -> None:
    """A line for the host."""
    print("@" + json.dumps([what, result]), flush=True)


def insert(path: str) -> None:
    """Insert a module; one that is there already is no matter."""
    descriptor = os.open(path, os.O_RDONLY)
    if _libc.syscall(_FINIT_MODULE, descriptor, b"", 0) < 0 and ctypes.get_errno() != 17:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
    os.close(descriptor)


def wait_for(path: str) -> None:
    """Until a device node is there."""
    deadline = time.monotonic() + 20
    while not os.path.exists(path):  # noqa: PTH110
        if time.monotonic() > deadline:
            raise TimeoutError(path)
        time.sleep(0.01)


def whole_pattern() -> "array.array[int]":
    """Two rounds of frames that tell where they belong; the host has the same function."""
    samples = array.array("h", bytes(4 * PATTERN_FRAMES))
    samples[0::2] = array.array("h", [number * 37 % 60000 - 30000 for number in range(PATTERN_FRAMES)])
    samples[1::2] = array.array("h", [number * 91 % 50000 - 25000 for number in range(PATTERN_FRAMES)])
    return samples + samples


def opened(direction: str, device: int, rate: int, period: int, periods: int) -> "tuple[int, dict[str, int]]":
    """A PCM, configured and prepared."""
    descriptor = os.open(f"/dev/snd/pcmC0D{device}{direction}", os.O_RDWR)
    content = bytearray(_HW_PARAMS_BYTES)
    for mask in range(3):
        bit = {0: _RW_INTERLEAVED, 1: _S16_LE, 2: 0}[mask]
        struct.pack_into("I", content, _MASKS_AT + mask * _MASK_BYTES, 1 << bit)
    wanted = {_CHANNELS: (2, 2), _RATE: (rate, rate), _PERIOD: (period, period), _PERIODS: (periods, periods)}
    for number in range(8, 20):
        low, high = wanted.get(number, (0, 2**32 - 1))
        _INTERVAL.pack_into(content, _INTERVALS_AT + (number - 8) * 12, low, high, _INTEGER if number in wanted else 0)
    struct.pack_into("I", content, _INTERVALS_AT + 21 * 12, 2**32 - 1)
    fcntl.ioctl(descriptor, _HW_PARAMS, content)
    got = {
        name: _INTERVAL.unpack_from(content, _INTERVALS_AT + (number - 8) * 12)[0]
        for name, number in (("rate", _RATE), ("period", _PERIOD), ("periods", _PERIODS))
    }
    fcntl.ioctl(descriptor, _PREPARE)
    return descriptor, got


def transfer(descriptor: int, request: int, samples: "array.array[int]", frames: int) -> int:
    """WRITEI or READI; 1 if the stream had run over or dry, and was begun anew."""
    address, _ = samples.buffer_info()
    lost = 0
    done = 0
    while done < frames:
        call = ctypes.create_string_buffer(struct.pack("qQQ", 0, address + 4 * done, frames - done), 24)
        if _libc.ioctl(descriptor, ctypes.c_ulong(request), call) < 0:
            error = ctypes.get_errno()
            if error != _EPIPE:
                raise OSError(error, os.strerror(error))
            lost += 1
            fcntl.ioctl(descriptor, _PREPARE)
            continue
        done += struct.unpack_from("q", call.raw)[0]
    return lost


_FIRST_BYTES = 4 * 4096
_INVERSE = pow(37, -1, PATTERN_FRAMES)
"""Of a left sample's step: which frame of the pattern has it."""


def play(
    seconds: float, rate: int = 48000, device: int = 0, period: int = 1024, periods: int = 16
) -> "dict[str, object]":
    """Play the pattern; how often the stream ran dry, and how long it took."""
    pattern = whole_pattern()
    descriptor, got = opened("p", device, rate, period, periods)
    chunk, lost, first, total = got["period"], 0, 0, int(seconds * rate)
    began = time.monotonic()
    while first < total:
        frames = min(chunk if first else chunk * got["periods"], total - first)  # it starts with a full buffer
        at = 2 * (first % PATTERN_FRAMES)
        lost += transfer(descriptor, _WRITEI, pattern[at : at + 2 * frames], frames)
        first += frames
    fcntl.ioctl(descriptor, _DRAIN)
    took = time.monotonic() - began
    os.close(descriptor)
    return {"xruns": lost, "frames": total, "seconds": took, **got}


def record(
    seconds: float, rate: int = 48000, device: int = 0, period: int = 1024, periods: int = 16
) -> "dict[str, object]":
    """Record; what it begins with, as samples, and whether it goes on like the pattern."""
    descriptor, got = opened("c", device, rate, period, periods)
    total, lost = int(seconds * rate), 0
    pattern = whole_pattern()
    first, jumps, at = b"", 0, -1
    began = time.monotonic()
    done = 0
    while done < total:
        frames = min(got["period"], total - done)
        piece = array.array("h", bytes(4 * frames))
        lost += transfer(descriptor, _READI, piece, frames)
        first += piece.tobytes() if len(first) < _FIRST_BYTES else b""
        begins = (piece[0] + 30000) * _INVERSE % PATTERN_FRAMES
        jumps += at not in (-1, begins)
        if piece != pattern[2 * begins : 2 * (begins + frames)]:
            jumps += max(1, breaks(piece))
        at = (begins + frames) % PATTERN_FRAMES
        done += frames
    took = time.monotonic() - began
    os.close(descriptor)
    return {
        "xruns": lost,
        "frames": total,
        "seconds": took,
        "samples": first[:_FIRST_BYTES].hex(),
        "breaks": jumps,
        **got,
    }


def breaks(samples: "array.array[int]") -> int:
    """How often a recorded pattern jumps. (Its rounds join: they are as long as its values are many.)"""
    left = samples[0::2]
    steps = ((after - before) % 60000 for before, after in zip(left, left[1:], strict=False))  # noqa: RUF007
    return sum(step != 37 for step in steps)


def mixer(elements: "dict[str, list[int]]") -> int:
    """Set mixer elements by name; how many there were."""
    control = os.open("/dev/snd/controlC0", os.O_RDWR)
    found = 0
    for name, values in elements.items():
        value = bytearray(1224)
        struct.pack_into("IiII44sI", value, 0, 0, _MIXER, 0, 0, name.encode(), 0)
        struct.pack_into(f"{len(values)}q", value, 72, *values)
        try:
            fcntl.ioctl(control, _ELEMENT_WRITE, value)
            found += 1
        except OSError as error:
            tell("mixer refuses", f"{name}: {error}")
    os.close(control)
    return found


def names() -> "list[str]":
    """The names of cards and PCMs."""
    with open("/proc/asound/pcm") as file:
        return file.read().splitlines()


def elements() -> "list[str]":
    """The names of all mixer elements."""
    control = os.open("/dev/snd/controlC0", os.O_RDWR)
    ids = ctypes.create_string_buffer(64 * 512)
    head = bytearray(struct.pack("IIIIQ50x", 0, 512, 0, 0, ctypes.addressof(ids)).ljust(80, b"\0"))
    fcntl.ioctl(control, _ELEMENT_LIST, head)
    os.close(control)
    count = struct.unpack_from("I", head, 8)[0]
    return [ids.raw[64 * each + 16 : 64 * each + 60].split(b"\0")[0].decode() for each in range(count)]


STEPS = {"play": play, "record": record, "mixer": mixer, "names": names, "elements": elements}

"""Devices of the kernel's userspace block device (ublk), made and changed by commands to /dev/ublk-control.

Numbers and rules: include/uapi/linux/ublk_cmd.h and Documentation/block/ublk.rst. What is asked of the server of a
device is in ublk.py.
"""

import ctypes
import hashlib
import os
import select
import struct
from errno import EBUSY, EINVAL, ENODEV
from pathlib import Path
from time import monotonic, sleep
from typing import NamedTuple

from nooks.endpoint.ublk import NODES, SECTOR_BYTES, TAGS, character_device
from nooks.endpoint.uring import Ring
from nooks.host.errors import MachineError
from nooks.host.kernel import has_module, version
from nooks.xpc.block import REQUEST_BYTES_MAX

CONTROL = NODES / "ublk-control"
MODULE = "ublk_drv"

USER_COPY_SINCE = (6, 5)
"""The first Linux whose driver has all that we need."""

_INFO, _ADD, _DELETE, _START, _STOP = 0x80207502, 0xC0207504, 0xC0207505, 0xC0207506, 0xC0207507
_PARAMETERS, _BEGIN_RECOVERY, _END_RECOVERY = 0xC0207508, 0xC0207510, 0xC0207511
_FEATURES, _DELETE_LATER = 0x80207513, 0x80207514
"""UBLK_U_CMD_*: _IOR and _IOWR('u', N, struct ublksrv_ctrl_cmd)."""

_COMMAND = struct.Struct("=IHHQQHHI")
"""struct ublksrv_ctrl_cmd: device, queue, length and address of a buffer, a value, 0, 0, 0."""
_NO_QUEUE, _NEW = 0xFFFF, 0xFFFFFFFF

_USER_RECOVERY, _REISSUE, _USER_COPY = 1 << 3, 1 << 4, 1 << 7
_NEEDED = _USER_RECOVERY | _REISSUE | _USER_COPY

_DEVICE = struct.Struct("=HHHHIIiIQQIIQQ")
"""struct ublksrv_ctrl_dev_info: queues, depth, state, 0, largest request, device, server, 0, flags, the server's own
word, owner (two words), 0, 0."""
_STATE, _NUMBER, _OWN_WORD = 2, 5, 9
_QUIESCED = 2

_PARAMETERS_HEAD = struct.Struct("=II")
_BASIC = struct.Struct("=IBBBBIIQQ")
_DISCARD = struct.Struct("=IIIIHH")
_BASIC_KIND, _DISCARD_KIND = 1, 2
_READ_ONLY, _VOLATILE_CACHE, _FUA = 1, 4, 8
_BLOCK = 4096
_LONG_SECTORS = 0xFFFFFFFF // SECTOR_BYTES // 8 * 8

_SECONDS = 60.0
_NOTICE_SECONDS = 10.0


class Shape(NamedTuple):
    """Of a device: its size and its sectors' in bytes, and what it can do."""

    size_bytes: int
    sector_bytes: int
    read_only: bool
    zeroes: bool
    discards: bool


def is_there(*, load: bool) -> bool:
    """Whether this kernel has what we need of ublk; ``load`` its module if it is none yet, or only look for it."""
    if not CONTROL.exists():
        if not has_module(MODULE, load=load):
            return False
        if not load:
            return version() >= USER_COPY_SINCE
    buffer = ctypes.create_string_buffer(8)
    try:
        _ask(_FEATURES, 0, buffer)
    except PermissionError:  # only root may ask
        return version() >= USER_COPY_SINCE
    except (OSError, MachineError):
        return False
    return int.from_bytes(buffer.raw, "little") & _NEEDED == _NEEDED


def add(name: str) -> int:
    """Make a device that does nothing yet, and is known by ``name``; returns its number. Raises MachineError."""
    buffer = ctypes.create_string_buffer(_DEVICE.size)
    _DEVICE.pack_into(buffer, 0, 1, TAGS, 0, 0, REQUEST_BYTES_MAX, _NEW, 0, 0, _NEEDED, _mark(name), 0, 0, 0, 0)
    try:
        _ask(_ADD, _NEW, buffer)
    except OSError as error:
        fix = "see the kernel's log" if CONTROL.exists() else f"modprobe {MODULE}"
        raise MachineError(f"no userspace block device can be made: {error.strerror}", fix) from None
    return int(_DEVICE.unpack_from(buffer)[_NUMBER])


def start(number: int, shape: Shape) -> None:
    """Let a block device appear, of that shape; its partitions are read, so it must be served. Raises OSError.

    While they are read the driver holds its lock, and nothing that is not answered ends: not even whoever is killed.
    """
    _ask(_PARAMETERS, number, ctypes.create_string_buffer(_parameters(shape)))
    _ask(_START, number, value=os.getpid())


def take_over(number: int) -> None:
    """Begin to serve the device of a dead server, whose end the kernel may be about to notice. Raises OSError.

    One that died between this and ``taken_over`` has left nothing to begin with.
    """
    deadline = monotonic() + _NOTICE_SECONDS
    while True:
        try:
            _begin_recovery(number)
            return
        except OSError as error:
            if error.errno != EBUSY or monotonic() > deadline:
                raise
        sleep(0.01)


def _begin_recovery(number: int) -> None:
    """Raises OSError: EBUSY as long as the dead server still has the device."""
    try:
        _ask(_BEGIN_RECOVERY, number)
    except OSError as error:
        if error.errno != EINVAL:
            raise
        os.close(os.open(character_device(number), os.O_RDWR | os.O_CLOEXEC))


def taken_over(number: int) -> None:
    """Have the requests come, again or for the first time; whoever serves offers its tags meanwhile. Raises OSError."""
    _ask(_END_RECOVERY, number, value=os.getpid())


def stop(number: int) -> None:
    """Take the block device away; whoever uses it gets errors. Its server serves it, or is dead. Raises OSError."""
    _ask(_STOP, number)


def delete(number: int) -> None:
    """Forget the device, stopped or not; nobody may serve it any more. Raises OSError."""
    try:
        _ask(_DELETE_LATER, number)
    except OSError as error:
        if error.errno == ENODEV:
            raise
        _ask(_DELETE, number)  # before Linux 6.9


def is_named(number: int, name: str) -> bool:
    """Whether there is that device, made with this name."""
    return _state(number, name) is not None


def unserved(name: str) -> list[int]:
    """The devices with this name whose server has died."""
    numbers = (int(path.name.removeprefix("ublkc")) for path in NODES.glob("ublkc*"))
    return [number for number in numbers if _state(number, name) == _QUIESCED]


def _state(number: int, name: str) -> int | None:
    """Of the device with that number if it has this name."""
    buffer = ctypes.create_string_buffer(_DEVICE.size)
    try:
        _ask(_INFO, number, buffer)
    except (OSError, MachineError):
        return None
    fields = _DEVICE.unpack_from(buffer)
    return int(fields[_STATE]) if fields[_OWN_WORD] == _mark(name) else None


def number_of(path: Path) -> int:
    """The number of the device at /dev/ublkbN."""
    return int(path.name.removeprefix("ublkb"))


def _mark(name: str) -> int:
    """What the driver keeps for us is a word: enough to know a name again."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")


def _parameters(shape: Shape) -> bytes:
    """struct ublk_params."""
    shift = shape.sector_bytes.bit_length() - 1
    attributes = _VOLATILE_CACHE | _FUA | (_READ_ONLY if shape.read_only else 0)
    sectors = (REQUEST_BYTES_MAX // SECTOR_BYTES, 0, shape.size_bytes // SECTOR_BYTES)
    body = _BASIC.pack(attributes, shift, shift, shift, shift, *sectors, 0)
    body += _DISCARD.pack(
        *(0, _BLOCK, _LONG_SECTORS if shape.discards else 0, _LONG_SECTORS if shape.zeroes else 0),
        *(1 if shape.discards else 0, 0),
    )
    return _PARAMETERS_HEAD.pack(_PARAMETERS_HEAD.size + len(body), _BASIC_KIND | _DISCARD_KIND) + body


def _ask(command: int, number: int, buffer: "ctypes.Array[ctypes.c_char] | None" = None, *, value: int = 0) -> None:
    """Give a command, and wait for its end. Raises OSError; MachineError if there is no io_uring."""
    control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        ring = Ring(1, large=True)
        try:
            length, address = (len(buffer), ctypes.addressof(buffer)) if buffer is not None else (0, 0)
            ring.place(0, control, command, _COMMAND.pack(number, _NO_QUEUE, length, address, value, 0, 0, 0))
            ring.queue(0)
            ring.submit()
            if not select.select([ring], [], [], _SECONDS)[0]:
                raise TimeoutError(f"the kernel does not end a command to {CONTROL}")
            completed = ring.reap()
        finally:
            ring.close()
    finally:
        os.close(control)
    if completed is not None and completed[1] < 0:
        raise OSError(-completed[1], os.strerror(-completed[1]))

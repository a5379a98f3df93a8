"""Which queue of a TAP gets the host's frames: always the one that was attached last.

The kernel spreads frames over all attached queues. While a failed domain's queue is drained and detached, none may
arrive in it any more: what a queue holds is thrown away when it is detached (drivers/net/tun.c, __tun_detach).
A steering program of two instructions (TUNSETSTEERINGEBPF; its result counts modulo the number of attached queues)
returns 1: the second queue where two are attached, the only one where one is.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import struct

from nooks.host.syscalls import call

_TUNSETSTEERINGEBPF = 0x800454E0
_BPF_PROG_LOAD = 5
_BPF_PROG_TYPE_SOCKET_FILTER = 1
_SYSCALL_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "i686": 357}
_MOVE_IMMEDIATE_64 = 0xB7
_EXIT = 0x95
_RETURN = struct.pack("=BBhi", _EXIT, 0, 0, 0)
_OLDEST = struct.pack("=BBhi", _MOVE_IMMEDIATE_64, 0, 0, 0) + _RETURN
_NEWEST = struct.pack("=BBhi", _MOVE_IMMEDIATE_64, 0, 0, 1) + _RETURN
_ATTRIBUTE_BYTES = 72


def steer_to_newest(queue: int) -> bool:
    """Install the program on the TAP behind ``queue``.

    Returns False where the kernel has no such thing (no BPF, or forbidden): then a switch of queues may lose the
    few frames that arrive in the old queue between its draining and its detachment.
    """
    return _install(queue, _NEWEST)


def steer_to_oldest(queue: int) -> bool:
    """As ``steer_to_newest``, but frames keep to the queue that was attached first: nothing goes to one that joins."""
    return _install(queue, _OLDEST)


def _install(queue: int, instructions: bytes) -> bool:
    try:
        program = _load(instructions)
    except OSError:
        return False
    try:
        fcntl.ioctl(queue, _TUNSETSTEERINGEBPF, struct.pack("i", program))
    except OSError:
        return False
    finally:
        os.close(program)
    return True


def stop_steering(queue: int) -> None:
    """Take the program away from a TAP that stays when we go."""
    with contextlib.suppress(OSError):  # none was installed
        fcntl.ioctl(queue, _TUNSETSTEERINGEBPF, struct.pack("i", -1))


def _load(program_code: bytes) -> int:
    number = _SYSCALL_BPF.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, "no number of the bpf system call is known for this machine")
    instructions = ctypes.create_string_buffer(program_code, len(program_code))
    licence = ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack(
        "=IIQQ",
        _BPF_PROG_TYPE_SOCKET_FILTER,
        len(program_code) // 8,
        ctypes.addressof(instructions),
        ctypes.addressof(licence),
    )
    argument = ctypes.create_string_buffer(attributes, _ATTRIBUTE_BYTES)
    return call(number, _BPF_PROG_LOAD, argument, _ATTRIBUTE_BYTES)

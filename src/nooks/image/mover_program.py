"""The one program of a domain that is not Python: the mover of a disk's data.

It does what ``agent/mover.py`` does, sooner. Where no C compiler makes programs for the domain (``host.native``),
images go without it.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import nooks
from nooks.host.native import COMPILE_SECONDS, find_compiler
from nooks.host.process import run
from nooks.xpc import block

SOURCE = Path(nooks.__path__[0], "agent/mover.c")

_SHARED = (
    *("READ", "WRITE", "FLUSH", "ZERO", "DISCARD", "BARRIER", "KICK", "FUA"),
    *("REQUEST_MAGIC", "REQUEST_MARK", "REPLY_MAGIC", "REPLY_MARK"),
    *("RING", "REQUESTED", "BEGUN", "AWAKE", "REPLIED", "TAKEN", "REQUESTS_AT", "REPLIES_AT", "BELL_IO_PORT"),
)
"""The constants of ``xpc/block.py`` that the program is compiled with."""


def digest(architecture: str) -> str:
    """Changes with the program that an image for this architecture would have; "" if it would have none."""
    compiler = find_compiler(architecture)
    if compiler is None:
        return ""
    parts = (compiler, *definitions(), SOURCE.read_text())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def definitions() -> list[str]:
    """What the compiler is told of the protocol."""
    numbers = {name: int(getattr(block, name)) for name in _SHARED}
    numbers |= {"REQUEST_SIZE": block.REQUEST.size, "REPLY_SIZE": block.REPLY.size}
    return [f"-DXPC_{name}={number:#x}" for name, number in numbers.items()]


def compile_mover(compiler: str, target: Path, options: Sequence[str] = ()) -> None:
    """Make the program for this machine. Raises ProcessError, with what was said, if libc's headers lack, say."""
    argv = [compiler, "-std=gnu11", "-O2", *options, *definitions(), "-o", str(target), str(SOURCE), "-pthread"]
    run(argv, timeout_seconds=COMPILE_SECONDS)

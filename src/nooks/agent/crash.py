"""Failing on purpose. Each way is announced first, so that the host knows that what follows was asked for."""

import os

from nooks.agent.system import insert_module, write

_INSERTED = ("oops", "hang", "halt")
_LEAK_STEP_BYTES = 4 << 20


def describe(how: str) -> str:
    """What ``crash(how)`` will do. Raises ValueError for an unknown way, OSError if the image lacks what it needs."""
    if how in _INSERTED:
        os.stat(_module(how))
        return f"insert {_module(how)}"
    if how == "panic":
        return "sysrq c"
    if how == "agent":
        return "init exits"
    if how == "leak":
        return "allocate until there is no memory left"
    raise ValueError(f"unknown way to crash: {how}")


def crash(how: str) -> None:
    """Do it. Returns only if it failed to fail."""
    if how in _INSERTED:
        insert_module(_module(how))
    elif how == "panic":
        write("/proc/sysrq-trigger", "c")
    elif how == "agent":
        os._exit(1)
    elif how == "leak":
        _leak()


def _module(how: str) -> str:
    return f"/crash/{how}.ko"


def _leak() -> None:
    """Allocate and touch; the kernel panics when it finds no more (vm.panic_on_oom)."""
    hoard: list[bytes] = []
    step = _LEAK_STEP_BYTES
    while True:
        try:
            hoard.append(b"\xff" * step)
        except MemoryError:
            step = max(step // 2, 1)

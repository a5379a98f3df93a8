"""The kernel that this machine runs."""

import os

from nooks.host.errors import NooksError
from nooks.host.process import run

_MODPROBE_SECONDS = 60.0


def version() -> tuple[int, int]:
    """Its major and minor number."""
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int(minor)


def has_module(name: str, *, load: bool) -> bool:
    """Whether there is a module of that name, which is loaded by this, or with ``load`` False only looked for."""
    try:
        run(["modprobe", *(() if load else ("--dry-run",)), name], timeout_seconds=_MODPROBE_SECONDS)
    except NooksError:
        return False
    return True

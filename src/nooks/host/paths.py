"""Where things are on the host: run directories, logs, caches, and what may name a nook. The only place that knows."""

import os
import re
from pathlib import Path

from nooks.host.errors import InputError

NAME_ALLOWED = "a letter a-z, then at most 14 of a-z 0-9 -"
_NAME = re.compile(r"[a-z][a-z0-9-]{0,14}")


def is_name(text: str) -> bool:
    """Whether ``text`` can name a nook."""
    return _NAME.fullmatch(text) is not None


def check_name(name: str) -> str:
    """``name`` if it can name a nook. Raises InputError."""
    if not is_name(name):
        raise InputError(f"{name!r} can't name a nook", f"a name is {NAME_ALLOWED}")
    return name


def run_dir() -> Path:
    """The directory with one folder per live nook: ``$NOOKS_RUN_DIR``, else ``/run/nooks``.

    An ordinary user's is ``$XDG_RUNTIME_DIR/nooks``, if that is set.
    """
    override = os.environ.get("NOOKS_RUN_DIR")
    if override:
        return Path(override)
    runtime = os.environ.get("XDG_RUNTIME_DIR") if os.geteuid() != 0 else None
    return Path(runtime, "nooks") if runtime else Path("/run/nooks")


def nook_dir(name: str) -> Path:
    """The run directory of one nook. Raises InputError for what can't name one: no path leads out of ``run_dir``."""
    return run_dir() / check_name(name)


def log_dir() -> Path:
    """Where journals and post-mortems outlive their nook."""
    override = os.environ.get("NOOKS_LOG_DIR")
    if override:
        return Path(override)
    if os.geteuid() == 0:
        return Path("/var/log/nooks")
    return _xdg("XDG_STATE_HOME", ".local/state") / "nooks"


def cache_dir() -> Path:
    """Kernels, images and snapshots: ``$XDG_CACHE_HOME/nooks``."""
    return _xdg("XDG_CACHE_HOME", ".cache") / "nooks"


def etc_dir() -> Path:
    """Specifications of nooks that start with the machine: ``$NOOKS_ETC_DIR`` or ``/etc/nooks``."""
    override = os.environ.get("NOOKS_ETC_DIR")
    return Path(override) if override else Path("/etc/nooks")


def _xdg(variable: str, default: str) -> Path:
    value = os.environ.get(variable)
    return Path(value) if value else Path.home() / default

"""Where things are on the host: run directories, logs, caches. The only place that knows."""

import os
from pathlib import Path


def run_dir() -> Path:
    """The directory with one folder per live nook: ``$NOOKS_RUN_DIR`` or ``/run/nooks``."""
    override = os.environ.get("NOOKS_RUN_DIR")
    return Path(override) if override else Path("/run/nooks")


def nook_dir(name: str) -> Path:
    """The run directory of one nook."""
    return run_dir() / name


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


def _xdg(variable: str, default: str) -> Path:
    value = os.environ.get(variable)
    return Path(value) if value else Path.home() / default

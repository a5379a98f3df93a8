"""Keeps a process from deadlocking with what it serves, and from being the first that a starved kernel kills.

Sources: mlockall(2), prctl(2) PR_SET_IO_FLUSHER, proc(5) oom_score_adj.
"""

import contextlib
import ctypes
import os
from pathlib import Path

MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4
PR_SET_IO_FLUSHER = 57
OOM_SCORE = -900


def harden() -> list[str]:
    """Lock memory as it is touched, mark the process as one that I/O depends on, and protect it from the OOM killer.

    Returns what this machine refused (an ordinary user may do none of it).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    refused: list[str] = []
    if libc.mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT):
        refused.append(f"mlockall: {os.strerror(ctypes.get_errno())}")
    if libc.prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0):
        refused.append(f"PR_SET_IO_FLUSHER: {os.strerror(ctypes.get_errno())}")
    try:
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))
    except OSError as error:
        refused.append(f"oom_score_adj: {error.strerror}")
    return refused


def expose_to_oom_killer(pid: int) -> None:
    """A domain is disposable: undo what it inherited of our own protection."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text("0")

"""A model keeps only what it needs: descriptors that it was given. To be called when everything is imported."""

import contextlib
import ctypes
import os
import resource

_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWNET = 0x40000000
_OOM_SCORE_ADJUSTMENT = "0"

NICENESS = -10
"""Hardware does not wait for a processor: a driver's virtual CPU stands still until its register access is answered."""


def confine(user_id: int, network: int, address_space_bytes: int) -> None:
    """Become an unprivileged user in an empty network namespace, with bounded memory. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write(_OOM_SCORE_ADJUSTMENT)
    if libc.setns(network, _CLONE_NEWNET) or libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    os.close(network)
    resource.setrlimit(resource.RLIMIT_AS, (address_space_bytes, address_space_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    os.setgroups([])
    os.setresgid(user_id, user_id, user_id)
    os.setresuid(user_id, user_id, user_id)

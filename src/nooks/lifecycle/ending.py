"""Ending nooks from outside: by asking their supervisors, by adopting orphans for it, by force."""

import os
import select
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from nooks.host.errors import NooksError, StateError
from nooks.keeper.client import KeeperClient, KeeperError, KeeperGone
from nooks.keeper.start import reap_daemons
from nooks.lifecycle.contact import connect, living
from nooks.lifecycle.launch import CLAIM_SECONDS, resume
from nooks.nook import leftovers
from nooks.nook.claims import NameTaken, claim
from nooks.nook.control import ControlGone
from nooks.nook.standby import SUPERVISOR_KEY

STOP_SECONDS = 60.0
KILL_SECONDS = 5.0


def stop(name: str, *, force: bool = False) -> dict[str, Any]:
    """Stop a nook and return when nothing of it is left; an orphan is adopted for it.

    ``force`` also ends a supervisor that hangs and an orphan that can't be adopted. Raises UnknownNook,
    ControlGone if its supervisor does not answer.
    """
    try:
        _ask_to_stop(name, force=force)
    except ControlGone:
        _stop_orphan(name, force=force)
    try:
        with claim(name, within_seconds=STOP_SECONDS) as claimed:
            leftovers.give_back_device(name)  # if its supervisor could not: the reason is for the user to see
            claimed.remove()
            reap_daemons()
    except NameTaken:
        raise StateError(f"the supervisor of {name} does not end", f"end it with 'nooks stop {name} --force'") from None
    return {"name": name, "state": "stopped"}


def _ask_to_stop(name: str, *, force: bool) -> None:
    with connect(name) as control:
        control.request("stop", {"force": force}, timeout_seconds=KILL_SECONDS if force else STOP_SECONDS)


def _stop_orphan(name: str, *, force: bool) -> None:
    """Stop a nook whose supervisor does not answer: end it if need be, adopt, and stop; by force if that fails."""
    keeper = living(name)
    if keeper is None:
        _bury(name)
        return
    with keeper:
        hung = _supervisor_runs(keeper)
        if hung and not force:
            raise ControlGone(f"the supervisor of {name} does not answer", f"end it with 'nooks stop {name} --force'")
        if hung:
            _kill_held(keeper, [SUPERVISOR_KEY])
        try:
            resume(name)
            _ask_to_stop(name, force=force)
        except NooksError:
            if not force:
                raise
            _kill_held(keeper, keeper.list())
            keeper.quit()
            _bury(name)


def _bury(name: str) -> None:
    """End what is left of a nook without keeper and supervisor. Raises StateError if a command is at work on it."""
    try:
        with claim(name, within_seconds=CLAIM_SECONDS):
            leftovers.clear(name)
    except NameTaken:
        raise StateError(f"another command is starting or stopping {name}", "wait for it to finish") from None


def _supervisor_runs(keeper: KeeperClient) -> bool:
    try:
        pidfd = keeper.get(SUPERVISOR_KEY)
    except KeeperError:
        return False
    try:
        return not _wait(pidfd, 0.0)
    finally:
        os.close(pidfd)


def _kill_held(keeper: KeeperClient, keys: Sequence[str]) -> None:
    """SIGKILL every process whose pidfd the keeper holds under ``keys``, and wait for its end."""
    for key in keys:
        try:
            fd = keeper.get(key)
        except KeeperGone:
            return
        except KeeperError:
            continue
        try:
            if "[pidfd]" in str(Path(f"/proc/self/fd/{fd}").readlink()):
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
                _wait(fd, KILL_SECONDS)
        finally:
            os.close(fd)


def _wait(pidfd: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))

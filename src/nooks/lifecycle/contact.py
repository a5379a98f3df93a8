"""Reaching a nook that may be there: its supervisor, its keeper, and what can be said of it when nobody answers."""

from contextlib import suppress
from typing import Any

from nooks.host.errors import InputError, NooksError
from nooks.host.paths import nook_dir
from nooks.keeper.client import KeeperClient, KeeperGone
from nooks.nook.claims import CONTROL, KEEPER, SPEC, is_claimed, names
from nooks.nook.control import ControlClient, ControlGone
from nooks.spec import Spec

STATUS_SECONDS = 3.0
COMMANDED = ("planned", "operator")
"""Reasons that are no failures but commands."""


class UnknownNook(InputError):  # noqa: N818 - the name says what happened
    """There is no nook of that name."""


def living(name: str) -> KeeperClient | None:
    """A connection to the keeper of ``name``, or None if it has none."""
    try:
        return KeeperClient.connect(nook_dir(name) / KEEPER)
    except KeeperGone:
        return None


def connect(name: str) -> ControlClient:
    """A connection to the supervisor of ``name``. Raises UnknownNook, ControlGone."""
    if not nook_dir(name).exists():
        known = ", ".join(names())
        fix = f"there are: {known}" if known else "start one with 'nooks start'"
        raise UnknownNook(f"there is no nook {name}", fix)
    return ControlClient.connect(nook_dir(name) / CONTROL, name)


def status(name: str) -> dict[str, Any]:
    """CONTRACT's status of one nook, also if its supervisor is dead. Raises UnknownNook."""
    try:
        with connect(name) as control:
            return control.request("status", timeout_seconds=STATUS_SECONDS)
    except ControlGone:
        return _unanswered(name)


def all_status() -> list[dict[str, Any]]:
    """The status of every nook, by name."""
    rows: list[dict[str, Any]] = []
    for name in list(names()):
        with suppress(UnknownNook):  # stopped since we looked
            rows.append(status(name))
    return rows


def _unanswered(name: str) -> dict[str, Any]:
    """What can be said of a nook whose supervisor does not answer: from its specification and its journal."""
    try:
        spec = Spec.from_json((nook_dir(name) / SPEC).read_bytes())
    except (OSError, NooksError):
        spec = None
    keeper = living(name)
    if keeper is not None:
        keeper.close()
    abandoned = "stopped" if keeper is None else "orphaned"
    return {
        "name": name,
        "class": spec.driver_class if spec else None,
        "driver": spec.driver if spec else None,
        "state": "starting" if is_claimed(name) else abandoned,
        **_recorded(name),
        "pid": None,
        "domain_pid": None,
    }


def _recorded(name: str) -> dict[str, Any]:
    """The counts that the journal tells since the nook was started."""
    from nooks.host import journal

    events = journal.read(name)
    begin = max((number for number, event in enumerate(events) if event.event == "started"), default=0)
    failures = recoveries = 0
    last_seconds: float | None = None
    commanded = False
    for event in events[begin:]:
        if event.event == "failed":
            commanded = event.reason in COMMANDED
            failures += not commanded
        if event.event == "resumed":
            recoveries += not commanded
            last_seconds = event.detail.get("recovery_seconds", last_seconds)
    return {
        "incarnation": max((event.incarnation for event in events[begin:]), default=None),
        "failures": failures,
        "recoveries": recoveries,
        "last_recovery_seconds": last_seconds,
    }

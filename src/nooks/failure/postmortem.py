"""The record of one failure: why, where in which module, the domain's last words. The last 50 of a nook are kept."""

import datetime
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import structlog

from nooks.failure.oops import parse, printable
from nooks.failure.report import FailureReport
from nooks.host import paths
from nooks.host.errors import StateError
from nooks.host.journal import utc_now

KEPT = 50
_log = structlog.get_logger(__name__)


class Postmortem(msgspec.Struct, frozen=True):
    """What is known of a failure; the first six names are the contract's."""

    nook: str
    incarnation: int
    reason: str
    function: str
    """Empty if the kernel named none."""
    module: str
    console: str
    """The domain's last words, printable."""
    time: str
    """UTC, ISO 8601: when this was written."""
    detector: str = ""
    headline: str = ""
    """The line that says best what happened."""
    panic: str = ""
    oops: str = ""
    """The kernel's report, line by line."""
    trace: list[str] = []
    detail: dict[str, Any] = {}
    """What the detector knew."""


def build(
    nook: str, report: FailureReport, console: str | bytes, *, now: Callable[[], datetime.datetime] = utc_now
) -> Postmortem:
    """The record of the failure that ``report`` says, from what the domain said on its console."""
    oops = parse(console)
    return Postmortem(
        nook=nook,
        incarnation=report.incarnation,
        reason=str(report.reason),
        function=oops.function,
        module=oops.module,
        console=printable(console),
        time=now().isoformat(timespec="microseconds"),
        detector=report.detector,
        headline=oops.headline,
        panic=oops.panic,
        oops="\n".join(oops.lines),
        trace=list(oops.trace),
        detail=report.detail,
    )


def store(record: Postmortem, directory: Path | None = None) -> Path | None:
    """Keep a record, and forget the oldest beyond 50; None (and a log line) if it can't be written. Never raises."""
    folder = _folder(record.nook, directory)
    path = folder / f"{record.incarnation}.json"
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(msgspec.json.encode(record))
        draft.replace(path)
        for number in _numbers(folder)[:-KEPT]:
            (folder / f"{number}.json").unlink(missing_ok=True)
    except (OSError, ValueError, TypeError) as error:
        _log.error("post-mortem lost", nook=record.nook, incarnation=record.incarnation, error=str(error))
        return None
    return path


def load(nook: str, incarnation: int | None = None, directory: Path | None = None) -> Postmortem:
    """The record of an incarnation's failure, the last one's without a number.

    Raises StateError, naming what there is, if there is none.
    """
    folder = _folder(nook, directory)
    numbers = _numbers(folder)
    wanted = incarnation if incarnation is not None else (numbers[-1] if numbers else None)
    if wanted is None or wanted not in numbers:
        of = f"nook {nook}" if wanted is None else f"incarnation {wanted} of nook {nook}"
        known = f"there are {', '.join(map(str, numbers[-10:]))}" if numbers else "it has not failed yet"
        raise StateError(f"no post-mortem of {of}", known)
    path = folder / f"{wanted}.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Postmortem)
    except (OSError, msgspec.DecodeError) as error:
        raise StateError(f"the post-mortem {path} can't be read: {error}", "remove that file") from error


def read(nook: str, incarnation: int | None = None, directory: Path | None = None) -> dict[str, Any]:
    """As ``load``, as a JSON document."""
    document: dict[str, Any] = msgspec.to_builtins(load(nook, incarnation, directory))
    return document


def _folder(nook: str, directory: Path | None) -> Path:
    return (directory or paths.log_dir()) / nook / "postmortem"


def _numbers(folder: Path) -> list[int]:
    """Incarnations on record in order of time: numbers begin anew when a nook is started anew."""
    found = [path for path in folder.glob("*.json") if path.stem.isdecimal()]
    return [int(path.stem) for path in sorted(found, key=lambda path: (path.stat().st_mtime_ns, int(path.stem)))]

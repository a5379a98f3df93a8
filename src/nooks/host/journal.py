"""The journal of every nook: one JSON line per event, bounded by rotation, read back by ``events`` and reports.

Appending never raises: a full disk must not stop a recovery. Knows the contract's words, and nothing of what they mean.
"""

import contextlib
import datetime
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import structlog

from nooks.host import paths
from nooks.host.clock import Clock

EVENTS = frozenset(
    "started failed fenced restarted replayed resumed gave-up stopped adopted setting media request".split()  # noqa: SIM905
)
REASONS = frozenset(
    (  # noqa: SIM905
        "panic oops exit heartbeat halted frozen memory no-progress no-answer protocol io-errors corruption "
        "deterministic dma unplugged planned operator"
    ).split()
)
ROTATE_BYTES = 4 << 20
LONGEST_LINE_BYTES = 64 << 10

_log = structlog.get_logger(__name__)


class Event(msgspec.Struct, frozen=True, forbid_unknown_fields=False):
    """One line of the journal; the names are the contract's. Raises ValueError on a word that is not in it."""

    time: str
    """UTC, ISO 8601 with microseconds."""
    nook: str
    incarnation: int
    event: str
    reason: str = ""
    detail: dict[str, Any] = {}

    def __post_init__(self) -> None:
        if self.event not in EVENTS:
            raise ValueError(f"no such event: {self.event!r}")
        if self.reason and self.reason not in REASONS:
            raise ValueError(f"no such reason: {self.reason!r}")
        if self.event == "failed" and not self.reason:
            raise ValueError("a failed event needs a reason")


_decoder = msgspec.json.Decoder(Event)


def utc_now() -> datetime.datetime:
    """The wall clock; only ever used to label events."""
    return datetime.datetime.now(datetime.UTC)


def journal_path(nook: str, directory: Path | None = None) -> Path:
    """Where a nook's journal is; the older half is beside it with ``.1`` appended."""
    return (directory or paths.log_dir()) / f"{nook}.jsonl"


class Journal:
    """Writes one nook's journal. It is an EventSink: ``journal("failed", incarnation=3, reason="panic")``.

    ``lost`` counts events that could not be written.
    """

    def __init__(
        self,
        nook: str,
        directory: Path | None = None,
        *,
        now: Callable[[], datetime.datetime] = utc_now,
        rotate_bytes: int = ROTATE_BYTES,
    ) -> None:
        self.lost = 0
        self._nook = nook
        self._path = journal_path(nook, directory)
        self._now = now
        self._rotate_bytes = rotate_bytes
        self._torn = False

    def __call__(self, event: str, *, incarnation: int, reason: str = "", detail: dict[str, Any] | None = None) -> None:
        """Record one event now. Never raises."""
        time = self._now().isoformat(timespec="microseconds")
        try:
            record = Event(time, self._nook, incarnation, event, str(reason), detail or {})
            self._append(_encode(record))
        except (OSError, ValueError) as error:
            self.lost += 1
            _log.error("event lost", nook=self._nook, journal_event=event, reason=str(reason), error=str(error))

    def _append(self, line: bytes) -> None:
        """One write on a descriptor opened for appending, so that lines of several writers don't mix."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            before = os.fstat(descriptor)
            data = b"\n" + line if self._torn else line
            written = os.write(descriptor, data)
        finally:
            os.close(descriptor)
        self._torn = written < len(data)
        if self._torn:
            raise OSError(f"only {written} of {len(data)} bytes fitted into {self._path}")
        if before.st_size + written >= self._rotate_bytes:
            self._rotate(before.st_ino)

    def _rotate(self, inode: int) -> None:
        """Unless another writer did just now."""
        with contextlib.suppress(FileNotFoundError):
            if self._path.stat().st_ino == inode:
                self._path.replace(_older(self._path))


def read(nook: str | None = None, last: int | None = None, directory: Path | None = None) -> list[Event]:
    """A nook's events, oldest first; of all nooks in order of time if ``nook`` is None; the ``last`` ones if given.

    Lines that are damaged are left out.
    """
    events: list[Event] = []
    for path in _journals(nook, directory):
        for half in (_older(path), path):
            with contextlib.suppress(FileNotFoundError):
                events.extend(_decode(half.read_bytes()))
    if nook is None:
        events.sort(key=lambda event: event.time)
    return events if last is None else events[len(events) - min(last, len(events)) :]


async def follow(
    nook: str | None,
    clock: Clock,
    *,
    last: int | None = None,
    directory: Path | None = None,
    poll_seconds: float = 0.2,
) -> AsyncIterator[Event]:
    """What ``read`` returns, then every event as it is written, for ever; rotation and new nooks included."""
    with contextlib.ExitStack() as stack:
        tails: dict[Path, _Tail] = {}

        def look() -> list[Event]:
            for path in _journals(nook, directory):
                if path not in tails:
                    tails[path] = tail = _Tail(path)
                    stack.callback(tail.close)
            found = [event for tail in tails.values() for event in tail.read()]
            found.sort(key=lambda event: event.time)
            return found

        history = look()
        for event in history if last is None else history[len(history) - min(last, len(history)) :]:
            yield event
        while True:
            for event in look():
                yield event
            await clock.sleep(poll_seconds)


class _Tail:
    """Reads one journal as it grows, through rotations, whole lines only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._rest = b""
        self._begin = _decode(_older(path).read_bytes()) if _older(path).exists() else iter(())

    def read(self) -> Iterator[Event]:
        """All events that were written since the last call."""
        yield from self._begin
        self._begin = iter(())
        while True:
            if self._descriptor is None:
                try:
                    self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
                except FileNotFoundError:
                    return
            rotated = self._rotated()  # asked first: what was written before the rotation is then still read
            yield from self._drain(self._descriptor)
            if not rotated:
                return
            self.close()

    def close(self) -> None:
        """Release the descriptor."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            self._rest = b""

    def _rotated(self) -> bool:
        assert self._descriptor is not None
        mine = os.fstat(self._descriptor)
        try:
            present = self._path.stat()
        except FileNotFoundError:
            return True
        return (mine.st_ino, mine.st_dev) != (present.st_ino, present.st_dev)

    def _drain(self, descriptor: int) -> Iterator[Event]:
        while data := os.read(descriptor, 1 << 16):
            whole, newline, self._rest = (self._rest + data).rpartition(b"\n")
            yield from _decode(whole + newline)


def _older(path: Path) -> Path:
    return path.with_name(path.name + ".1")


def _journals(nook: str | None, directory: Path | None) -> list[Path]:
    if nook is not None:
        return [journal_path(nook, directory)]
    root = directory or paths.log_dir()
    names = {path.name.removesuffix(".1") for pattern in ("*.jsonl", "*.jsonl.1") for path in root.glob(pattern)}
    return [root / name for name in sorted(names)]


def _decode(data: bytes) -> Iterator[Event]:
    for line in data.splitlines():
        with contextlib.suppress(msgspec.DecodeError, ValueError):
            yield _decoder.decode(line)


def _encode(event: Event) -> bytes:
    """One line. What JSON can't hold, or is too long, is replaced by a note of it: the event matters more."""
    try:
        line = msgspec.json.encode(event)
    except (TypeError, ValueError, RecursionError) as error:
        note = {"unprintable": ascii(error)[:200]}
        return msgspec.json.encode(msgspec.structs.replace(event, detail=note)) + b"\n"
    if len(line) > LONGEST_LINE_BYTES:
        note = {"omitted_bytes": len(line), "keys": sorted(map(str, event.detail))[:20]}
        line = msgspec.json.encode(msgspec.structs.replace(event, detail=note))
    return line + b"\n"

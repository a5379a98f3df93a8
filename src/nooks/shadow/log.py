"""The log: what a shadow recorded and would replay, and the memory file that it outlives its supervisor in.

Last value per setting, never a history: replaying is bringing a fresh driver to one state. Common to all classes.
"""

import json
import os
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from nooks.host.errors import NooksError
from nooks.xpc.settings import Settings, SettingValue

SLOT_BYTES = 256 << 10
"""Room for one state; twice all settings that can cross the boundary fit. Pages never written cost nothing."""

_SLOT = struct.Struct("=4sIQII")
_MAGIC = b"NKST"
_VERSION = 1


class LogFull(NooksError):  # noqa: N818 - the name says what happened
    """A state is larger than its file's slots."""


class StateFile:
    """A memory file with two slots, written in turn: killed at any instruction, the last complete state is there.

    The keeper holds a duplicate of the descriptor.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._slot_bytes = os.fstat(fd).st_size // 2
        self._sequence = max((sequence for sequence, _ in self._states()), default=0)

    @classmethod
    def create(cls, name: str, slot_bytes: int = SLOT_BYTES) -> Self:
        """A new, empty file; ``name`` is what /proc shows."""
        fd = os.memfd_create(name, os.MFD_CLOEXEC)
        os.ftruncate(fd, 2 * slot_bytes)
        return cls(fd)

    @classmethod
    def from_fd(cls, fd: int) -> Self:
        """The file behind a descriptor from the keeper, which then belongs to this object."""
        return cls(fd)

    def fileno(self) -> int:
        """The descriptor; it stays this object's own."""
        return self._fd

    def store(self, state: bytes) -> None:
        """Replace the state. Raises LogFull, and the old state stays."""
        if _SLOT.size + len(state) > self._slot_bytes:
            raise LogFull(f"{len(state)} bytes of state, room for {self._slot_bytes - _SLOT.size}", "set fewer things")
        sequence = self._sequence + 1
        header = _SLOT.pack(_MAGIC, _VERSION, sequence, len(state), _checksum(sequence, state))
        os.pwrite(self._fd, header + state, (sequence % 2) * self._slot_bytes)
        self._sequence = sequence

    def load(self) -> bytes:
        """The last complete state; empty if there is none."""
        return max(self._states(), default=(0, b""))[1]

    def close(self) -> None:
        """Close the descriptor; again is harmless."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _states(self) -> list[tuple[int, bytes]]:
        found: list[tuple[int, bytes]] = []
        for start in (0, self._slot_bytes):
            magic, version, sequence, length, checksum = _SLOT.unpack(os.pread(self._fd, _SLOT.size, start))
            if magic != _MAGIC or version != _VERSION or length > self._slot_bytes - _SLOT.size:
                continue
            state = os.pread(self._fd, length, start + _SLOT.size)
            if checksum == _checksum(sequence, state):
                found.append((sequence, state))
        return found


@dataclass(frozen=True)
class Entry:
    """One setting's last value; ``generation`` orders all requests of a nook."""

    value: SettingValue
    generation: int


class Log:
    """What a driver accepted (``settings``), and what was asked for but not yet accepted (``pending``).

    Every change is in ``file`` when the method returns. Outstanding requests are for classes that must repeat them.
    """

    def __init__(self, file: StateFile | None = None) -> None:
        """Empty, or what ``file`` holds."""
        self._file = file
        loaded: dict[str, Any] = json.loads((file.load() if file else b"") or b"{}")
        self._generation = int(loaded.get("generation", 0))
        self._settings = _entries(loaded.get("settings", {}))
        self._pending = _entries(loaded.get("pending", {}))
        self._requests: dict[int, Any] = {int(key): value for key, value in loaded.get("requests", {}).items()}

    @property
    def settings(self) -> Settings:
        """The accepted settings."""
        return _values(self._settings)

    @property
    def pending(self) -> Mapping[str, Entry]:
        """The settings that the driver has yet to accept."""
        return dict(self._pending)

    @property
    def generation(self) -> int:
        """The number of the latest request."""
        return self._generation

    @property
    def requests(self) -> Mapping[int, Any]:
        """The outstanding requests by number, oldest first."""
        return dict(self._requests)

    def target(self) -> Settings:
        """The state that the driver should have: accepted settings, overridden by pending ones."""
        return _values(self._settings | self._pending)

    def next_generation(self) -> int:
        """A number greater than every one before."""
        self._generation += 1
        return self._generation

    def queue(self, settings: Settings) -> None:
        """Record what was asked for before the driver is."""
        generation = self.next_generation()
        self._change(pending=self._pending | {key: Entry(value, generation) for key, value in settings.items()})

    def accept(self, settings: Settings, generation: int) -> None:
        """The driver took these values, asked for in ``generation``; later requests for the same keys stay pending."""
        accepted = {key: Entry(value, generation) for key, value in settings.items()}
        self._change(self._settings | accepted, self._without(settings, generation))

    def refuse(self, keys: Iterable[str], generation: int) -> None:
        """The driver did not take what was asked for in ``generation``."""
        self._change(pending=self._without(keys, generation))

    def forget(self, keys: Iterable[str]) -> None:
        """These settings mean nothing any more."""
        gone = set(keys)
        self._change({key: entry for key, entry in self._settings.items() if key not in gone})

    def begin(self, request: object) -> int:
        """Record a request that must be repeated if the driver dies; returns its number."""
        number = self.next_generation()
        self._requests[number] = request
        self._save()
        return number

    def finish(self, number: int) -> None:
        """The request was answered."""
        del self._requests[number]
        self._save()

    def _without(self, keys: Iterable[str], generation: int) -> dict[str, Entry]:
        done = set(keys)
        return {key: entry for key, entry in self._pending.items() if key not in done or entry.generation > generation}

    def _change(self, settings: dict[str, Entry] | None = None, pending: dict[str, Entry] | None = None) -> None:
        before = self._settings, self._pending
        self._settings = self._settings if settings is None else settings
        self._pending = self._pending if pending is None else pending
        try:
            self._save()
        except LogFull:
            self._settings, self._pending = before
            raise

    def _save(self) -> None:
        if self._file is None:
            return
        state = {
            "generation": self._generation,
            "settings": _as_json(self._settings),
            "pending": _as_json(self._pending),
            "requests": self._requests,
        }
        self._file.store(json.dumps(state, separators=(",", ":")).encode())


def _values(entries: Mapping[str, Entry]) -> Settings:
    return {key: entry.value for key, entry in entries.items()}


def _as_json(entries: Mapping[str, Entry]) -> dict[str, list[Any]]:
    return {key: [entry.value, entry.generation] for key, entry in entries.items()}


def _entries(loaded: Mapping[str, list[Any]]) -> dict[str, Entry]:
    return {
        key: Entry(tuple(value) if isinstance(value, list) else value, generation)
        for key, (value, generation) in loaded.items()
    }


def _checksum(sequence: int, state: bytes) -> int:
    return zlib.crc32(state, zlib.crc32(sequence.to_bytes(8, "little")))

"""A campaign's folder: what it is (campaign.json), what became of each trial so far (JSON lines), safe against a crash.

A line is on the disk before the next trial counts; a half-written last line is forgotten. Of several lines of a trial
the last one counts, so one that could not be run may be tried again.
"""

import fcntl
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from nooks.host.errors import InputError, MachineError, StateError
from nooks.lab.campaign.order import Order, Record, Side

FILES: dict[Side, str] = {"nook": "trials.jsonl", "native": "controls.jsonl"}
IDENTITY = "campaign.json"
RESULTS = {"nook": "verdict", "native": "outcome"}
"""Where a record says what became of it."""
_FORMAT = 1


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What makes a campaign what it is; drivers and trials may be added later. ``kernels`` by flavour."""

    seed: int
    faults: int
    type: str
    kernels: dict[str, str] = {}
    workload: str = ""
    format: int = _FORMAT


class Store:
    """The folder, held by one campaign at a time; a context manager."""

    def __init__(self, folder: Path, identity: Identity) -> None:
        """Make the folder or go on with it; kernels that are on record are kept.

        Raises InputError if it is another campaign's or none's, StateError if one is at work there, MachineError if it
        can't be written.
        """
        self.folder = folder
        self._lock = -1
        try:
            folder.mkdir(parents=True, exist_ok=True)
            recorded = _recorded(folder)
            if recorded is None and any(path.name != IDENTITY for path in folder.iterdir()):
                raise InputError(f"{folder} holds something that is no campaign", "choose another --out")
            self.identity = identity if recorded is None else _agreed(folder, recorded, identity)
            self._lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._write_identity()
            self._records = {side: self._load(side) for side in FILES}
        except BlockingIOError:
            self.close()
            raise StateError(f"a campaign is at work in {folder}", "wait for it, or choose another --out") from None
        except (FileExistsError, NotADirectoryError):
            raise InputError(f"{folder} is no folder", "choose another --out") from None
        except OSError as error:
            self.close()
            raise _unwritable(folder, error) from None
        except BaseException:
            self.close()
            raise

    def records(self, side: Side) -> list[Record]:
        """What is known, one record for each trial, by driver and number."""
        found = self._records[side]
        return [found[key] for key in sorted(found)]

    def open_orders(self, orders: Iterable[Order]) -> list[Order]:
        """Those that have not been carried out: not tried yet, or could not be run."""
        return [order for order in orders if not self._is_done(order)]

    def append(self, side: Side, record: Record) -> None:
        """Keep a record. Raises MachineError if it can't be written; the file is as it was before, then."""
        path = self.folder / FILES[side]
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        descriptor = -1
        size = 0
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            size = os.fstat(descriptor).st_size
            _write_all(descriptor, line)
            os.fsync(descriptor)
        except OSError as error:
            if descriptor >= 0:
                os.ftruncate(descriptor, size)
            raise _unwritable(path, error) from None
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        self._records[side][record["driver"], record["trial"]] = record

    def write(self, name: str, content: bytes) -> None:
        """Write a file of results, whole or not at all. Raises MachineError."""
        path = self.folder / name
        partial = path.with_name(f".{name}.part")
        try:
            partial.write_bytes(content)
            partial.replace(path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise _unwritable(path, error) from None

    def close(self) -> None:
        """Let others have the folder. Safe to call twice."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _is_done(self, order: Order) -> bool:
        record = self._records[order.side].get((order.driver, order.trial))
        return record is not None and record[RESULTS[order.side]] != "not-run"

    def _write_identity(self) -> None:
        self.write(IDENTITY, json.dumps(msgspec.to_builtins(self.identity), indent=1).encode() + b"\n")

    def _load(self, side: Side) -> dict[tuple[str, int], Record]:
        path = self.folder / FILES[side]
        if not path.exists():
            return {}
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):  # the last line was being written when the power went
            os.truncate(path, len(whole))
        found: dict[tuple[str, int], Record] = {}
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                record: Record = json.loads(line)
                found[str(record["driver"]), int(record["trial"])] = record
            except (ValueError, KeyError, TypeError):
                raise InputError(f"line {number} of {path} is no record", "remove that line") from None
        return found


def _recorded(folder: Path) -> Identity | None:
    path = folder / IDENTITY
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=Identity)
    except msgspec.DecodeError as error:
        raise InputError(f"{path} is no campaign's: {error}", "choose another --out") from None


def _agreed(folder: Path, recorded: Identity, wanted: Identity) -> Identity:
    """The recorded identity, with the kernels of flavours that are new. Raises InputError if they disagree."""
    for name in ("format", "seed", "faults", "type", "workload"):
        there, here = (
            value if value != "" else "as usual" for value in (getattr(recorded, name), getattr(wanted, name))
        )
        if there != here:
            mend = f"leave --{name} out" if there == "as usual" else f"--{name} {there}"
            raise InputError(
                f"{folder} holds a campaign with {name} {there}, not {here}", f"choose another --out, or {mend}"
            )
    for flavour, version in wanted.kernels.items():
        if recorded.kernels.get(flavour, version) != version:
            what = f"{folder} holds a campaign on kernel {recorded.kernels[flavour]}, not {version}"
            raise InputError(what, "choose another --out, or leave --kernel out")
    return msgspec.structs.replace(recorded, kernels={**wanted.kernels, **recorded.kernels})


def recorded_kernels(folder: Path) -> dict[str, str]:
    """The kernels of a campaign that began earlier, by flavour. Raises InputError."""
    recorded = _recorded(folder) if folder.is_dir() else None
    return dict(recorded.kernels) if recorded is not None else {}


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _unwritable(path: Path, error: OSError) -> MachineError:
    what = f"{path} can't be written: {error.strerror}"
    return MachineError(what, "free some space or choose another --out; the same command then goes on")


def document(value: Any) -> bytes:  # noqa: ANN401 - any JSON
    """A results file's content."""
    return json.dumps(value, indent=1).encode() + b"\n"

"""The parts of a block nook that outlive a supervisor: made for a new one, or taken from the keeper."""

import socket
from dataclasses import dataclass, field
from pathlib import Path

from nooks.device.medium import Medium, adopt_medium, open_medium
from nooks.endpoint.fuse_disk import FuseDisk
from nooks.host.errors import InputError, StateError
from nooks.nook.block_link import Link
from nooks.nook.ledger import Ledger
from nooks.shadow.requests import RequestLog
from nooks.shadow.write_log import WriteLog
from nooks.spec import Spec
from nooks.xpc.states import BlockState

WRITES, MEDIUM, FUSE = "block.writes", "block.medium", "block.fuse"
DATA, REGION = "block.data", "block.region"
"""Of each bay: its number follows."""

KEYS = "block."
"""What the keys of all that the keeper holds begin with."""

_SECTOR_BYTES, _READ_ONLY_SECTOR_BYTES = 512, 2048
BAYS = 2


@dataclass
class Parts:
    """``state`` is that of the disk as applications see it, None before the first driver was up."""

    medium: Medium | None
    endpoint: FuseDisk
    store: WriteLog
    log: RequestLog
    links: dict[int, Link] = field(default_factory=dict[int, Link])
    state: BlockState | None = None


def make(spec: Spec, ledger: Ledger) -> Parts:
    """For a new nook. Raises NooksError; nothing is left then."""
    medium = None if spec.real else _open_medium(spec)
    read_only = medium is not None and medium.read_only
    try:
        endpoint = FuseDisk.create(medium.size_bytes if medium is not None else 0, read_only=read_only)
    except BaseException:
        if medium is not None:
            medium.close()
        raise
    store = WriteLog.create()
    if medium is not None:
        ledger.give(MEDIUM, medium.descriptor)
        ledger.record(size_bytes=medium.size_bytes)
    ledger.give(WRITES, store.fileno())
    ledger.give(FUSE, endpoint.descriptor)
    return Parts(medium, endpoint, store, RequestLog(store))


def adopt(spec: Spec, ledger: Ledger) -> Parts:
    """Those of a dead supervisor. Raises StateError if it had not come so far as to serve."""
    facts, held = ledger.facts, ledger.held()
    if facts.get("state") is None:
        raise StateError(f"the start of {spec.name} was broken off", f"'nooks stop {spec.name}' clears up")
    state = BlockState.parse({key: value for key, value in facts["state"].items() if key != "class"})
    medium = adopt_medium(ledger.take(MEDIUM), int(facts["size_bytes"])) if MEDIUM in held else None
    endpoint = FuseDisk.adopt(
        ledger.take(FUSE), Path(facts["device"]), spec.name, state.size_bytes, read_only=state.read_only
    )
    store, kept = WriteLog.adopt(ledger.take(WRITES))
    links = {
        bay: Link(socket.socket(fileno=ledger.take(f"{DATA}{bay}")), ledger.take(f"{REGION}{bay}"), adopted=True)
        for bay in range(BAYS)
        if f"{DATA}{bay}" in held and f"{REGION}{bay}" in held
    }
    return Parts(medium, endpoint, store, RequestLog(store, kept), links, state)


def _open_medium(spec: Spec) -> Medium:
    path = spec.block.media
    if path is None:
        raise InputError(f"{spec.name} has no medium", "give one with --media FILE")
    read_only = only_reads(spec)
    return open_medium(path, read_only=read_only, sector_bytes=_READ_ONLY_SECTOR_BYTES if read_only else _SECTOR_BYTES)


def only_reads(spec: Spec) -> bool:
    """Whether the device is a drive that only reads."""
    return spec.parsed_device.model in ("ide-cd", "scsi-cd")

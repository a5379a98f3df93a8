"""Where a block nook's medium is kept: what its domains are given of it, its changes, and what the host does to it."""

import os
from pathlib import Path

from nooks.device.emulated import drive, drive_buses
from nooks.device.medium import Medium, open_medium
from nooks.domain import medium as in_domain
from nooks.domain.domain import Domain
from nooks.host.errors import InputError
from nooks.nook.ledger import Ledger
from nooks.spec import Device, Spec

MEDIUM = "block.medium"
"""The keeper's key of its descriptor."""

_REMOVABLE = ("ide-cd", "scsi-cd")
_SECTOR_BYTES, _DRIVE_SECTOR_BYTES = 512, 2048


class Tray:
    """Owns the medium of an emulated device, None if it is empty; ``removable``: it is a drive, which only reads."""

    def __init__(self, spec: Spec, ledger: Ledger, medium: Medium | None) -> None:
        self._device = spec.parsed_device
        self._name = spec.name
        self._ledger = ledger
        self.medium = medium
        self.removable = is_removable(spec)

    @property
    def size_bytes(self) -> int:
        """Of what is in it."""
        return self.medium.size_bytes if self.medium is not None else 0

    @property
    def punches_holes(self) -> bool:
        """Whether what is dropped from it reads as zeros."""
        return self.medium is not None and self.medium.punches_holes

    def hardware(self) -> tuple[str, ...]:
        """QEMU's arguments for a stand-in, and for what the drive is plugged into."""
        size = in_domain.STAND_IN_BYTES if self.removable else self.size_bytes
        read_only = self.removable or (self.medium is not None and self.medium.read_only)
        return (
            *in_domain.stand_in(size, read_only=read_only),
            *drive_buses(self._device.model, self._device.options),
        )

    def drive(self) -> dict[str, str]:
        """The drive's properties."""
        return drive(self._device.model, self._device.options, in_domain.NODE, in_domain.DRIVE)

    async def admit(self, domain: Domain) -> None:
        """Give a domain the medium. Raises MonitorError."""
        if self.removable:
            await in_domain.change(domain, self.medium)
        elif self.medium is not None:
            await in_domain.insert(domain, self.medium)

    def replace(self, path: str | None) -> None:
        """Hold another medium, or none. Raises InputError, StateError: then it is as it was."""
        if not self.removable:
            raise InputError(f"{self._name} has no removable medium", "'nooks media' is for drives, such as ide-cd")
        if path is not None and self._has(path):
            raise InputError(
                f"{path} is in {self._name} already", f"take it out with 'nooks media {self._name} --eject'"
            )
        medium = open_medium(path, read_only=True, sector_bytes=_DRIVE_SECTOR_BYTES) if path is not None else None
        self.close()
        self.medium = medium
        self.hold()

    def hold(self) -> None:
        """Have the keeper hold what is in it."""
        if self.medium is not None:
            self._ledger.give(MEDIUM, self.medium.descriptor)
        elif MEDIUM in self._ledger.held():
            self._ledger.forget(MEDIUM)
        self._ledger.record(size_bytes=self.size_bytes)

    @property
    def usable_bytes(self) -> int:
        """What is left of it if its file has become shorter."""
        missing = self.medium.missing_bytes if self.medium is not None else 0
        return max(0, self.size_bytes - missing) // _SECTOR_BYTES * _SECTOR_BYTES

    def trouble(self) -> str | None:
        """What somebody has done to the medium's file while it is in use."""
        if self.medium is None:
            return None
        if self.medium.missing_bytes:
            return f"its file has become {self.medium.missing_bytes} bytes shorter: what was there is lost"
        if self.medium.is_deleted:
            return "its file was deleted: it goes with the nook"
        return None

    def close(self) -> None:
        """Let go of the medium, and of its lock."""
        medium, self.medium = self.medium, None
        if medium is not None:
            medium.close()

    def _has(self, path: str) -> bool:
        try:
            return self.medium is not None and os.path.samestat(Path(path).stat(), os.fstat(self.medium.descriptor))
        except OSError:
            return False


def open_first(spec: Spec) -> Medium | None:
    """The medium of a nook that starts; a drive may be empty. Raises InputError, StateError."""
    path, removable = spec.block.media, is_removable(spec)
    if path is None and removable:
        return None
    if path is None:
        raise InputError(f"{spec.name} has no medium", "give one with --media FILE")
    return open_medium(path, read_only=removable, sector_bytes=_DRIVE_SECTOR_BYTES if removable else _SECTOR_BYTES)


def is_removable(spec: Spec) -> bool:
    """Whether the device is an emulated drive, whose medium can be changed."""
    return is_drive(spec.parsed_device)


def is_drive(device: Device) -> bool:
    """Whether QEMU emulates it as a drive, which only reads and whose medium can be changed."""
    return device.kind == "emulated" and device.model in _REMOVABLE

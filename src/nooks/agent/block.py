"""The class block inside the domain: finds the driver's disk, tells what it is, and sets a mover to work on it.

Nothing of the disk goes through a page cache. Its data lie in a region that the host maps as well (device-dax): the
driver's device reads and writes them right there.
"""

import os
import time
from fcntl import ioctl

from nooks.agent import system
from nooks.agent.mover import Mover
from nooks.agent.ports import find_port
from nooks.agent.uevents import Uevents

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PORT = "nooks.data"
_BLOCK = "/sys/block"
_REGION = "/sys/bus/dax/devices"
_APPEAR_TIMEOUT_SECONDS = 10.0
_PORT_TIMEOUT_SECONDS = 10.0
_PCI_COMMAND = 4
_PCI_COMMAND_IO_AND_MEMORY = 0x3
_SECTOR = 512
_CDROM_DRIVE_STATUS, _CDSL_CURRENT, _CDS_DISC_OK = 0x5326, 0x7FFFFFFF, 4  # include/uapi/linux/cdrom.h
_LOOKS = 6
_LOOK_SECONDS = 0.01

# The host alone judges how long a request may take, and merges nothing: what it asks for is what the driver gets.
_QUEUE = (
    ("io_timeout", "3600000"),
    ("scheduler", "none"),
    ("wbt_lat_usec", "0"),
    ("nomerges", "2"),
    ("iostats", "0"),
    ("add_random", "0"),
)


class Block:
    """The one disk or drive of this domain."""

    def __init__(self) -> None:
        self._name = ""
        self._mover: Mover | None = None
        self._reported: dict[str, Any] = {}
        self._uevents = Uevents()

    def bring_up(self, wanted: "dict[str, Any]", claim_seconds: float) -> "dict[str, Any]":
        """See the ``bring_up`` message. Raises Unable if no disk appears in time, or its driver is not done with it.

        A disk that appears is still being probed: its driver asks it for this and that. A snapshot of such a moment
        would have the answers go astray.
        """
        del wanted
        started = time.monotonic()
        deadline = started + max(_APPEAR_TIMEOUT_SECONDS, claim_seconds)
        self._name = _wait_for_disk(deadline)
        wait_until_probed(self._uevents, self._name, deadline)
        for name, value in _QUEUE:
            _try_write(f"{_BLOCK}/{self._name}/queue/{name}", value)
        _try_write(f"{_BLOCK}/{self._name}/device/timeout", "3600")
        appeared = time.monotonic()
        self._mover = Mover(find_port(PORT, _PORT_TIMEOUT_SECONDS), f"/dev/{self._name}", _wait_for_region())
        return {
            "driver": _driver_of(f"{_BLOCK}/{self._name}/device"),
            "state": self._report(),
            "seconds": {"probe": appeared - started, "link": time.monotonic() - appeared},
            "readback": {},
            "refused": {},
        }

    def apply(self, wanted: "dict[str, Any]") -> "dict[str, Any]":
        """A disk has no settings."""
        return {"readback": {}, "refused": dict.fromkeys(wanted, "a disk has no settings"), "state": self._report()}

    def read(self) -> "dict[str, Any]":
        """The present state."""
        return {"readback": {}, "state": self._report(), "statistics": {}}

    def counters(self) -> "dict[str, str]":
        """None: the host counts by itself what passes."""
        return {}

    def device(self) -> str:
        """The folder of the controller."""
        folder = os.path.realpath(f"{_BLOCK}/{self._name}/device")
        while not os.path.exists(f"{folder}/config"):  # noqa: PTH110 - pathlib costs too much here
            folder = os.path.dirname(folder)  # noqa: PTH120
        return folder

    def silence(self) -> None:
        """Have the controller not hear the driver any more, behind its back (PCI command register, decoding).

        Not by forbidding it to reach memory: QEMU's IDE controller then acknowledges writes of data that it can't get.
        """
        descriptor = os.open(f"{self.device()}/config", os.O_RDWR | os.O_CLOEXEC)
        try:
            command = int.from_bytes(os.pread(descriptor, 2, _PCI_COMMAND), "little")
            os.pwrite(descriptor, (command & ~_PCI_COMMAND_IO_AND_MEMORY).to_bytes(2, "little"), _PCI_COMMAND)
        finally:
            os.close(descriptor)

    def fileno(self) -> int:
        """Readable when the kernel has news of a device."""
        return self._uevents.fileno()

    def events(self) -> "list[dict[str, Any]]":
        """A ``changed`` event if the medium is another one."""
        self._uevents.read()
        before = self._reported
        state = self._report()
        return [] if state == before else [{"type": "changed", "state": state}]

    def _report(self) -> "dict[str, Any]":
        """What the disk is, noted as that which the host knows."""
        folder = f"{_BLOCK}/{self._name}"
        assert self._mover is not None
        loaded = _number(folder, "removable") == 0 or _see_medium(f"/dev/{self._name}")
        size = int(system.read(f"{folder}/size")) * _SECTOR if loaded else 0
        self._reported = {
            "class": "block",
            "medium": size > 0,
            "size_bytes": size,
            "sector_bytes": _number(folder, "queue/logical_block_size"),
            "physical_bytes": _number(folder, "queue/physical_block_size"),
            "read_only": _number(folder, "ro") != 0,
            "rotational": _number(folder, "queue/rotational") != 0,
            "cached": system.read(f"{folder}/queue/write_cache").startswith("write back"),
            "discard_bytes": _number(folder, "queue/discard_max_bytes"),
            "zero_bytes": _number(folder, "queue/write_zeroes_max_bytes"),
            "region_bytes": self._mover.region_bytes,
            "model": _text(f"{folder}/device/model"),
        }
        return self._reported


def create() -> Block:
    """The class, before its driver's modules are inserted."""
    return Block()


def wait_until_probed(news: Uevents, name: str, deadline: float) -> None:
    """Return when the driver of the disk ``name`` is done with its probe. Raises Unable at ``deadline`` (monotonic).

    Partitions have been looked for when the disk is announced; a SCSI driver goes on asking even then.
    """
    folder = f"{_BLOCK}/{name}"
    awaited = {("add", _device_path(folder))}
    if os.path.realpath(f"{folder}/device/subsystem").endswith("/scsi"):
        awaited.add(("bind", _device_path(f"{folder}/device")))
    while True:
        awaited.difference_update(news.read())
        if not awaited:
            return
        if time.monotonic() > deadline:
            raise system.Unable("its driver does not get done with probing the disk")
        time.sleep(0.002)


def _device_path(folder: str) -> str:
    """A folder of /sys as uevents name it."""
    return os.path.realpath(folder).removeprefix("/sys")


def _wait_for_disk(deadline: float) -> str:
    """The first disk that a driver has made of a device."""
    while True:
        for name in sorted(os.listdir(_BLOCK)):  # noqa: PTH208 - pathlib costs too much here
            # Its node and folder come first: the kernel registers the queue only then (block/genhd.c, device_add_disk).
            places = (f"{_BLOCK}/{name}/device", f"{_BLOCK}/{name}/queue/write_cache", f"/dev/{name}")
            if all(map(os.path.exists, places)):
                return name
        if time.monotonic() > deadline:
            raise system.Unable("no disk appeared")
        time.sleep(0.002)


def _see_medium(node: str) -> bool:
    """Have a drive look at its medium, and say whether there is one. A changed one first seems to be away."""
    in_a_row = 0
    for _ in range(_LOOKS):
        drive = os.open(node, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = ioctl(drive, _CDROM_DRIVE_STATUS, _CDSL_CURRENT)
        except OSError:
            return True  # no such drive: its size says it
        finally:
            os.close(drive)
        in_a_row = in_a_row + 1 if status == _CDS_DISC_OK else 0
        if in_a_row == 2:
            return True
        time.sleep(_LOOK_SECONDS)
    return False


def _wait_for_region() -> str:
    """The node of the buffer region."""
    deadline = time.monotonic() + _PORT_TIMEOUT_SECONDS
    while True:
        names = os.listdir(_REGION) if os.path.exists(_REGION) else []  # noqa: PTH110, PTH208
        for name in names:
            if os.path.exists(f"/dev/{name}"):  # noqa: PTH110
                return name
        if time.monotonic() > deadline:
            raise system.Unable("the buffer region did not appear")
        time.sleep(0.002)


def _driver_of(folder: str) -> str:
    """The driver of the bus that the disk is on: that of the first USB interface or PCI device above it."""
    folder = os.path.realpath(folder)
    while not (os.path.exists(f"{folder}/config") or os.path.exists(f"{folder}/bInterfaceNumber")):  # noqa: PTH110
        if folder == "/":
            return ""
        folder = os.path.dirname(folder)  # noqa: PTH120
    return os.path.basename(os.path.realpath(f"{folder}/driver"))  # noqa: PTH119


def _number(folder: str, name: str) -> int:
    """The number in a file of sysfs; 0 if there is none."""
    try:
        return int(system.read(f"{folder}/{name}"))
    except (OSError, ValueError):
        return 0


def _text(path: str) -> str:
    try:
        return system.read(path).strip()
    except OSError:
        return ""


def _try_write(path: str, value: str) -> None:
    try:  # noqa: SIM105 - contextlib costs too much here
        system.write(path, value)
    except OSError:
        pass  # not every device has it

"""DMA that the IOMMU refused: a driver had its device reach for memory that isn't its domain's.

The host's kernel says so in its log, of which one line is enough (the others may be held back by its rate limit).
Records are read from /dev/kmsg (Documentation/ABI/testing/dev-kmsg), and only the kernel's own count: any process with
the privilege can write there. Formats of Linux 4.19 to 6.12: ``dmar_fault_do_one`` in drivers/iommu/intel/dmar.c,
``amd_iommu_report_page_fault`` in drivers/iommu/amd/iommu.c.

Intel's lines leave the PCI domain out, so there a device of the same number in another PCI domain is taken for ours.
"""

import asyncio
import errno
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

import structlog

from nooks.failure.report import FailureReport, Reason, ReportSink
from nooks.host.clock import Clock

KMSG = "/dev/kmsg"
LONGEST_LINE = 400
MOST_RECORDS = 200
"""Read in one turn of the event loop; the log may be flooded by others."""

_RECORD_BYTES = 16384
_KERNEL_FACILITY = 0
_DETECTOR = "iommu"
_NUMBER = r"(?:0x)?(?P<bus>[0-9a-f]{2}):(?:0x)?(?P<slot>[0-9a-f]{2})\.(?P<function>[0-7])"
_INTEL = re.compile(
    rf"DMAR: ?\[DMA (?P<access>Read|Write)(?: NO_PASID| PASID 0x[0-9a-f]+)?\] Request device \[{_NUMBER}\]"
    r"(?: PASID [0-9a-f]+)? fault addr (?:0x)?+(?P<address>[0-9a-f]{1,16})\b"
)
_AMD = re.compile(
    r"(?:[\w-]+ (?P<named>[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]): )?AMD-Vi: Event logged \[IO_PAGE_FAULT "
    r"(?:device=(?P<device>(?:[0-9a-f]{4}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]) )?domain=0x[0-9a-f]+ "
    r"address=0x(?P<address>[0-9a-f]{1,16}) flags=0x(?P<flags>[0-9a-f]{1,8})\]"
)
_AMD_INTERRUPT, _AMD_WRITE = 0x8, 0x20
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Fault:
    """One refused access. ``device``: its PCI address, without the domain where the kernel doesn't say it."""

    device: str
    address: int
    access: Literal["read", "write"]

    def is_of(self, addresses: Iterable[str]) -> bool:
        """Whether the device is one of these, given as 0000:03:00.0."""
        return any(one == self.device or one.partition(":")[2] == self.device for one in addresses)


class Log(Protocol):
    """The kernel's log, from which records are read one by one."""

    def fileno(self) -> int:
        """The descriptor that becomes readable when there is a record."""
        ...

    def skip(self) -> None:
        """Leave out what has been logged so far. Raises OSError."""
        ...

    def read(self) -> bytes:
        """The next record; empty if there never will be one. Raises BlockingIOError if there is none, OSError."""
        ...

    def close(self) -> None:
        """Release it."""
        ...


class KernelLog:
    """This machine's, from what is logged next on. Raises OSError."""

    def __init__(self, path: str = KMSG) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self.skip()
        except OSError:
            self.close()
            raise

    def fileno(self) -> int:
        """Its descriptor."""
        return self._fd

    def skip(self) -> None:
        """To the end. Raises OSError."""
        os.lseek(self._fd, 0, os.SEEK_END)

    def read(self) -> bytes:
        """One record. Raises OSError; EPIPE says that records were lost, and the next reading goes on after them."""
        return os.read(self._fd, _RECORD_BYTES)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._fd)


class DmaDetector:
    """Watches the faults of a nook's device, one incarnation at a time.

    Args:
        addresses: PCI addresses as 0000:03:00.0: of the nook's device, and of the bridge in whose name it acts if it
            is behind one of PCI Express to PCI.
        clock: for the time of the report.
        report: where the verdict goes.
        log: the kernel's log, which belongs to the detector from then on; None for this machine's.

    On a machine where the log can't be read nothing is watched, and a warning is logged once.
    """

    def __init__(self, addresses: Iterable[str], clock: Clock, report: ReportSink, log: Log | None = None) -> None:
        self._addresses = frozenset(address.lower() for address in addresses)
        self._clock = clock
        self._report = report
        self._log = log
        self._loop: asyncio.AbstractEventLoop | None = None
        self._incarnation: int | None = None

    @property
    def watching(self) -> bool:
        """Whether the kernel's log is being read."""
        return self._loop is not None

    def open(self) -> None:
        """Begin to read, in the running event loop."""
        try:
            self._log = self._log or KernelLog()
            asyncio.get_running_loop().add_reader(self._log.fileno(), self._readable)
        except OSError as error:  # no such file, no permission, no character device
            self._give_up(error.strerror or str(error))
            return
        self._loop = asyncio.get_running_loop()

    def close(self) -> None:
        """Stop reading; once more does no harm."""
        self._incarnation = None
        if self._loop is not None and self._log is not None:
            self._loop.remove_reader(self._log.fileno())
        self._loop = None
        if self._log is not None:
            self._log.close()
            self._log = None

    def begin(self, incarnation: int) -> None:
        """Watch ``incarnation`` from now on: what has been logged so far was another's doing."""
        if self._loop is None or self._log is None:
            return
        try:
            self._log.skip()
        except OSError as error:
            self._give_up(error.strerror or str(error))
            return
        self._incarnation = incarnation

    def end(self) -> None:
        """It is being fenced or stopped: a device that is torn from its driver may well fault."""
        self._incarnation = None

    def _readable(self) -> None:
        faults: list[tuple[Fault, str]] = []
        for _ in range(MOST_RECORDS):
            try:
                record = self._log.read() if self._log is not None else b""
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno == errno.EPIPE:
                    continue
                self._give_up(error.strerror or str(error))
                break
            if not record:
                self._give_up("it has an end")
                break
            line = message_of(record)
            fault = parse(line)
            if fault is not None and fault.is_of(self._addresses):
                faults.append((fault, line))
        if faults:
            self._judge(faults)

    def _judge(self, faults: list[tuple[Fault, str]]) -> None:
        incarnation, self._incarnation = self._incarnation, None
        if incarnation is None:
            return
        first, line = faults[0]
        detail = {"address": hex(first.address), "access": first.access, "line": line, "count": len(faults)}
        self._report(FailureReport(incarnation, Reason.DMA, self._clock.monotonic(), _DETECTOR, detail))

    def _give_up(self, why: str) -> None:
        _log.warning("refused DMA is not noticed: the kernel's log cannot be read", file=KMSG, why=why)
        self.close()


def parse(line: str) -> Fault | None:
    """The refused access in a line of the kernel's log; None if it speaks of something else."""
    if match := _INTEL.match(line):
        device = f"{match['bus']}:{match['slot']}.{match['function']}"
        return Fault(device, int(match["address"], 16), "read" if match["access"] == "Read" else "write")
    if (match := _AMD.match(line)) and (device := match["named"] or match["device"]):
        flags = int(match["flags"], 16)
        if not flags & _AMD_INTERRUPT:
            return Fault(device, int(match["address"], 16), "write" if flags & _AMD_WRITE else "read")
    return None


def message_of(record: bytes) -> str:
    """The text of a record of /dev/kmsg, if the kernel itself logged it, else nothing.

    A record is ``priority,sequence,time,flags[,more];text`` and lines of properties that begin with a space.
    """
    head, separator, rest = record.partition(b";")
    priority = head.partition(b",")[0]
    if not separator or not priority.isdigit() or int(priority[:9]) >> 3 != _KERNEL_FACILITY:
        return ""
    return rest.partition(b"\n")[0][:LONGEST_LINE].decode("ascii", "replace")

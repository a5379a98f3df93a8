"""DMA that the IOMMU refused: the kernel's lines, the log as it is read, and when it is told."""

import asyncio
import errno
import os
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from endpoints import open_descriptors
from fakes import run
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from nooks.failure import dma
from nooks.failure.dma import DmaDetector, Fault, KernelLog, message_of, parse
from nooks.failure.report import FailureReport, Reason
from nooks.host.clock import SystemClock

OURS = "0000:00:04.0"
LINE = "DMAR: [DMA Read NO_PASID] Request device [00:04.0] fault addr 0x7f00001000 [fault reason 0x06] PTE Read"
OTHER = LINE.replace("00:04.0", "00:05.0")

FAULTS = {
    LINE: Fault("00:04.0", 0x7F00001000, "read"),
    "DMAR: [DMA Write] Request device [0a:00.1] PASID ffffffff fault addr fffff000 [fault reason 05] PTE": Fault(
        "0a:00.1", 0xFFFFF000, "write"
    ),
    "DMAR: [DMA Read] Request device [00:02.0] fault addr 6df084000 [fault reason 06]": Fault(
        "00:02.0", 0x6DF084000, "read"
    ),
    "DMAR: [DMA Write NO_PASID] Request device [0x00:0x1f.3] fault addr 0x0 [fault reason 0x05]": Fault(
        "00:1f.3", 0, "write"
    ),
    "DMAR: [DMA Write PASID 0x1f] Request device [6a:01.0] fault addr 0xffffffffffffffff [fault reason 0x71]": Fault(
        "6a:01.0", 2**64 - 1, "write"
    ),
    "DMAR:[DMA Write] Request device [00:02.0] fault addr 6df084000 ": Fault("00:02.0", 0x6DF084000, "write"),
    "vfio-pci 0000:03:00.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x000c address=0xfeed000 flags=0x0000]": Fault(
        "0000:03:00.0", 0xFEED000, "read"
    ),
    "vfio-pci 0001:04:10.7: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x0037 address=0x7b657064 flags=0x0020]": Fault(
        "0001:04:10.7", 0x7B657064, "write"
    ),
    "AMD-Vi: Event logged [IO_PAGE_FAULT device=0000:03:00.0 domain=0x000c address=0x1000 flags=0x0030]": Fault(
        "0000:03:00.0", 0x1000, "write"
    ),
    "AMD-Vi: Event logged [IO_PAGE_FAULT device=0a:00.0 domain=0x001d address=0x000000000637c000 flags=0x0000]": Fault(
        "0a:00.0", 0x637C000, "read"
    ),
}
NO_FAULTS = (
    "",
    "DMAR: DRHD: handling fault status reg 2",
    "DMAR: [INTR-REMAP] Request device [00:04.0] fault index 0x1 [fault reason 0x22] Present",
    "DMAR: [DMA Read NO_PASID] Request device [00:04.0] fault addr 0x12345678901234567",
    "DMAR: [DMA Read NO_PASID] Request device [00:04.8] fault addr 0x1000",
    "AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x000c address=0xfeed000 flags=0x0000]",
    "vfio-pci 0000:03:00.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x000c address=0xfee00000 flags=0x0008]",
    "AMD-Vi: Event logged [ILLEGAL_DEV_TABLE_ENTRY device=0000:03:00.0 pasid=0x00000 address=0x1000 flags=0x0000]",
    f"usb 1-1: Product: {LINE}",
    f"EXT4-fs error: {LINE}",
)


@pytest.mark.parametrize(("line", "fault"), FAULTS.items())
def test_the_kernels_lines_are_understood(line: str, fault: Fault) -> None:
    assert parse(line) == fault


@pytest.mark.parametrize("line", NO_FAULTS)
def test_other_lines_are_not(line: str) -> None:
    assert parse(line) is None


PIECES = st.sampled_from([piece for line in FAULTS for piece in line.split(" ")])


@given(st.one_of(st.text(), st.lists(PIECES, max_size=20).map(" ".join)))
def test_no_line_is_too_strange(line: str) -> None:
    fault = parse(line)
    assert fault is None or (0 <= fault.address < 2**64 and fault.access in ("read", "write"))


@given(
    st.integers(0, 255),
    st.integers(0, 31),
    st.integers(0, 7),
    st.integers(0, 2**64 - 1),
    st.sampled_from(["Read", "Write"]),
    st.sampled_from(["", " NO_PASID", " PASID 0x5"]),
)
def test_every_device_and_address_is_understood(
    bus: int, slot: int, function: int, address: int, access: str, kind: str
) -> None:
    line = (
        f"DMAR: [DMA {access}{kind}] Request device [{bus:02x}:{slot:02x}.{function:d}] fault addr 0x{address:x} [fault"
    )
    fault = parse(line)
    assert fault is not None
    assert fault == Fault(f"{bus:02x}:{slot:02x}.{function}", address, "read" if access == "Read" else "write")
    assert fault.is_of([f"0000:{bus:02x}:{slot:02x}.{function}"])
    assert not fault.is_of([f"0000:{bus ^ 1:02x}:{slot:02x}.{function}"])


def test_a_fault_with_a_pci_domain_is_of_that_domain_alone() -> None:
    fault = Fault("0001:03:00.0", 0, "read")
    assert fault.is_of(["0000:03:00.0", "0001:03:00.0"])
    assert not fault.is_of(["0000:03:00.0"])
    assert not fault.is_of([])


@given(st.binary())
def test_no_record_is_too_strange(record: bytes) -> None:
    assert len(message_of(record)) <= dma.LONGEST_LINE


def test_only_the_kernels_own_records_count() -> None:
    assert message_of(b"3,339,5140900,-;" + LINE.encode() + b"\n SUBSYSTEM=pci\n DEVICE=+pci:0000:00:04.0\n") == LINE
    assert message_of(b"6,1,2,-,caller=T1;a;b\n") == "a;b"
    assert message_of(b"11,339,5140900,-;" + LINE.encode()) == ""
    assert message_of(b"30,339,5140900,-;" + LINE.encode()) == ""
    assert message_of(LINE.encode()) == ""


class FakeLog:
    """A kernel log that tests write: a descriptor from which whole records come."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._reader.setblocking(False)
        self.errors: list[int] = []
        self.closed = False

    def write(self, line: str) -> None:
        self._writer.send(b"3,1,2,-;" + line.encode() + b"\n")

    def fail(self, number: int) -> None:
        """The next reading fails."""
        self.errors.append(number)
        self._writer.send(b"this one is lost")

    def hang_up(self) -> None:
        self._writer.close()

    def fileno(self) -> int:
        return self._reader.fileno()

    def skip(self) -> None:
        try:
            while self._reader.recv(65536):
                pass
        except BlockingIOError:
            return

    def read(self) -> bytes:
        data = self._reader.recv(65536)
        if self.errors:
            number = self.errors.pop()
            raise OSError(number, os.strerror(number))
        return data

    def close(self) -> None:
        self.closed = True
        self._reader.close()
        self._writer.close()


class Watched:
    """A detector with a log of ours, and what it reported."""

    def __init__(self) -> None:
        self.log = FakeLog()
        self.reports: list[FailureReport] = []
        self.detector = DmaDetector([OURS, "0000:02:00.0"], SystemClock(), self.reports.append, self.log)

    async def read(self) -> list[FailureReport]:
        """Give the detector time to read what was written; all its reports so far."""
        for _ in range(5):
            await asyncio.sleep(0)
        return self.reports


@asynccontextmanager
async def watched() -> AsyncGenerator[Watched]:
    subject = Watched()
    subject.detector.open()
    try:
        yield subject
    finally:
        subject.detector.close()
        subject.detector.close()
        assert subject.log.closed
        assert not subject.detector.watching


def test_one_line_fails_the_incarnation_and_more_do_no_more() -> None:
    async def body() -> None:
        async with watched() as it:
            it.detector.begin(3)
            it.log.write(OTHER)
            it.log.write("eth0: link up")
            assert await it.read() == []
            it.log.write(LINE)
            it.log.write(LINE.replace("0x7f00001000", "0x5"))
            (report,) = await it.read()
            assert (report.incarnation, report.reason, report.detector) == (3, Reason.DMA, "iommu")
            assert report.detail == {"address": "0x7f00001000", "access": "read", "line": LINE, "count": 2}
            it.log.write(LINE)
            assert len(await it.read()) == 1
            it.detector.begin(4)
            it.log.write(LINE)
            assert [one.incarnation for one in await it.read()] == [3, 4]

    run(body)


def test_faults_of_before_and_of_the_fence_are_not_told() -> None:
    async def body() -> None:
        async with watched() as it:
            it.log.write(LINE)
            it.detector.begin(1)
            assert await it.read() == []
            it.detector.end()
            it.log.write(LINE)
            assert await it.read() == []
            it.log.write(LINE)
            it.detector.begin(2)
            assert await it.read() == []
            it.log.write(LINE)
            assert [one.incarnation for one in await it.read()] == [2]

    run(body)


def test_the_bridge_in_whose_name_a_device_acts_is_watched_too() -> None:
    async def body() -> None:
        async with watched() as it:
            it.detector.begin(1)
            it.log.write(LINE.replace("00:04.0", "02:00.0"))
            assert len(await it.read()) == 1

    run(body)


def test_lost_records_are_passed_over() -> None:
    async def body() -> None:
        async with watched() as it:
            it.detector.begin(1)
            it.log.fail(errno.EPIPE)
            it.log.write(LINE)
            assert len(await it.read()) == 1
            assert it.detector.watching

    run(body)


def test_a_flood_leaves_others_their_turn() -> None:
    async def body() -> None:
        async with watched() as it:
            it.detector.begin(1)
            for _ in range(20):
                it.log.write("noise")
            dma.MOST_RECORDS, before = 4, dma.MOST_RECORDS
            try:
                it.log.write(LINE)
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                assert it.reports == []
                for _ in range(10):
                    await asyncio.sleep(0)
                assert len(it.reports) == 1
            finally:
                dma.MOST_RECORDS = before

    run(body)


@pytest.mark.parametrize("end", ["error", "hang up"])
def test_a_log_that_breaks_is_told_once_and_left_alone(end: str) -> None:
    async def body() -> None:
        with capture_logs() as logs:
            async with watched() as it:
                it.detector.begin(1)
                if end == "error":
                    it.log.fail(errno.EIO)
                else:
                    it.log.hang_up()
                assert await it.read() == []
                assert not it.detector.watching
                it.detector.begin(2)
                it.detector.end()
        assert [one["log_level"] for one in logs] == ["warning"]

    run(body)


@pytest.mark.parametrize("path", ["missing", "file", "/dev/null"])
def test_without_a_kernel_log_nothing_is_watched_and_that_is_told(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no log")
    place = str(tmp_path / path)
    monkeypatch.setattr(dma, "KernelLog", lambda: KernelLog(place))

    async def body() -> None:
        before = open_descriptors()
        with capture_logs() as logs:
            detector = DmaDetector([OURS], SystemClock(), lambda _: None)
            detector.open()
            detector.begin(1)
            await asyncio.sleep(0.01)
            assert not detector.watching
            detector.close()
        assert [one["log_level"] for one in logs] == ["warning"]
        assert open_descriptors() == before

    run(body)


@pytest.mark.skipif(
    not os.access("/dev/kmsg", os.R_OK | os.W_OK) or os.geteuid() != 0, reason="needs root and a kernel log"
)
def test_the_machines_own_log_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process writes there is marked as such, and no proof of anything; unless this test says that it is."""
    device, line = "0000:ff:1f.7", f"DMAR: [DMA Write] Request device [ff:1f.7] fault addr {os.getpid():x} a unit test"

    async def body() -> list[FailureReport]:
        reports: list[FailureReport] = []
        detector = DmaDetector([device], SystemClock(), reports.append)
        detector.open()
        assert detector.watching
        try:
            detector.begin(1)
            Path("/dev/kmsg").write_text(f"<11>{line}\n")
            await asyncio.sleep(0.05)
            assert reports == []
            detector.begin(2)
            monkeypatch.setattr(dma, "_KERNEL_FACILITY", 1)
            await asyncio.sleep(0.05)
            assert reports == []
            Path("/dev/kmsg").write_text(f"<11>{line}\n")
            async with asyncio.timeout(10):
                while not reports:
                    await asyncio.sleep(0.01)
            return reports
        finally:
            detector.close()

    (report,) = run(body)
    assert report.incarnation == 2
    assert report.detail == {"address": hex(os.getpid()), "access": "write", "line": line, "count": 1}

"""The server of the userspace block device, with a test in the driver's place, and io_uring by itself."""

import mmap
import os
import struct
from collections import deque
from collections.abc import Iterator
from errno import EBUSY, EINVAL, EIO, ENODEV, EOPNOTSUPP, EROFS
from pathlib import Path
from typing import Any

import pytest
from block_fakes import receive_one_of_each

from nooks.endpoint import disk, ublk, ublk_control
from nooks.endpoint.front import FrontGone
from nooks.endpoint.ublk import DESCRIPTIONS_BYTES, TAGS, UblkFront
from nooks.endpoint.ublk_control import Shape
from nooks.endpoint.uring import Ring
from nooks.host.errors import MachineError
from nooks.xpc.block import REQUEST_BYTES_MAX

SIZE = 8 << 20
# include/uapi/linux/ublk_cmd.h: operations, a flag, results, and where a request's data are in the character device.
OP_READ, OP_WRITE, OP_FLUSH, OP_DISCARD, OP_ZEROES, FLAG_FUA = 0, 1, 2, 3, 5, 1 << 13
FETCH, COMMIT_AND_FETCH = 0xC0107520, 0xC0107521


def data_at(tag: int) -> int:
    return 0x80000000 + (tag << 25)


class Driver:
    """What is on the other side of a ring: keeps its commands, completes them, and gets them again with results."""

    def __init__(self, directory: Path, *, read_only: bool = False) -> None:
        self.device = os.open(directory / "ublkc0", os.O_RDWR | os.O_CREAT)
        os.ftruncate(self.device, DESCRIPTIONS_BYTES)
        self.descriptions = mmap.mmap(self.device, DESCRIPTIONS_BYTES)
        self.commands: dict[int, tuple[int, bytearray]] = {}
        self.queued: list[int] = []
        self.given: list[tuple[int, int, int]] = []
        self.completed: deque[tuple[int, int]] = deque()
        self.refuses = False
        self.front = UblkFront(os.dup(self.device), self, SIZE, read_only=read_only)  # type: ignore[arg-type]
        self.space = memoryview(bytearray(REQUEST_BYTES_MAX))

    def ask(self, tag: int, operation: int, offset: int = 0, length: int = 0, data: bytes = b"") -> None:
        struct.pack_into("=IIQQ", self.descriptions, tag * 24, operation, length // 512, offset // 512, 0)
        os.pwrite(self.device, data, data_at(tag))
        self.completed.append((tag, 0))

    def end(self) -> None:
        self.front.close()
        self.descriptions.close()
        os.close(self.device)

    # -- as a Ring ---------------------------------------------------------------------------------------------

    def fileno(self) -> int:
        return -1

    def place(self, index: int, descriptor: int, number: int, command: bytes) -> None:
        del descriptor
        self.commands[index] = number, bytearray(command)

    def renumber(self, index: int, number: int) -> None:
        self.commands[index] = number, self.commands[index][1]

    def write(self, index: int, offset: int, value: int) -> None:
        struct.pack_into("=i", self.commands[index][1], offset, value)

    def queue(self, index: int) -> None:
        self.queued.append(index)

    def submit(self) -> None:
        if self.refuses:
            raise OSError(EINVAL, "")
        for index in self.queued:
            number, command = self.commands[index]
            queue, tag, result, address = struct.unpack("=HHiQ", command)
            assert (queue, tag, address) == (0, index, 0)
            self.given.append((number, tag, result))
        self.queued.clear()

    def reap(self) -> tuple[int, int] | None:
        return self.completed.popleft() if self.completed else None

    def close(self) -> None:
        self.queued.clear()

    def answers(self) -> list[tuple[int, int]]:
        """The tags and results that were committed since last asked."""
        self.front.settle()
        given, self.given = self.given, []
        assert {number for number, _, _ in given} <= {COMMIT_AND_FETCH}
        return [(tag, result) for _, tag, result in given]


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    made = Driver(tmp_path)
    made.front.settle()
    assert made.given == [(FETCH, tag, 0) for tag in range(TAGS)]
    made.given.clear()
    yield made
    made.end()


def test_requests_arrive_as_what_they_are(driver: Driver) -> None:
    front, space = driver.front, driver.space
    front.discards = front.zeroes = True
    data = os.urandom(8192)
    assert front.receive(space) is None
    driver.ask(7, OP_READ, 4096, 512)
    driver.ask(127, OP_WRITE, 512, len(data), data)
    driver.ask(9, OP_WRITE | FLAG_FUA, 0, 512, bytes(512))
    driver.ask(10, OP_FLUSH)
    driver.ask(11, OP_DISCARD, 4096, 8192)
    driver.ask(12, OP_ZEROES, 512, 1024)
    receive_one_of_each(front, space, data, (7, 127, 9, 10, 11, 12))
    assert driver.answers() == []


def test_answers_go_back_in_any_order_with_their_data(driver: Driver) -> None:
    front = driver.front
    data = os.urandom(REQUEST_BYTES_MAX)
    driver.ask(1, OP_READ, 0, len(data))
    driver.ask(2, OP_WRITE, 0, 4096, bytes(4096))
    driver.ask(3, OP_FLUSH)
    handles = [arrival.handle for arrival in iter(lambda: front.receive(driver.space), None)]
    front.answer(handles[2], 0)
    front.answer(handles[1], EIO)
    front.answer(handles[0], 0, memoryview(data))
    assert driver.given == []  # another thread may have answered: nothing goes before it is settled
    assert driver.answers() == [(3, 0), (2, -EIO), (1, len(data))]
    assert os.pread(driver.device, len(data), data_at(1)) == data
    driver.ask(2, OP_WRITE, 0, 512, bytes(512))
    arrival = front.receive(driver.space)
    assert arrival is not None
    front.answer(arrival.handle, 0)
    assert driver.answers() == [(2, 512)]


def test_what_the_device_can_not_do_is_refused(driver: Driver) -> None:
    front = driver.front
    driver.ask(1, OP_READ, SIZE - 512, 1024)
    driver.ask(2, OP_WRITE, 0, REQUEST_BYTES_MAX + 512)
    driver.ask(3, 9)
    driver.ask(4, OP_DISCARD, 0, 4096)
    front.read_only = False
    assert front.receive(driver.space) is None
    assert driver.answers() == [(1, -EIO), (2, -EIO), (3, -EINVAL), (4, -EINVAL)]
    front.discards = True
    driver.ask(5, OP_DISCARD, 512, 4096)
    assert front.receive(driver.space) is None
    front.read_only = True
    for tag, operation in enumerate((OP_WRITE, OP_ZEROES, OP_DISCARD), 6):
        driver.ask(tag, operation, 0, 4096, bytes(4096))
    assert front.receive(driver.space) is None
    assert driver.answers() == [(5, -EINVAL), (6, -EROFS), (7, -EROFS), (8, -EROFS)]


def test_data_that_do_not_come_are_an_error(driver: Driver) -> None:
    driver.ask(127, OP_WRITE, 0, 8192, b"too little")
    assert driver.front.receive(driver.space) is None
    assert driver.answers() == [(127, -EIO)]


def test_a_device_that_is_taken_away_ends_it(driver: Driver) -> None:
    driver.completed.append((0, -ENODEV))
    with pytest.raises(FrontGone):
        driver.front.receive(driver.space)
    driver.refuses = True
    with pytest.raises(FrontGone):
        driver.front.settle()


class Control:
    """What is asked of /dev/ublk-control, and what it answers."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []
        self.devices: dict[int, bytes] = {}
        self.parameters = b""
        self.refusals: list[int] = []

    def ask(self, command: int, number: int, buffer: Any = None, *, value: int = 0) -> None:  # noqa: ANN401 - of ctypes
        del value
        self.asked.append((command & 0xFF, number))
        if self.refusals and (error := self.refusals.pop(0)):
            raise OSError(error, os.strerror(error))
        match command & 0xFF:
            case 0x02:  # GET_DEV_INFO
                if number not in self.devices:
                    raise OSError(ENODEV, "")
                buffer[: len(self.devices[number])] = self.devices[number]
            case 0x04:  # ADD_DEV
                made = bytearray(buffer.raw)
                struct.pack_into("=I", made, 12, 3)
                buffer[: len(made)] = bytes(made)
                self.devices[3] = bytes(made[:64])
            case 0x08:  # SET_PARAMS
                self.parameters = buffer.raw
            case _:
                pass


@pytest.fixture
def control(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Control:
    made = Control()
    monkeypatch.setattr(ublk_control, "_ask", made.ask)
    monkeypatch.setattr(ublk_control, "CONTROL", tmp_path)
    for module in (ublk, ublk_control):
        monkeypatch.setattr(module, "NODES", tmp_path)
    (tmp_path / "ublkc3").touch()
    return made


def test_a_device_is_known_again_by_its_name(control: Control) -> None:
    assert ublk_control.add("nooks-disk0") == 3
    queues, depth = struct.unpack_from("=HH", control.devices[3])
    flags = struct.unpack_from("=Q", control.devices[3], 24)[0]
    assert (queues, depth, flags) == (1, TAGS, 1 << 3 | 1 << 4 | 1 << 7)
    assert ublk_control.is_named(3, "nooks-disk0")
    assert not ublk_control.is_named(3, "nooks-disk1")
    assert not ublk_control.is_named(4, "nooks-disk0")


def test_only_a_dead_servers_device_is_taken_away(control: Control) -> None:
    ublk_control.add("nooks-disk0")
    path = Path("/dev/ublkb3")
    control.asked.clear()
    disk.detach_left(None, "disk0")
    disk.detach_left(path, "disk1")
    assert {command for command, _ in control.asked} == {0x02}
    disk.detach_left(path, "disk0")
    assert control.asked[-1] == (0x14, 3)
    control.devices[3] = control.devices[3][:4] + struct.pack("=H", 2) + control.devices[3][6:]  # its server is dead
    control.asked.clear()
    disk.detach_left(None, "disk1")
    assert (0x14, 3) not in control.asked
    disk.detach_left(None, "disk0")
    assert control.asked[-1] == (0x14, 3)


def test_an_older_kernel_deletes_in_another_way(control: Control) -> None:
    control.refusals = [EOPNOTSUPP]
    ublk_control.delete(3)
    assert control.asked == [(0x14, 3), (0x05, 3)]


def test_a_dead_servers_end_is_waited_for(control: Control) -> None:
    control.refusals = [EBUSY, EBUSY, 0]
    ublk_control.take_over(3)
    assert control.asked == [(0x10, 3)] * 3
    control.refusals = [ENODEV]
    with pytest.raises(OSError, match="No such device"):
        ublk_control.take_over(3)


def test_a_taking_over_that_was_broken_off_is_gone_on_with(control: Control) -> None:
    control.refusals = [EBUSY, EINVAL]
    ublk_control.take_over(3)
    assert control.asked == [(0x10, 3)] * 2


@pytest.mark.parametrize(("able", "discard_sectors", "zero_sectors"), [(True, 8388600, 8388600), (False, 0, 0)])
def test_a_device_has_the_shape_of_the_disk(
    control: Control, able: bool, discard_sectors: int, zero_sectors: int
) -> None:
    ublk_control.start(3, Shape(SIZE, 4096, read_only=not able, zeroes=able, discards=able))
    assert control.asked == [(0x08, 3), (0x06, 3)]
    length, kinds, attributes, logical, physical = struct.unpack_from("=IIIBB", control.parameters)
    most, _, sectors = struct.unpack_from("=IIQ", control.parameters, 16)
    granularity, discards, zeroes, segments = struct.unpack_from("=IIIH", control.parameters, 44)
    assert (length, kinds, logical, physical) == (60, 3, 12, 12)
    assert attributes == 4 | 8 | (0 if able else 1)
    assert (most, sectors) == (REQUEST_BYTES_MAX // 512, SIZE // 512)
    assert (granularity, discards, zeroes, segments) == (4096, discard_sectors, zero_sectors, int(able))


@pytest.fixture
def ring() -> Iterator[Ring]:
    try:
        made = Ring(4)
    except MachineError as error:
        pytest.skip(error.message)
    yield made
    made.close()
    made.close()


def test_commands_complete_once_each_as_often_as_they_are_given(ring: Ring) -> None:
    """The null device takes any command, and says that it was done (since Linux 6.1)."""
    null = os.open(os.devnull, os.O_RDWR)
    try:
        for index in range(4):
            ring.place(index, null if index else -1, 5, bytes(16))
        for _ in range(5):  # both queues are gone through more than once
            for index in (2, 0, 3):
                ring.queue(index)
            assert ring.reap() is None
            ring.submit()
            results = dict(iter(ring.reap, None))
            assert set(results) == {2, 0, 3}
            assert results[0] < 0
            assert results[2] == results[3] != results[0]
    finally:
        os.close(null)

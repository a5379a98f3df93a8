"""The vfio-user server: the protocol, memory that was granted and memory that was not, clients that come and go."""

import contextlib
import errno
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from vfio_client import MEMORY_BYTES, Bus, Client, RefusedError, bus, guest_memory

from nooks.hardware import protocol
from nooks.hardware.loop import Loop
from nooks.hardware.memory import DmaRefused, Refused
from nooks.hardware.misbehaviour import Kind, Misbehaviour
from nooks.hardware.pci import Bar, Identity, PciFunction
from nooks.hardware.protocol import CONFIG_REGION, Command


class Board(PciFunction):
    """A card with a little memory for registers, one of them an interrupt's level."""

    identity = Identity(0x1AF4, 0x1234, 0x0B4000, 7, 0x1AF4, 0x0001)
    bars = {0: Bar(64, io=True), 2: Bar(4096)}
    power_management = 0x40
    resets = 0

    def __init__(self, loop: Loop, refused: Refused) -> None:
        super().__init__(loop, refused)
        self.registers = bytearray(64)
        self.interrupts.vectors = 4

    def read(self, bar: int, offset: int, size: int) -> int:
        return int.from_bytes(self.registers[offset & 63 : (offset & 63) + size], "little")

    def write(self, bar: int, offset: int, size: int, value: int) -> None:
        self.registers[offset & 63 : (offset & 63) + size] = value.to_bytes(size, "little")
        self.interrupts.set_level(bool(self.registers[0]))

    def reset(self) -> None:
        self.registers = bytearray(64)
        self.resets += 1


@pytest.fixture(params=[False, True], ids=["library", "python"])
def board(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bus]:
    with bus(tmp_path / "socket", Board, in_python=request.param) as made:
        yield made


def errno_of(call: pytest.ExceptionInfo[RefusedError]) -> int:
    return int(call.value.args[0])


def rung(event: int) -> bool:
    try:
        os.eventfd_read(event)
    except BlockingIOError:
        return False
    return True


def test_greeting_and_what_the_device_is(board: Bus) -> None:
    client = Client(board.path, board.turn)
    board.clients.append(client)
    board.turn()
    answer = client.greet()
    assert answer[:4] == protocol.VERSION.pack(0, 0)
    assert answer.endswith(b"\0")
    flags, regions, irqs = protocol.DEVICE_INFO.unpack(client.call(Command.DEVICE_GET_INFO, bytes(16)))[1:]
    assert (flags, regions, irqs) == (2, 9, 5)
    sizes = {}
    for index in range(9):
        payload = protocol.REGION_INFO.pack(32, 0, index, 0, 0, 0)
        info = protocol.REGION_INFO.unpack(client.call(Command.DEVICE_GET_REGION_INFO, payload))
        sizes[index] = info[4]
    assert {index: size for index, size in sizes.items() if size} == {0: 64, 2: 4096, 7: 256}


def test_nothing_before_the_version(board: Bus) -> None:
    client = Client(board.path, board.turn)
    board.clients.append(client)
    board.turn()
    with pytest.raises(ConnectionError):
        client.call(Command.DEVICE_GET_INFO, bytes(16))
    assert not board.server.connected


def test_configuration_space(board: Bus) -> None:
    client = board.connect(master=False)
    assert client.read(CONFIG_REGION, 0, 4) == 0x12341AF4
    client.write(CONFIG_REGION, 0, 4, 0)
    assert client.read(CONFIG_REGION, 0, 4) == 0x12341AF4
    client.write(CONFIG_REGION, 4, 2, 0xFFFF)
    assert client.read(CONFIG_REGION, 4, 2) == 0x157  # bit 10, which forbids INTx, is not one of this card's
    for at, size in ((0x10, 0xFFFFFFC1), (0x14, 0), (0x18, 0xFFFFF000)):
        client.write(CONFIG_REGION, at, 4, 0xFFFFFFFF)
        assert client.read(CONFIG_REGION, at, 4) == size
    assert client.read(CONFIG_REGION, 0x34, 1) == 0x40


def test_registers_in_all_sizes(board: Bus) -> None:
    client = board.connect()
    client.write(2, 8, 4, 0x11223344)
    assert client.read(0, 8, 4) == 0x11223344
    assert client.read(0, 9, 2) == 0x2233
    client.write(2, 13, 8, 0x8877665544332211)
    assert client.read(0, 13, 8) == 0x8877665544332211


@pytest.mark.parametrize(("region", "offset", "count"), [(0, 64, 1), (0, 61, 4), (1, 0, 1), (9, 0, 1), (7, 255, 2)])
def test_accesses_outside_of_a_region(board: Bus, region: int, offset: int, count: int) -> None:
    client = board.connect()
    with pytest.raises(RefusedError) as caught:
        client.read(region, offset, count)
    assert errno_of(caught) == errno.EINVAL
    with pytest.raises(RefusedError):
        client.write(region, offset, count, 0)
    with pytest.raises(RefusedError):
        client.read(region, 1 << 63, count)


def test_several_writes_in_one_message(board: Bus) -> None:
    client = board.connect()
    one = protocol.ONE_WRITE.pack(16, 2, 4, bytes([1, 2, 3, 4]) + bytes(4))
    two = protocol.ONE_WRITE.pack(20, 2, 2, bytes([5, 6]) + bytes(6))
    client.send(Command.REGION_WRITE_MULTI, protocol.WRITE_COUNT.pack(2) + one + two, flags=protocol.NO_REPLY)
    assert client.read(2, 16, 4) == 0x04030201
    assert client.read(2, 20, 4) == 0x0605
    with pytest.raises(RefusedError):
        client.call(Command.REGION_WRITE_MULTI, protocol.WRITE_COUNT.pack(3) + one + two)


def test_interrupts_are_masked_until_they_were_dealt_with(board: Bus) -> None:
    client = board.connect()
    event = client.take_intx()
    client.write(0, 0, 1, 1)
    assert rung(event)
    client.write(0, 0, 1, 0)
    client.write(0, 0, 1, 1)
    assert not rung(event)  # masked
    client.unmask()
    assert not rung(event)  # the driver may be about to take the level back
    time.sleep(0.005)
    board.turn()
    assert rung(event)
    client.write(0, 0, 1, 0)
    client.unmask()
    time.sleep(0.005)
    board.turn()
    assert not rung(event)
    client.write(0, 0, 1, 1)
    assert rung(event)
    os.close(event)


def test_a_level_that_is_there_when_the_client_comes(board: Bus) -> None:
    board.connect().write(0, 0, 1, 1)
    board.clients[0].close()
    client = board.connect()
    event = client.take_intx()
    assert rung(event)
    os.close(event)


def test_messages(board: Bus) -> None:
    client = board.connect()
    assert (
        protocol.IRQ_INFO.unpack(client.call(Command.DEVICE_GET_IRQ_INFO, protocol.IRQ_INFO.pack(16, 0, 1, 0)))[3] == 4
    )
    events = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2)]
    client.call(Command.DEVICE_SET_IRQS, protocol.IRQ_SET.pack(20, 0x24, 1, 1, 2), events)
    board.function.interrupts.notify(2)
    assert [rung(event) for event in events] == [False, True]
    client.call(Command.DEVICE_SET_IRQS, protocol.IRQ_SET.pack(20, 0x21, 1, 0, 0))
    board.function.interrupts.notify(2)
    assert not rung(events[1])
    with pytest.raises(RefusedError):
        client.call(Command.DEVICE_SET_IRQS, protocol.IRQ_SET.pack(20, 0x24, 1, 3, 2), events)
    for event in events:
        os.close(event)


def test_memory_is_reached_as_granted(board: Bus) -> None:
    client = board.connect()
    memory = board.function.memory
    memory.write(100, b"hello")
    assert board.memory[100:105] == b"hello"
    board.put(0x200, 1, 2, 0xFFFFFFFF)
    assert memory.read_words(0x200, 3) == (1, 2, 0xFFFFFFFF)
    memory.write_word(0x204, 7)
    assert board.words(0x200, 2) == (1, 7)
    client.call(Command.DMA_UNMAP, protocol.DMA_UNMAP.pack(24, 0, 0, MEMORY_BYTES))
    with pytest.raises(DmaRefused):
        memory.read(100, 5)
    assert board.refused == [(100, 5, "read")]


def test_what_was_not_granted_is_refused_counted_and_reported(board: Bus) -> None:
    board.connect()
    memory = board.function.memory
    for address, size in ((MEMORY_BYTES, 1), (MEMORY_BYTES - 2, 4), (1 << 63, 16)):
        with pytest.raises(DmaRefused):
            memory.write(address, bytes(size))
    assert memory.refusals == 3
    assert board.refused[1] == (MEMORY_BYTES - 2, 4, "write")


def test_read_only_grants_and_grants_without_memory(board: Bus) -> None:
    client = board.connect()
    extra = guest_memory(8192)
    client.map(extra, 1 << 30, 4096, access=1)
    memory = board.function.memory
    assert bytes(memory.read(1 << 30, 4)) == bytes(4)
    with pytest.raises(DmaRefused):
        memory.write(1 << 30, b"x")
    client.call(Command.DMA_MAP, protocol.DMA_MAP.pack(32, 3, 0, 1 << 31, 4096))
    with pytest.raises(DmaRefused):
        memory.read(1 << 31, 1)
    os.close(extra)


def test_a_buffer_over_several_grants(board: Bus) -> None:
    client = board.connect()
    extra = guest_memory(16384)
    for page, offset in enumerate((8192, 0)):  # behind an IOMMU pages lie anywhere
        client.map(extra, (1 << 32) + 4096 * page, 4096, offset)
    memory = board.function.memory
    memory.write((1 << 32) + 4094, b"abcd")
    assert os.pread(extra, 2, 8192 + 4094) + os.pread(extra, 2, 0) == b"abcd"
    assert bytes(memory.read((1 << 32) + 4093, 6)) == b"\0abcd\0"
    with pytest.raises(DmaRefused):
        memory.write((1 << 32) + 8190, b"abcd")
    assert os.pread(extra, 2, 4094) == b"\0\0"
    os.close(extra)


@pytest.mark.parametrize("case", ["short", "overlap", "file", "unsealed", "pipe"])
def test_grants_that_make_no_sense(board: Bus, case: str) -> None:
    client = board.connect()
    good = guest_memory(8192)
    other = guest_memory(8192, sealed=False)
    readable, writable = os.pipe()
    wrong: dict[str, tuple[int, int, int, int]] = {
        "short": (good, 1 << 30, 4096, 8192),
        "overlap": (good, MEMORY_BYTES - 4096, 8192, 0),
        "file": (good, 1 << 30, 0, 0),
        "unsealed": (other, 1 << 30, 4096, 0),
        "pipe": (readable, 1 << 30, 4096, 0),
    }
    descriptor, address, size, offset = wrong[case]
    with pytest.raises(RefusedError):
        client.map(descriptor, address, size, offset)
    assert client.read(CONFIG_REGION, 0, 2) == 0x1AF4
    for each in (good, other, readable, writable):
        os.close(each)


def test_without_being_master_nothing_is_reached_or_reported(board: Bus) -> None:
    board.connect(master=False)
    with pytest.raises(DmaRefused):
        board.function.memory.read(0, 4)
    assert not board.refused


def test_the_next_client_finds_the_card_as_the_last_one_left_it(board: Bus) -> None:
    first = board.connect()
    first.write(0, 8, 4, 0xDEADBEEF)
    waiting = Client(board.path, board.turn)  # two at a time there are not
    board.clients.append(waiting)
    waiting.send(Command.VERSION, protocol.VERSION.pack(0, 0))
    board.turn()
    waiting.socket.setblocking(False)
    with pytest.raises(BlockingIOError):
        waiting.socket.recv(1)
    waiting.close()
    first.close()
    second = board.connect(master=False)
    assert second.read(0, 8, 4) == 0xDEADBEEF
    assert second.read(CONFIG_REGION, 4, 2) == 0x3  # but for one thing: it may not reach memory
    assert not board.function.memory.enabled


def test_resets(board: Bus) -> None:
    client = board.connect()
    with pytest.raises(RefusedError) as caught:
        client.call(Command.DEVICE_RESET)
    assert errno_of(caught) == errno.ENOTSUP
    client.write(0, 8, 4, 5)
    client.write(CONFIG_REGION, 0x44, 1, 3)
    client.write(CONFIG_REGION, 0x44, 1, 0)  # D3hot to D0
    assert client.read(0, 8, 4) == 0
    assert client.read(CONFIG_REGION, 4, 2) == 0


def test_a_card_that_is_pulled_and_put_back(board: Bus) -> None:
    client = board.connect()
    client.write(0, 8, 4, 5)
    misbehaviour = Misbehaviour(board.function, board.server)
    misbehaviour.begin(Kind.PULLED, lasting=False)
    with pytest.raises(ConnectionError):
        client.read(0, 8, 4)
    assert board.server.absent
    misbehaviour.begin(Kind.NONE, lasting=False)
    assert board.connect().read(0, 8, 4) == 0


def test_registers_that_read_all_ones_until_the_card_is_reset(board: Bus) -> None:
    client = board.connect()
    misbehaviour = Misbehaviour(board.function, board.server)
    misbehaviour.begin(Kind.ALL_ONES, lasting=False)
    assert client.read(0, 8, 4) == 0xFFFFFFFF
    board.function.was_reset()
    assert client.read(0, 8, 4) == 0
    misbehaviour.begin(Kind.ALL_ONES, lasting=True)
    board.function.was_reset()
    assert client.read(0, 8, 2) == 0xFFFF


def test_interrupts_that_are_stuck_or_lost(board: Bus) -> None:
    client = board.connect()
    event = client.take_intx()
    misbehaviour = Misbehaviour(board.function, board.server)
    misbehaviour.begin(Kind.STUCK_INTERRUPT, lasting=True)
    for _ in range(3):
        assert rung(event)
        client.unmask()
        time.sleep(0.005)
        board.turn()
    misbehaviour.begin(Kind.LOST_INTERRUPT, lasting=True)
    rung(event)
    client.unmask()
    client.write(0, 0, 1, 1)
    assert not rung(event)
    misbehaviour.begin(Kind.NONE, lasting=True)
    assert rung(event)
    os.close(event)


def test_wrong_addresses_and_garbage(board: Bus) -> None:
    board.connect()
    memory = board.function.memory
    memory.write_word(64, 1)
    misbehaviour = Misbehaviour(board.function, board.server)
    misbehaviour.begin(Kind.WRONG_DMA, lasting=True)
    with pytest.raises(DmaRefused):
        memory.read(64, 4)
    misbehaviour.begin(Kind.GARBAGE, lasting=True)
    written = set()
    for _ in range(4):
        memory.write_word(64, 1)
        written.add(board.words(64, 1)[0])
    assert len(written) > 1


def test_a_client_that_does_not_read_is_dropped(board: Bus) -> None:
    client = board.connect()
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    client.socket.setblocking(False)
    request = protocol.HEADER.pack(1, Command.REGION_READ, 32, 0, 0) + protocol.ACCESS.pack(0, 7, 256)
    deadline = time.monotonic() + 10
    while board.server.connected:
        assert time.monotonic() < deadline
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            client.socket.send(request * 64)
        board.turn()
    board.connect()


@pytest.mark.parametrize(
    ("yields", "load", "answered"),
    [(False, 0.0, 1), (True, 0.0, 2), (True, 1000.0, 1)],
    ids=["keeps-a-clock", "yields", "busy-host"],
)
def test_what_a_domain_does_next_while_it_is_let_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, yields: bool, load: float, answered: int
) -> None:
    """Its next access is answered in the same turn, unless others would run instead."""
    access = protocol.ACCESS.pack(0, 2, 4)
    following = [access]
    with bus(tmp_path / "socket", Board, in_python=True) as board:
        client = board.connect()
        monkeypatch.setattr(Board, "yields", yields)
        monkeypatch.setattr(os, "getloadavg", lambda: (load, load, load))
        monkeypatch.setattr(os, "sched_yield", lambda: following and client.send(Command.REGION_READ, following.pop()))
        client.send(Command.REGION_READ, access)
        board.loop.turn(1.0)
        reply_bytes = protocol.READ_REPLY.size + 4
        assert len(client.socket.recv(4096)) == answered * reply_bytes
    assert len(following) == 2 - answered

"""The server of the network block device, with a test in the kernel's place, and what is asked of the kernel."""

import os
import socket
import struct
import threading
from collections.abc import Iterator
from errno import EINVAL, EIO, ENOSPC, EROFS
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from block_fakes import receive_one_of_each

from nooks.endpoint import disk, nbd_control, netlink, ublk_control
from nooks.endpoint.front import FrontGone
from nooks.endpoint.fuse_disk import FuseDisk
from nooks.endpoint.nbd import HAS_FLAGS, READ_ONLY, SEND_FLUSH, SEND_FUA, SEND_TRIM, SEND_WRITE_ZEROES, NbdFront
from nooks.endpoint.nbd_disk import NbdDisk
from nooks.endpoint.ublk_disk import UblkDisk
from nooks.xpc.block import FLUSH, REQUEST_BYTES_MAX, WRITE

SIZE = 8 << 20
# doc/proto.md: request magic, command flags, type, cookie, offset, length; simple reply magic, error, cookie.
REQUEST, REPLY = struct.Struct(">IHHQQI"), struct.Struct(">IIQ")
NBD_READ, NBD_WRITE, NBD_DISC, NBD_FLUSH, NBD_TRIM, NBD_ZEROES = 0, 1, 2, 3, 4, 6


class Kernel:
    """The other end of a front's connection."""

    def __init__(self, *, read_only: bool = False) -> None:
        self.front, self.end = NbdFront.create(SIZE, read_only=read_only)
        self.end.settimeout(10)
        self.space = memoryview(bytearray(REQUEST_BYTES_MAX))

    def ask(self, kind: int, cookie: int, offset: int = 0, length: int = 0, data: bytes = b"", flags: int = 0) -> None:
        self.end.sendall(REQUEST.pack(0x25609513, flags, kind, cookie, offset, length) + data)

    def answered(self) -> tuple[int, int]:
        """The error and the cookie of the next answer."""
        magic, error, cookie = REPLY.unpack(self.end.recv(REPLY.size, socket.MSG_WAITALL))
        assert magic == 0x67446698
        return error, cookie

    def close(self) -> None:
        self.end.close()
        self.front.close()


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    made = Kernel()
    yield made
    made.close()


def test_requests_arrive_as_what_they_are(kernel: Kernel) -> None:
    front, space = kernel.front, kernel.space
    front.discards = front.zeroes = True
    data = os.urandom(8192)
    assert front.receive(space) is None
    kernel.ask(NBD_READ, 7, 4096, 512)
    kernel.ask(NBD_WRITE, 8, 512, len(data), data)
    kernel.ask(NBD_WRITE, 9, 0, 512, bytes(512), flags=1)
    kernel.ask(NBD_FLUSH, 10)
    kernel.ask(NBD_TRIM, 11, 4096, 8192)
    kernel.ask(NBD_ZEROES, 12, 512, 1024)
    receive_one_of_each(front, space, data, range(7, 13))


def test_answers_go_back_in_any_order_with_their_data(kernel: Kernel) -> None:
    data = os.urandom(REQUEST_BYTES_MAX)
    answering = threading.Thread(
        target=lambda: (kernel.front.answer(2, EIO), kernel.front.answer(1, 0, memoryview(data)))
    )
    answering.start()
    assert kernel.answered() == (EIO, 2)
    assert kernel.answered() == (0, 1)
    assert kernel.end.recv(len(data), socket.MSG_WAITALL) == data
    answering.join()


def test_a_long_write_comes_whole(kernel: Kernel) -> None:
    data = os.urandom(REQUEST_BYTES_MAX)
    asking = threading.Thread(target=kernel.ask, args=(NBD_WRITE, 1, 0, len(data), data))
    asking.start()
    while (arrival := kernel.front.receive(kernel.space)) is None:
        pass
    asking.join()
    assert arrival == (WRITE, 0, REQUEST_BYTES_MAX, False, 1)
    assert kernel.space == data


@pytest.mark.parametrize(
    ("kind", "offset", "length", "error"),
    [
        (NBD_READ, SIZE - 512, 1024, EIO),
        (NBD_WRITE, SIZE, 512, EIO),
        (NBD_READ, 0, REQUEST_BYTES_MAX + 512, EIO),
        (NBD_WRITE, 0, REQUEST_BYTES_MAX + 4096, EIO),
        (NBD_TRIM, 0, 4096, EINVAL),
        (5, 0, 0, EINVAL),
    ],
)
def test_what_can_t_be_is_refused_and_the_next_request_is_understood(
    kernel: Kernel, kind: int, offset: int, length: int, error: int
) -> None:
    data = bytes(length) if kind == NBD_WRITE else b""

    def ask() -> None:
        kernel.ask(kind, 1, offset, length, data)
        kernel.ask(NBD_FLUSH, 2)

    asking = threading.Thread(target=ask)
    asking.start()
    while (arrival := kernel.front.receive(kernel.space)) is None:
        pass
    asking.join()
    assert arrival == (FLUSH, 0, 0, False, 2)
    assert kernel.answered() == (error, 1)


def test_a_read_only_device_refuses_writes() -> None:
    kernel = Kernel(read_only=True)
    kernel.ask(NBD_WRITE, 1, 0, 512, bytes(512))
    assert kernel.front.receive(kernel.space) is None
    assert kernel.answered() == (EROFS, 1)
    kernel.close()


@pytest.mark.parametrize("how", ["closed", "disconnected", "torn head", "torn data", "nonsense"])
def test_the_end_of_the_device_is_told(kernel: Kernel, how: str) -> None:
    if how == "disconnected":
        kernel.ask(NBD_DISC, 1)
    elif how == "torn head":
        kernel.end.sendall(bytes(10))
    elif how == "torn data":
        kernel.ask(NBD_WRITE, 1, 0, 4096, bytes(100))
    elif how == "nonsense":
        kernel.end.sendall(bytes(REQUEST.size))
    if how != "disconnected":
        kernel.end.close()
    with pytest.raises(FrontGone):
        kernel.front.receive(kernel.space)
    kernel.front.answer(1, 0, memoryview(bytes(512)))  # nobody waits for it: no error


def test_the_kernel_is_told_what_the_device_can_do(kernel: Kernel) -> None:
    plain = HAS_FLAGS | SEND_FLUSH | SEND_FUA
    assert kernel.front.flags == plain
    kernel.front.zeroes = kernel.front.discards = kernel.front.read_only = True
    assert kernel.front.flags == plain | SEND_TRIM | SEND_WRITE_ZEROES | READ_ONLY


def test_nothing_of_one_answer_is_left_for_the_next_question() -> None:
    with netlink.generic_socket() as connection:
        numbers = [netlink.family_number(connection, "nlctrl") for _ in range(3)]
        assert numbers == [16, 16, 16]  # GENL_ID_CTRL
        with pytest.raises(BlockingIOError):
            connection.recv(1, socket.MSG_DONTWAIT)
        with pytest.raises(FileNotFoundError):
            netlink.family_number(connection, "no such family")


class Netlink:
    """Keeps what generic netlink is asked, and fails as often as it is told."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, dict[int, bytes]]] = []
        self.errors: list[int] = []

    def exchange(self, connection: Any, request: bytes) -> Iterator[tuple[int, bytes]]:  # noqa: ANN401
        del connection
        ((kind, body),) = netlink.messages(request)
        assert kind == 99
        self.asked.append((body[0], netlink.generic_attributes(body)))
        if self.errors:
            code = self.errors.pop(0)
            raise OSError(code, os.strerror(code))
        yield kind, netlink.generic(1, netlink.attribute(1, struct.pack("=I", 5)))


@pytest.fixture
def kernels_netlink(monkeypatch: pytest.MonkeyPatch) -> Netlink:
    made = Netlink()
    monkeypatch.setattr(netlink, "exchange", made.exchange)
    monkeypatch.setattr(netlink, "family_number", Mock(return_value=99))
    monkeypatch.setattr(nbd_control, "sleep", Mock())
    return made


def test_a_device_is_asked_for_with_all_that_it_is(kernels_netlink: Netlink) -> None:
    assert nbd_control.connect(77, "nooks-disk0", size_bytes=SIZE, block_bytes=512, flags=13) == 5
    ((command, asked),) = kernels_netlink.asked
    assert command == 1
    numbers = {kind: netlink.number(asked[kind]) for kind in (2, 3, 4, 5, 8)}
    assert numbers == {2: SIZE, 3: 512, 4: 0, 5: 13, 8: nbd_control.RECONNECT_SECONDS}
    assert netlink.text(asked[10]) == "nooks-disk0"
    (item,) = netlink.attributes(asked[7]).values()
    assert netlink.number(netlink.attributes(item)[1]) == 77


def test_another_connection_waits_until_the_kernel_has_noticed_the_end_of_the_first(kernels_netlink: Netlink) -> None:
    kernels_netlink.errors = [ENOSPC, ENOSPC]
    nbd_control.reconnect(3, "nooks-disk0", 77)
    assert [command for command, _ in kernels_netlink.asked] == [3, 3, 3]
    assert netlink.number(kernels_netlink.asked[-1][1][1]) == 3
    kernels_netlink.errors = [EINVAL]
    with pytest.raises(OSError, match="Invalid"):
        nbd_control.reconnect(3, "nooks-disk0", 77)


def test_a_device_that_has_become_another_s_is_left_alone(
    kernels_netlink: Netlink, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(nbd_control, "SYSFS", tmp_path)
    (tmp_path / "nbd3").mkdir()
    (tmp_path / "nbd3/backend").write_text("nooks-other\n")
    disk.detach_left(Path("/dev/nbd3"), "disk0")
    disk.detach_left(Path("/dev/nbd4"), "disk0")
    assert not kernels_netlink.asked
    (tmp_path / "nbd3/backend").write_text("nooks-disk0\n")
    disk.detach_left(Path("/dev/nbd3"), "disk0")
    assert [command for command, _ in kernels_netlink.asked] == [2]


@pytest.mark.parametrize(
    ("release", "has", "expected"),
    [
        ("6.12.0", {"nbd", "ublk"}, "ublk"),
        ("6.9.0", {"nbd"}, "fuse"),
        ("6.18.44-x", set[str](), "fuse"),
        ("6.1.0-56-amd64", {"nbd"}, "nbd"),
        ("6.1.0-56-amd64", set[str](), "fuse-without-resend"),
    ],
)
def test_the_endpoint_is_one_that_outlives_the_supervisor(
    monkeypatch: pytest.MonkeyPatch, release: str, has: set[str], expected: str
) -> None:
    monkeypatch.setattr(os, "uname", lambda: type("", (), {"release": release}))
    monkeypatch.setattr(nbd_control, "is_there", Mock(return_value="nbd" in has))
    monkeypatch.setattr(ublk_control, "is_there", Mock(return_value="ublk" in has))
    monkeypatch.setattr(UblkDisk, "create", Mock(return_value="ublk"))
    monkeypatch.setattr(FuseDisk, "create", Mock(return_value="fuse"))
    assert disk.kind() == expected
    made = disk.create("disk0", SIZE, removable=False)
    assert disk.kind(removable=True) != "ublk"
    assert isinstance(made, NbdDisk) == (expected == "nbd")
    if isinstance(made, NbdDisk):
        made.close()

"""One connection of a vfio-user client: its messages, answered for a PCI function.

A client is mistrusted. Whatever it sends, at worst it is told an errno or is disconnected.
"""

import array
import errno
import os
import socket
import time
from collections.abc import Callable, Sequence

from nooks.hardware import protocol
from nooks.hardware.pci import CONFIG_BYTES, PciFunction
from nooks.hardware.protocol import (
    ACCESS,
    CONFIG_REGION,
    HEADER,
    MAX_TRANSFER_BYTES,
    MESSAGE_BYTES_MAX,
    NO_REPLY,
    READ_REPLY,
    REPLY,
    TYPE_MASK,
    Command,
    DeviceFlags,
    DmaFlags,
    RegionFlags,
    is_natural,
    pieces,
)
from nooks.host.pace import load_factor

_BUFFER_BYTES = 4 * MESSAGE_BYTES_MAX
_ANCILLARY_BYTES = socket.CMSG_SPACE(4 * protocol.DESCRIPTORS_MAX)

YIELDS = 2
"""So often others are let run, and nothing has come, before a card sleeps."""
_LOOKS_PER_TURN = 16
_CROWD, _CROWD_SECONDS = 2.0, 1.0
"""With more threads that want each processor nobody is let run before us: who sleeps is woken before those who compute.
So often that is looked at."""

_READ, _WRITE = int(Command.REGION_READ), int(Command.REGION_WRITE)
_HEADER_BYTES, _ACCESS_BYTES = HEADER.size, ACCESS.size
_CLOSE_ON_EXEC, _TRUNCATED = int(socket.MSG_CMSG_CLOEXEC), int(socket.MSG_CTRUNC)
"""Plain integers, as everything that each access to a register meets: an enumeration's operators take a microsecond."""


class Violation(Exception):  # noqa: N818 - what a client did
    """A client does not keep to the protocol so badly that nothing more can be understood."""


class Client:
    """One connection. ``serve`` raises Violation or OSError when it is to be dropped."""

    def __init__(self, connection: socket.socket, function: PciFunction) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._function = function
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._have = 0
        self._descriptors: list[int] = []
        self._greeted = False
        self._look_again = 0.0
        self._crowded = False
        self._region_bytes = {CONFIG_REGION: CONFIG_BYTES} | {number: bar.size for number, bar in function.bars.items()}
        self._handlers: dict[int, Callable[[memoryview, list[int]], bytes]] = {
            Command.VERSION: self._version,
            Command.DMA_MAP: self._dma_map,
            Command.DMA_UNMAP: self._dma_unmap,
            Command.DEVICE_GET_INFO: self._device_info,
            Command.DEVICE_GET_REGION_INFO: self._region_info,
            Command.DEVICE_GET_IRQ_INFO: self._irq_info,
            Command.DEVICE_SET_IRQS: self._set_irqs,
            Command.DEVICE_RESET: self._reset,
            Command.REGION_WRITE_MULTI: self._write_multi,
        }

    def fileno(self) -> int:
        """The connection's descriptor."""
        return self._socket.fileno()

    def close(self) -> None:
        """End the connection."""
        self._close_descriptors()
        self._socket.close()

    # -- messages -----------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Take what has arrived and answer it; of a function that wants it so, also what that leads to.

        A driver's next access to a register often comes of the answer to the last one. If its virtual processor shares
        one of the host's with us, letting it run and looking again takes half as long as to sleep and be woken.
        """
        self._serve()
        self._function.idle()

    def _serve(self) -> None:
        if not self._function.yields:
            self._receive()
            return
        left = YIELDS
        for _ in range(_LOOKS_PER_TURN):
            if self._receive():
                left = YIELDS
            elif not left or not self._yield():
                return
            else:
                left -= 1

    def _yield(self) -> bool:
        """Let others run; False: it is to be left, since they would be others than the domain."""
        now = time.monotonic()
        if now >= self._look_again:
            self._look_again = now + _CROWD_SECONDS
            self._crowded = load_factor() > _CROWD
        if not self._crowded:
            os.sched_yield()
        return not self._crowded

    def _receive(self) -> bool:
        """Deal with what is there; False: nothing is."""
        try:
            count, ancillary, flags, _ = self._socket.recvmsg_into(
                [self._view[self._have :]], _ANCILLARY_BYTES, _CLOSE_ON_EXEC
            )
        except BlockingIOError:
            return False
        if ancillary:
            self._take_descriptors(ancillary)
        if flags & _TRUNCATED or len(self._descriptors) > protocol.DESCRIPTORS_MAX:
            raise Violation("too many descriptors")
        if not count:
            raise Violation("the client has gone")
        self._consume(self._have + count)
        return True

    def _consume(self, end: int) -> None:
        """Deal with every whole message in the buffer's first ``end`` bytes; the rest waits for more."""
        at = 0
        while end - at >= _HEADER_BYTES:
            message_id, command, size, flags, _ = HEADER.unpack_from(self._buffer, at)
            if not _HEADER_BYTES <= size <= MESSAGE_BYTES_MAX:
                raise Violation(f"a message of {size} bytes")
            if end - at < size:
                break
            body = at + _HEADER_BYTES
            at += size
            # Descriptors come with the last bytes of one reading (unix(7)), so with this message or a later one.
            self._answer(message_id, command, flags, body, at, last=at == end)
        if at < end:
            self._buffer[: end - at] = self._buffer[at:end]
        self._have = end - at

    def _answer(self, message_id: int, command: int, flags: int, body: int, end: int, *, last: bool) -> None:
        if flags & TYPE_MASK:
            raise Violation("a reply to nothing")
        try:
            if command == _READ:
                reply = self._region_read(message_id, body, end)
            elif command == _WRITE:
                access = self._region_write(body, end)
                if flags & NO_REPLY:
                    return
                reply = READ_REPLY.pack(message_id, _WRITE, READ_REPLY.size, REPLY, 0, *access)
            else:
                reply = protocol.answer(message_id, command, self._handle(command, body, end, last=last))
        except OSError as error:
            reply = protocol.refusal(message_id, command, error.errno or errno.EINVAL)
        if not flags & NO_REPLY:
            self._send(reply)

    def _send(self, reply: bytes) -> None:
        """A client that does not read what it asked for is dropped."""
        try:
            sent = self._socket.send(reply)
        except BlockingIOError:
            sent = 0
        if sent != len(reply):
            raise Violation("the client does not read its answers")

    def _handle(self, command: int, body: int, end: int, *, last: bool) -> bytes:
        handler = self._handlers.get(command)
        if handler is None:
            raise OSError(errno.ENOSYS, "not offered")
        if not self._greeted and command != Command.VERSION:
            raise Violation("the version comes first")
        descriptors: list[int] = []
        if last:
            descriptors, self._descriptors = self._descriptors, descriptors
        try:
            return handler(self._view[body:end], descriptors)
        finally:
            for descriptor in descriptors:  # what a handler took over is no longer in the list
                os.close(descriptor)

    def _take_descriptors(self, ancillary: Sequence[tuple[int, int, bytes]]) -> None:
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(data[: len(data) // numbers.itemsize * numbers.itemsize])
                self._descriptors.extend(numbers)

    def _close_descriptors(self) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = []

    # -- registers ----------------------------------------------------------------------------------------------

    def _region_read(self, message_id: int, body: int, end: int) -> bytes:
        offset, region, count = self._access(body, end)
        if region == CONFIG_REGION:
            data = self._function.read_config(offset, count)
        elif is_natural(offset, count):
            data = self._function.read_register(region, offset, count).to_bytes(count, "little")
        else:
            read = self._function.read_register
            data = b"".join([read(region, at, size).to_bytes(size, "little") for at, size in pieces(offset, count)])
        return READ_REPLY.pack(message_id, _READ, READ_REPLY.size + count, REPLY, 0, offset, region, count) + data

    def _region_write(self, body: int, end: int) -> tuple[int, int, int]:
        offset, region, count = access = self._access(body, end)
        start = body + _ACCESS_BYTES
        if end - start != count:
            raise OSError(errno.EINVAL, "not as many bytes as announced")
        self._write(region, offset, self._view[start:end])
        return access

    def _write(self, region: int, offset: int, data: memoryview) -> None:
        count = len(data)
        if region == CONFIG_REGION:
            self._function.write_config(offset, bytes(data))
        elif is_natural(offset, count):
            self._function.write(region, offset, count, int.from_bytes(data, "little"))
        else:
            for at, size in pieces(offset, count):
                first = at - offset
                self._function.write(region, at, size, int.from_bytes(data[first : first + size], "little"))

    def _access(self, body: int, end: int) -> tuple[int, int, int]:
        """Offset, region and count of an access that lies inside a region. Raises OSError for another."""
        if not self._greeted:
            raise Violation("the version comes first")
        if end - body < _ACCESS_BYTES:
            raise OSError(errno.EINVAL, "no access")
        access = offset, region, count = ACCESS.unpack_from(self._buffer, body)
        self._check(offset, region, count)
        return access

    def _check(self, offset: int, region: int, count: int) -> None:
        if not 0 < count <= MAX_TRANSFER_BYTES or offset + count > self._region_bytes.get(region, 0):
            raise OSError(errno.EINVAL, "outside of the region")

    def _write_multi(self, payload: memoryview, descriptors: list[int]) -> bytes:
        (count,) = protocol.WRITE_COUNT.unpack(
            _exactly(payload[: protocol.WRITE_COUNT.size], protocol.WRITE_COUNT.size)
        )
        writes = payload[protocol.WRITE_COUNT.size :]
        if count > protocol.WRITES_MAX or len(writes) != count * protocol.ONE_WRITE.size:
            raise OSError(errno.EINVAL, "not as many writes as announced")
        for offset, region, size, data in protocol.ONE_WRITE.iter_unpack(writes):
            if size > len(data):
                raise OSError(errno.EINVAL, "a write of more than 8 bytes")
            self._check(offset, region, size)
            self._write(region, offset, memoryview(data)[:size])
        return b""

    # -- the device ---------------------------------------------------------------------------------------------

    def _version(self, payload: memoryview, descriptors: list[int]) -> bytes:
        if self._greeted or len(payload) < protocol.VERSION.size:
            raise Violation("another version")
        major, _ = protocol.VERSION.unpack_from(payload)
        if major != protocol.MAJOR:
            raise OSError(errno.ENOTSUP, "an unknown major version")
        self._greeted = True
        return protocol.VERSION.pack(protocol.MAJOR, protocol.MINOR) + protocol.capabilities()

    def _device_info(self, payload: memoryview, descriptors: list[int]) -> bytes:
        flags = DeviceFlags.PCI | (DeviceFlags.RESET if self._function.resettable else 0)
        return protocol.DEVICE_INFO.pack(protocol.DEVICE_INFO.size, flags, protocol.REGIONS, protocol.IRQS)

    def _region_info(self, payload: memoryview, descriptors: list[int]) -> bytes:
        index = protocol.REGION_INFO.unpack(_exactly(payload, protocol.REGION_INFO.size))[2]
        if index >= protocol.REGIONS:
            raise OSError(errno.EINVAL, "no such region")
        size = self._region_bytes.get(index, 0)
        flags = RegionFlags.READ | RegionFlags.WRITE if size else 0
        return protocol.REGION_INFO.pack(protocol.REGION_INFO.size, flags, index, 0, size, 0)

    def _irq_info(self, payload: memoryview, descriptors: list[int]) -> bytes:
        index = protocol.IRQ_INFO.unpack(_exactly(payload, protocol.IRQ_INFO.size))[2]
        if index >= protocol.IRQS:
            raise OSError(errno.EINVAL, "no such interrupt")
        flags, count = self._function.interrupts.info(index)
        return protocol.IRQ_INFO.pack(protocol.IRQ_INFO.size, flags, index, count)

    def _set_irqs(self, payload: memoryview, descriptors: list[int]) -> bytes:
        if len(payload) < protocol.IRQ_SET.size:
            raise OSError(errno.EINVAL, "too short")
        _, flags, index, start, count = protocol.IRQ_SET.unpack_from(payload)
        for taken in self._function.interrupts.set(index, flags, start, count, tuple(descriptors)):
            descriptors.remove(taken)
        return b""

    def _reset(self, payload: memoryview, descriptors: list[int]) -> bytes:
        if not self._function.resettable:
            raise OSError(errno.ENOTSUP, "this card can't be reset")
        self._function.reset_function()
        return b""

    def _dma_map(self, payload: memoryview, descriptors: list[int]) -> bytes:
        _, flags, offset, address, size = protocol.DMA_MAP.unpack(_exactly(payload, protocol.DMA_MAP.size))
        memory = self._function.memory
        if memory.grants >= protocol.DMA_MAPS_MAX:
            raise OSError(errno.ENOSPC, "too many grants")
        access = bool(flags & DmaFlags.READ), bool(flags & DmaFlags.WRITE)
        try:
            memory.grant(address, size, offset, descriptors[0] if descriptors else None, access)
        except (ValueError, OverflowError) as error:  # mmap's, of a file that can't be mapped
            raise OSError(errno.EINVAL, str(error)) from None
        return b""

    def _dma_unmap(self, payload: memoryview, descriptors: list[int]) -> bytes:
        if len(payload) < protocol.DMA_UNMAP.size:
            raise OSError(errno.EINVAL, "too short")
        _, flags, address, size = protocol.DMA_UNMAP.unpack_from(payload)
        if flags & DmaFlags.UNMAP_ALL:
            self._function.memory.withdraw_all()
        else:
            self._function.memory.withdraw(address, size)
        return bytes(payload[: protocol.DMA_UNMAP.size])


def _exactly(payload: memoryview, size: int) -> bytes:
    """The first ``size`` bytes. Raises OSError if there are fewer; more may be a newer client's."""
    if len(payload) < size:
        raise OSError(errno.EINVAL, "too short")
    return bytes(payload[:size])

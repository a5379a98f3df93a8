"""One connection of a vfio-user client: its messages, answered for a PCI function.

A client is mistrusted. Whatever it sends, at worst it is told an errno or is disconnected.
"""

import errno
import os
import socket
import time
from collections.abc import Callable

from nooks.hardware import protocol
from nooks.hardware.messages import MESSAGE, NOTHING, READ, VIOLATIONS, WRITE, Message, Messages, Next, Violation
from nooks.hardware.pci import CONFIG_BYTES, PciFunction
from nooks.hardware.protocol import (
    ACCESS,
    CONFIG_REGION,
    MAX_TRANSFER_BYTES,
    NO_REPLY,
    TYPE_MASK,
    Command,
    DeviceFlags,
    DmaFlags,
    RegionFlags,
    pieces,
)
from nooks.host.pace import load_factor

YIELDS = 2
"""So often others are let run, and nothing has come, before a card sleeps."""
_CROWD, _CROWD_SECONDS = 2.0, 1.0
"""With more threads that want each processor nobody is let run before us: who sleeps is woken before those who compute.
So often that is looked at."""


class Client:
    """One connection; ``library`` is by which it takes messages. ``serve`` raises Violation or OSError when it is to be
    dropped."""

    def __init__(self, connection: socket.socket, function: PciFunction, library: Next | None = None) -> None:
        self._socket = connection
        self._messages = Messages(connection, library)
        self._function = function
        self._greeted = False
        self._look_again = 0.0
        self._crowded = False
        self._region_bytes = {CONFIG_REGION: CONFIG_BYTES} | {number: bar.size for number, bar in function.bars.items()}
        self._handlers: dict[int, Callable[[memoryview, list[int]], bytes]] = {
            Command.VERSION: self._version,
            Command.REGION_READ: self._region_read,
            Command.REGION_WRITE: self._region_write,
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
        self._messages.close()
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
        messages, function = self._messages, self._function
        following, access = messages.next, messages.state
        messages.begin(self._yields())
        kind = following(0)
        while kind != NOTHING:
            value = 0
            if kind == READ:
                value = function.read_register(access.region, access.offset, access.size)
            elif kind == WRITE:
                function.write(access.region, access.offset, access.size, access.value)
            elif kind == MESSAGE:
                self._answer(messages.take())
            else:
                raise Violation(VIOLATIONS[kind])
            kind = following(value)

    def _yields(self) -> int:
        """How often to let others run; not at all if they would be others than the domain."""
        if not self._function.yields:
            return 0
        now = time.monotonic()
        if now >= self._look_again:
            self._look_again = now + _CROWD_SECONDS
            self._crowded = load_factor() > _CROWD
        return 0 if self._crowded else YIELDS

    def _answer(self, message: Message) -> None:
        if message.flags & TYPE_MASK:
            raise Violation("a reply to nothing")
        try:
            reply = protocol.answer(message.message_id, message.command, self._handle(message))
        except OSError as error:
            reply = protocol.refusal(message.message_id, message.command, error.errno or errno.EINVAL)
        if not message.flags & NO_REPLY:
            self._messages.send(reply)

    def _handle(self, message: Message) -> bytes:
        handler = self._handlers.get(message.command)
        if handler is None:
            raise OSError(errno.ENOSYS, "not offered")
        if not self._greeted and message.command != Command.VERSION:
            raise Violation("the version comes first")
        descriptors = self._messages.take_descriptors() if message.last else []
        try:
            return handler(message.payload, descriptors)
        finally:
            for descriptor in descriptors:  # what a handler took over is no longer in the list
                os.close(descriptor)

    # -- accesses, but for those of a register, naturally aligned -----------------------------------------------

    def _region_read(self, payload: memoryview, descriptors: list[int]) -> bytes:
        offset, region, count = self._access(payload)
        if region == CONFIG_REGION:
            data = self._function.read_config(offset, count)
        else:
            read = self._function.read_register
            data = b"".join([read(region, at, size).to_bytes(size, "little") for at, size in pieces(offset, count)])
        return ACCESS.pack(offset, region, count) + data

    def _region_write(self, payload: memoryview, descriptors: list[int]) -> bytes:
        offset, region, count = self._access(payload)
        data = payload[ACCESS.size :]
        if len(data) != count:
            raise OSError(errno.EINVAL, "not as many bytes as announced")
        self._write(region, offset, data)
        return ACCESS.pack(offset, region, count)

    def _write(self, region: int, offset: int, data: memoryview) -> None:
        if region == CONFIG_REGION:
            self._function.write_config(offset, bytes(data))
            return
        for at, size in pieces(offset, len(data)):
            first = at - offset
            self._function.write(region, at, size, int.from_bytes(data[first : first + size], "little"))

    def _access(self, payload: memoryview) -> tuple[int, int, int]:
        """Offset, region and count of an access that lies inside a region. Raises OSError for another."""
        if len(payload) < ACCESS.size:
            raise OSError(errno.EINVAL, "no access")
        access = offset, region, count = ACCESS.unpack_from(payload)
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
        self._messages.open({number: bar.size for number, bar in self._function.bars.items()})
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

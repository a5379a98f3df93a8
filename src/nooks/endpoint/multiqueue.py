"""A TAP with two queues: one for the domain that serves, one for the spare that may follow it.

The descriptors stay here for the nook's whole life, so the interface keeps its carrier whatever becomes of the
domains; each queue is handed to a QEMU by inheritance. The spare's queue is detached until the failover
(Documentation/networking/tuntap.rst, "Multiqueue tuntap interface"). What the failed domain left in its queue is
taken out and sent again, into the queue of its successor.
"""

import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from nooks.endpoint import netns, rtnl
from nooks.endpoint.interface import Interface
from nooks.endpoint.steering import steer_to_newest, steer_to_oldest, stop_steering
from nooks.host.errors import InputError, MachineError, NooksError

QUEUES = 2
VNET_HEADER_BYTES = 12
"""struct virtio_net_hdr_v1, which ends with num_buffers: what a modern virtio device uses (Virtio 1.0, 5.1.6)."""

PACKET_HEADER_BYTES = 10
"""PF_PACKET's header is the same without num_buffers (linux/virtio_net.h)."""

OFFLOADS = 0x01 | 0x02 | 0x04 | 0x08
"""TUN_F_CSUM, TSO4, TSO6, TSO_ECN: what a Linux domain takes from a TAP (Documentation/networking/tuntap.rst)."""

SPARE_TEMPLATE = "nookspare%d"
"""The kernel fills in a number that is free."""

IFF_DETACH_QUEUE = 0x0400
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
_IFF_MULTI_QUEUE, _IFF_ATTACH_QUEUE = 0x0100, 0x0200
_IFF_VNET_HDR, _IFF_TUN_EXCL = 0x4000, 0x8000
_TUNSETIFF, _TUNGETIFF = 0x400454CA, 0x800454D2
_TUNSETOFFLOAD = 0x400454D0
_TUNSETVNETHDRSZ, _TUNSETQUEUE, _TUNSETCARRIER = 0x400454D8, 0x400454D9, 0x400454E2
_SIOCGSKNS = 0x894C
_SOL_PACKET, _PACKET_VNET_HDR, _PACKET_QDISC_BYPASS = 263, 15, 20
_FRAME_BYTES = 1 << 17
_MOST_FRAMES = 4096
"""More than a queue holds: an end for draining a queue that is still being filled."""


class EndpointGone(NooksError):  # noqa: N818 - the name says what happened
    """Somebody deleted the interface."""


@dataclass(frozen=True)
class Switch:
    """What a switch of queues did: frames moved from the old queue into the new one, and frames that were lost."""

    moved: int
    lost: int


class MultiQueueTap:
    """A TAP and its two queues' descriptors. Not persistent: it goes with the last descriptor."""

    def __init__(self, queue_fds: Sequence[int], *, vnet_header: bool, joined: bool = False, anchor: int = 0) -> None:
        """Takes over the descriptors of both queues; ``joined``: the TAP was there before.

        ``anchor`` is a queue that surely belongs to the TAP: an earlier process may have left the other ``apart``.
        Raises EndpointGone.
        """
        if len(queue_fds) != QUEUES:
            raise ValueError(f"{QUEUES} queues, not {len(queue_fds)}")
        self._fds = tuple(queue_fds)
        self.vnet_header = vnet_header
        self.joined = joined
        self._anchor = anchor
        self._sender: socket.socket | None = None
        try:
            self._namespace = fcntl.ioctl(self._fds[anchor], _SIOCGSKNS)
        except OSError as error:
            raise EndpointGone(f"the interface is gone: {error.strerror}", "start the nook again") from None
        os.set_inheritable(self._namespace, False)
        self.interface = Interface(self._current_name, self._namespace)
        self.lossless = steer_to_newest(self._fds[anchor])

    @classmethod
    def open(cls, name: str, *, namespace: int | None, vnet_header: bool, exclusive: bool) -> Self:
        """Make the TAP, or (unless ``exclusive``) join one that is there and nobody holds; queue 1 is detached.

        Raises InputError if another process holds the name or it is no such TAP, MachineError if TAPs are missing.
        """
        flags = _flags(vnet_header)
        joined = False
        fds: list[int] = []
        try:
            try:
                fds.append(_open_queue(name, flags | _IFF_TUN_EXCL, namespace))
            except OSError as error:
                if exclusive or error.errno != errno.EBUSY:
                    raise
                _must_be_free(name, namespace)
                fds.append(_open_queue(name, flags, namespace))
                joined = True
            fds.append(_open_queue(name, flags, namespace))
            if vnet_header:
                _set_header(fds[0])
            tap = cls(fds, vnet_header=vnet_header, joined=joined)
        except OSError as error:
            _close_all(fds)
            raise _refused(name, error) from None
        except BaseException:
            _close_all(fds)
            raise
        try:
            tap.detach(1)
        except BaseException:
            tap.close()
            raise
        return tap

    @property
    def queue_fds(self) -> tuple[int, ...]:
        """Both queues' descriptors, for the keeper and for QEMU to inherit. They stay this object's own."""
        return self._fds

    @property
    def namespace(self) -> int:
        """A descriptor of the namespace that the interface is in; it stays this object's own."""
        return self._namespace

    def attached(self, queue: int) -> bool:
        """Whether frames can come through this queue, as the kernel has it. Raises EndpointGone."""
        name, flags = self._query(queue)
        return name == self._current_name() and not flags & IFF_DETACH_QUEUE

    @contextlib.contextmanager
    def apart(self, queue: int) -> Generator[None]:
        """For the block, ``queue`` is a new descriptor on an interface of its own; then it is a detached queue here.

        A QEMU that starts sets its TAP's header length and offloads, which belong to the whole interface: on this one
        the live domain would read every frame two bytes off until the new one's state is loaded (QEMU, net/tap.c,
        net_tap_fd_init). The other queue must be attached. Raises EndpointGone.
        """
        self._anchor = 1 - queue
        fresh = _open_queue(SPARE_TEMPLATE, _flags(self.vnet_header), self._namespace)
        os.close(self._fds[queue])
        self._fds = (fresh, self._fds[1]) if queue == 0 else (self._fds[0], fresh)
        try:
            yield
        finally:
            self._bring_home(queue)

    def restore_header(self) -> None:
        """What ``apart`` avoids was done on this interface: make header and offloads what they should be."""
        if self.vnet_header:
            _set_header(self._fds[self._anchor])

    def _bring_home(self, queue: int) -> None:
        """Delete the queue's own interface and make it a queue of this one, through which no frame comes."""
        interface = Interface(lambda: self._query(queue)[0], self._namespace)
        try:
            rtnl.delete_link(interface.index, self._namespace)
        finally:
            interface.close()
        if self.lossless:
            steer_to_oldest(self._fds[self._anchor])
        try:
            name = self._current_name().encode()
            self._on_queue(queue, _TUNSETIFF, struct.pack("16sH22x", name, _flags(self.vnet_header)))
            self._set_queue(queue, IFF_DETACH_QUEUE)
        finally:
            steer_to_newest(self._fds[self._anchor])

    def attach(self, queue: int) -> None:
        """From now on this queue, as the newest, gets all of the host's frames; again is harmless."""
        if not self.attached(queue):
            self._set_queue(queue, _IFF_ATTACH_QUEUE)

    def detach(self, queue: int) -> None:
        """No frame comes through this queue any more, and what it holds is thrown away; again is harmless."""
        if self.attached(queue):
            self._set_queue(queue, IFF_DETACH_QUEUE)

    def drain(self, queue: int) -> list[bytes]:
        """Take out the frames that wait in a queue, with their vnet headers if the TAP has them.

        Only for the queue of a domain that is dead: a living one would read it as well.
        """
        frames: list[bytes] = []
        while len(frames) < _MOST_FRAMES:
            try:
                frames.append(os.read(self._fds[queue], _FRAME_BYTES))
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.EBADFD:  # what a queue whose interface was deleted says
                    raise
                break
        return frames

    def reinject(self, frames: Iterable[bytes]) -> int:
        """Send frames out of the interface again, as ``drain`` gave them; returns how many were taken.

        They pass neither traffic control nor packet captures a second time (PACKET_QDISC_BYPASS). Checksums to be
        filled in and segments to be cut stay so (PACKET_VNET_HDR).
        """
        taken = 0
        sender = self._packet_socket()
        for frame in frames:
            try:
                sender.send(self._for_packet_socket(frame))
            except OSError:  # switched off, the queue full, or shrunk below the frame: what happens to any frame then
                continue
            taken += 1
        return taken

    def _for_packet_socket(self, frame: bytes) -> bytes:
        return frame[:PACKET_HEADER_BYTES] + frame[VNET_HEADER_BYTES:] if self.vnet_header else frame

    def switch(self, to: int) -> Switch:
        """Make queue ``to`` the only one, and move to it what waits in the other, whose domain must be dead."""
        old = 1 - to
        if not self.attached(old):
            self.attach(to)
            return Switch(0, 0)
        self.detach(to)  # so that, attached again, it is the newest
        self.attach(to)
        frames = self.drain(old)
        moved = self.reinject(frames)
        late = self.drain(old)  # what was on its way into the old queue meanwhile
        self.detach(old)
        moved += self.reinject(late)
        return Switch(moved, len(frames) + len(late) - moved)

    def set_carrier(self, on: bool) -> None:
        """Plug or unplug the interface. Raises EndpointGone."""
        self._on_queue(self._anchor, _TUNSETCARRIER, struct.pack("i", int(on)))

    def close(self) -> None:
        """Close all; the interface goes unless somebody else holds it. Again is harmless."""
        if self._sender is not None:
            self._sender.close()
            self._sender = None
        if self._namespace >= 0:
            if self.joined:
                stop_steering(self._fds[0])
            self.interface.close()
            _close_all([*self._fds, self._namespace])
            self._fds = (-1, -1)
            self._namespace = -1

    def _current_name(self) -> str:
        return self._query(self._anchor)[0]

    def _query(self, queue: int) -> tuple[str, int]:
        answer = self._on_queue(queue, _TUNGETIFF, bytes(40))
        name, flags = struct.unpack_from("16sH", answer)
        return name.rstrip(b"\0").decode(), flags

    def _set_queue(self, queue: int, action: int) -> None:
        self._on_queue(queue, _TUNSETQUEUE, struct.pack("16sH22x", b"", action))

    def _on_queue(self, queue: int, number: int, argument: bytes) -> bytes:
        try:
            return fcntl.ioctl(self._fds[queue], number, argument)
        except OSError as error:
            raise EndpointGone(f"the interface is gone: {error.strerror}", "start the nook again") from None

    def _packet_socket(self) -> socket.socket:
        if self._sender is None:
            with netns.entered(self._namespace):
                sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
            sender.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)
            if self.vnet_header:
                sender.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
            sender.bind((self._current_name(), 0))
            self._sender = sender
        return self._sender


def _flags(vnet_header: bool) -> int:
    return _IFF_TAP | _IFF_NO_PI | _IFF_MULTI_QUEUE | (_IFF_VNET_HDR if vnet_header else 0)


def _set_header(queue: int) -> None:
    """Header length and offloads of a TAP, as a domain's QEMU would leave them."""
    fcntl.ioctl(queue, _TUNSETVNETHDRSZ, struct.pack("i", VNET_HEADER_BYTES))
    fcntl.ioctl(queue, _TUNSETOFFLOAD, OFFLOADS)


def _open_queue(name: str, flags: int, namespace: int | None) -> int:
    with netns.entered(namespace):
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    except OSError:
        os.close(fd)
        raise
    return fd


def _must_be_free(name: str, namespace: int | None) -> None:
    """A TAP of several queues would take one more from us while another process serves the others."""
    if any(link.queues for link in rtnl.links(namespace) if link.name == name):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


def _refused(name: str, error: OSError) -> NooksError:
    if error.errno == errno.EBUSY:
        return InputError(f"the interface {name} is there already, or another process holds it", "choose another name")
    if error.errno == errno.EINVAL:
        return InputError(
            f"{name} is no name for a TAP, or an interface of another kind",
            f"use another name, or make it so: ip tuntap add {name} mode tap multi_queue",
        )
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.ENOTTY):
        return MachineError("this kernel has no TAP interfaces", "modprobe tun")
    if error.errno in (errno.EPERM, errno.EACCES):
        return MachineError(f"no permission to make the interface {name}", "run as root")
    return MachineError(f"cannot make the interface {name}: {error.strerror}", "see 'nooks doctor'")


def _close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)

"""The other end of an emulated card's cable: a TAP of two queues, as at the host's end, but without vnet headers."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from nooks.endpoint import netns, slirp
from nooks.endpoint.multiqueue import QUEUES, MultiQueueTap
from nooks.endpoint.queues import Queues
from nooks.endpoint.slirp import Slirp
from nooks.host.errors import InputError, MachineError

QUEUE_FRAMES = 1000

_USER = "user"
_PRIVATE_TAP = "wire0"
_TAP = re.compile(r"tap:(?P<interface>[^\s/:@%]{1,15})(@(?P<namespace>[^\s/@]{1,255}))?")
_QUEUE, _NAMESPACE, _MADE, _EXIT, _PROCESS = "wire.queue", "wire.namespace", "wire.made", "wire.exit", "wire.process"


@dataclass(frozen=True)
class WireSpec:
    """``interface`` None: user-mode networking. ``namespace`` None: the host's own."""

    interface: str | None = None
    namespace: str | None = None


def parse_wire(text: str) -> WireSpec:
    """``user`` or ``tap:IFNAME[@NETNS]``. Raises InputError."""
    if text == _USER:
        return WireSpec()
    found = _TAP.fullmatch(text)
    if found is None or found["interface"] in (".", "..") or found["namespace"] in (".", ".."):
        raise InputError(f"{text!r} is no wire", "write user, tap:IFNAME or tap:IFNAME@NETNS")
    return WireSpec(found["interface"], found["namespace"])


class Wire(Queues):
    """The cable's TAP, and what it made to have one. Close it with ``close``; ``descriptors`` outlive this process."""

    def __init__(self, spec: WireSpec, tap: MultiQueueTap, namespace: int | None, made: bool) -> None:
        super().__init__(tap)
        self.spec = spec
        self._namespace = namespace
        self._made = made
        self._slirp: Slirp | None = None

    @classmethod
    async def open(cls, spec: WireSpec) -> Self:
        """Make what is missing: namespace, TAP, user-mode network. Queue 0 is attached.

        Raises InputError if the TAP is in use or no TAP with several queues, MachineError if the kernel or
        slirp4netns fails; nothing is left behind then.
        """
        namespace, made = _open_namespace(spec)
        try:
            wire = cls(spec, _open_tap(spec, namespace), namespace, made)
        except BaseException:
            if namespace is not None:
                os.close(namespace)
            if made and spec.namespace is not None:
                netns.remove(spec.namespace)
            raise
        try:
            if spec.interface is None and namespace is not None:
                wire._slirp = await slirp.start(namespace, _PRIVATE_TAP)
        except BaseException:
            await wire.close()
            raise
        return wire

    @classmethod
    def adopt(cls, spec: WireSpec, descriptors: Mapping[str, int]) -> Self:
        """Take over what ``descriptors`` of an earlier process said; they then belong to this object."""
        queues = [descriptors[f"{_QUEUE}{number}"] for number in range(QUEUES)]
        tap = MultiQueueTap(queues, vnet_header=False)
        made = descriptors.get(_MADE)
        wire = cls(spec, tap, made if made is not None else descriptors.get(_NAMESPACE), made is not None)
        if _EXIT in descriptors:
            wire._slirp = Slirp(descriptors[_PROCESS], descriptors[_EXIT], None)
        return wire

    @property
    def descriptors(self) -> dict[str, int]:
        """What the keeper must hold for ``adopt``, by the keeper's keys. They stay this object's own."""
        held = {f"{_QUEUE}{number}": fd for number, fd in enumerate(self.queue_fds)}
        if self._namespace is not None:
            held[_MADE if self._made else _NAMESPACE] = self._namespace
        if self._slirp is not None:
            held |= {_EXIT: self._slirp.exit_fd, _PROCESS: self._slirp.pidfd}
        return held

    async def close(self) -> None:
        """End the user-mode network, and remove the namespace if it was made here. Again is harmless."""
        self._tap.close()
        if self._slirp is not None:
            running, self._slirp = self._slirp, None
            await running.close()
        if self._namespace is not None:
            os.close(self._namespace)
            self._namespace = None
        if self._made and self.spec.namespace is not None:
            self._made = False
            netns.remove(self.spec.namespace)


def _open_namespace(spec: WireSpec) -> tuple[int | None, bool]:
    """The wire's namespace (None: the present one), and whether a named one was made."""
    if spec.interface is None:
        namespace = netns.empty_netns()
        slirp.prepare(namespace)
        return namespace, False
    if spec.namespace is None:
        return None, False
    made = not netns.exists(spec.namespace)
    if made:
        netns.make(spec.namespace)
    try:
        return netns.open_named(spec.namespace), made
    except BaseException:
        if made:
            netns.remove(spec.namespace)
        raise


def _open_tap(spec: WireSpec, namespace: int | None) -> MultiQueueTap:
    """The TAP, switched on; one that somebody made may have a user's settings, and keeps them."""
    name = spec.interface or _PRIVATE_TAP
    tap = MultiQueueTap.open(name, namespace=namespace, vnet_header=False, exclusive=False)
    try:
        if not tap.joined:
            tap.interface.queue_length = QUEUE_FRAMES
        tap.interface.up = True
    except OSError as error:
        tap.close()
        raise MachineError(f"cannot set up the wire {name}: {error.strerror}", "see 'nooks doctor'") from None
    except BaseException:
        tap.close()
        raise
    return tap

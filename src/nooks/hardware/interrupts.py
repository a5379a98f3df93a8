"""A function's interrupts: INTx, a level, and messages (MSI).

After each event of INTx the client has it masked, and unmasks it when the event was dealt with. An event is a write
to the eventfd that the client gave (VFIO_USER_DEVICE_SET_IRQS).
"""

import contextlib
import errno
import os
from collections.abc import Sequence

from nooks.hardware.loop import Loop, Timer
from nooks.hardware.protocol import Irq, IrqInfoFlags, IrqSetFlags

RETRIGGER_SECONDS = 0.001
"""QEMU unmasks at the driver's first access to a register, which is the question what happened; the answer that takes
the level back comes right after it. So an interrupt that is still wanted then is signalled a little later."""

VECTORS_MAX = 32
"""MSI has no more (PCI Local Bus Specification 3.0, 6.8.1)."""

_UNMASK = IrqSetFlags.ACTION_UNMASK | IrqSetFlags.DATA_EVENTFD


class Interrupts:
    """One function's lines to its client. ``vectors`` is how many messages (MSI) it has."""

    def __init__(self, loop: Loop, vectors: int = 0) -> None:
        self.vectors = vectors
        self.level = False
        self._wanted = False
        self._stuck = False
        self._lost = False
        self._loop = loop
        self._intx = -1
        self._masked = False
        self._unmask = -1
        self._messages: dict[int, int] = {}
        self._retrigger: Timer | None = None

    # -- the device's side --------------------------------------------------------------------------------------

    def set_level(self, level: bool) -> None:
        """Assert INTx or take it back."""
        self._wanted = level
        level = level or self._stuck
        if level == self.level:
            return
        self.level = level
        if level:
            self._signal()
        elif self._retrigger is not None:
            self._retrigger.cancel()
            self._retrigger = None

    def notify(self, vector: int = 0) -> None:
        """Send a message (MSI)."""
        descriptor = self._messages.get(vector)
        if descriptor is not None and not self._lost:
            _ring(descriptor)

    def misbehave(self, *, stuck: bool = False, lost: bool = False) -> None:
        """``stuck``: the level is asserted whatever the card does. ``lost``: no event reaches the client."""
        self._stuck, self._lost = stuck, lost
        self.set_level(self._wanted)
        self._signal()

    def _signal(self) -> None:
        """What a level does that is neither masked nor lost: an event, and then the client has it masked."""
        self._retrigger = None
        if self.level and not self._masked and not self._lost and self._intx >= 0:
            self._masked = True
            _ring(self._intx)

    # -- the client's side --------------------------------------------------------------------------------------

    def info(self, index: int) -> tuple[int, int]:
        """vfio_irq_info's flags and count."""
        if index == Irq.INTX:
            return IrqInfoFlags.EVENTFD | IrqInfoFlags.MASKABLE | IrqInfoFlags.AUTOMASKED, 1
        if index == Irq.MSI:
            return IrqInfoFlags.EVENTFD | IrqInfoFlags.NORESIZE, self.vectors
        return 0, 0

    def set(self, index: int, flags: int, start: int, count: int, descriptors: Sequence[int]) -> list[int]:
        """VFIO_USER_DEVICE_SET_IRQS; returns the descriptors that were taken over. Raises OSError."""
        available = self.info(index)[1]
        if start + count > available and count:
            raise OSError(errno.EINVAL, "no such interrupt")
        if index == Irq.INTX:
            return self._set_intx(flags, count, descriptors)
        if index == Irq.MSI and flags & IrqSetFlags.ACTION_TRIGGER:
            return self._set_messages(flags, start, count, descriptors)
        return []

    def _set_intx(self, flags: int, count: int, descriptors: Sequence[int]) -> list[int]:
        if flags & IrqSetFlags.ACTION_TRIGGER:
            if flags & IrqSetFlags.DATA_EVENTFD and descriptors:
                self._replace_intx(descriptors[0])
                return [descriptors[0]]
            if not count or flags & IrqSetFlags.DATA_EVENTFD:
                self._replace_intx(-1)
        elif flags & _UNMASK == _UNMASK:
            self._watch_unmasking(descriptors[0] if descriptors else -1)
            return list(descriptors[:1])
        elif flags & IrqSetFlags.ACTION_MASK:
            self._masked = True
        elif flags & IrqSetFlags.ACTION_UNMASK:
            self.unmask()
        return []

    def _set_messages(self, flags: int, start: int, count: int, descriptors: Sequence[int]) -> list[int]:
        numbers = range(start, start + count) if count else tuple(self._messages)
        if flags & IrqSetFlags.DATA_EVENTFD and len(descriptors) not in (0, count):
            raise OSError(errno.EINVAL, "a descriptor for each message, or none")
        for number in numbers:
            _close(self._messages.pop(number, -1))
        if not flags & IrqSetFlags.DATA_EVENTFD:
            return []
        self._messages |= dict(zip(numbers, descriptors, strict=False))
        return list(descriptors)

    def unmask(self) -> None:
        """The client has dealt with the last event."""
        self._masked = False
        if self.level and self._retrigger is None:
            self._retrigger = self._loop.call_at(self._loop.clock() + RETRIGGER_SECONDS, self._signal)

    def disconnect(self) -> None:
        """The client is gone, and all that it gave."""
        self._replace_intx(-1)
        self._watch_unmasking(-1)
        for descriptor in self._messages.values():
            _close(descriptor)
        self._messages = {}
        self._masked = False

    def _replace_intx(self, descriptor: int) -> None:
        _close(self._intx)
        self._intx = descriptor
        self._masked = False
        self._signal()

    def _watch_unmasking(self, descriptor: int) -> None:
        """KVM unmasks through an eventfd, past its client."""
        if self._unmask >= 0:
            self._loop.remove(self._unmask)
            _close(self._unmask)
        self._unmask = descriptor
        if descriptor >= 0:
            try:
                self._loop.add(descriptor, self._unmasked)
            except OSError:  # nothing that can be waited for
                self._unmask = -1
                raise

    def _unmasked(self) -> None:
        try:
            os.set_blocking(self._unmask, False)
            os.eventfd_read(self._unmask)
        except OSError:
            self._watch_unmasking(-1)  # no eventfd, or one that somebody else reads
            return
        self.unmask()


def _ring(descriptor: int) -> None:
    """An event. One that can't be told, since the client filled its counter up, is lost on that client."""
    with contextlib.suppress(OSError):
        os.eventfd_write(descriptor, 1)


def _close(descriptor: int) -> None:
    if descriptor >= 0:
        os.close(descriptor)

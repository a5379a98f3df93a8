"""What every end of a cable that is a TAP of two queues can do with them: the host's interface, and the far end."""

from collections.abc import Sequence

from nooks.endpoint.multiqueue import MultiQueueTap, Switch


class Queues:
    """Two queues, of which the attached one gets what the kernel has for this TAP."""

    def __init__(self, tap: MultiQueueTap) -> None:
        self._tap = tap

    @property
    def queue_fds(self) -> tuple[int, ...]:
        """Both queues' descriptors, for the keeper and for QEMU to inherit. They stay this object's own."""
        return self._tap.queue_fds

    @property
    def lossless(self) -> bool:
        """Whether a switch of queues loses nothing (it takes BPF; see steering.py)."""
        return self._tap.lossless

    def attached(self, queue: int) -> bool:
        """Whether frames can come through this queue."""
        return self._tap.attached(queue)

    def attach(self, queue: int) -> None:
        """From now on this queue gets all frames."""
        self._tap.attach(queue)

    def detach(self, queue: int) -> None:
        """No frame comes through this queue any more; what it holds is thrown away (see ``switch``)."""
        self._tap.detach(queue)

    def drain(self, queue: int) -> list[bytes]:
        """Take out the frames (vnet headers first, if there are such) that a dead domain left in its queue."""
        return self._tap.drain(queue)

    def reinject(self, frames: Sequence[bytes]) -> int:
        """Send drained frames again, into the queue that is attached now; returns how many were taken."""
        return self._tap.reinject(frames)

    def switch(self, to: int) -> Switch:
        """Failover: queue ``to`` serves from now on, with what waited in the other. After the fence only."""
        return self._tap.switch(to)

"""What moves through a network domain, by the counters that heartbeats carry."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Counters:
    """Packets: what the domain took from (``host_rx``) and gave to the host, what the driver sent and received."""

    host_rx: int
    host_tx: int
    nic_rx: int
    nic_tx: int

    @classmethod
    def parse(cls, counters: Mapping[str, int]) -> "Counters | None":
        """None if one of the four is missing: not every heartbeat carries them."""
        try:
            return cls(counters["host_rx"], counters["host_tx"], counters["nic_rx"], counters["nic_tx"])
        except KeyError:
            return None

    def went_back(self, before: "Counters") -> bool:
        """A driver that resets its card may begin to count anew."""
        return self.host_rx < before.host_rx or self.nic_rx < before.nic_rx or self.nic_tx < before.nic_tx


@dataclass
class Flow:
    """What moved, and since when what stands still; ``first`` is the first sample since the driver counts."""

    first: Counters
    last: Counters
    tx_moved_at: float
    rx_moved_at: float
    waiting: int = 0
    sent: int = 0
    busy_at: float | None = None

    def take(self, sample: Counters, now: float, busy_packets: int) -> bool:
        """Account for a sample; returns whether the link was busy receiving."""
        handed, sent, received = (
            sample.host_rx - self.last.host_rx,
            sample.nic_tx - self.last.nic_tx,
            sample.nic_rx - self.last.nic_rx,
        )
        self.last = sample
        busy = received >= busy_packets
        if sent:
            self.tx_moved_at, self.waiting = now, 0
        else:
            self.waiting += handed
        if received:
            self.rx_moved_at, self.sent = now, 0
            self.busy_at = now if busy else self.busy_at
        else:
            self.sent += handed
        return busy

    def fell_silent(self, within_seconds: float) -> bool:
        """Whether the last that was received was (about) the end of a busy time."""
        return self.busy_at is not None and self.rx_moved_at - self.busy_at <= within_seconds

"""How an application fared: what its meter said, and the pauses in it."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

_RATE_SECONDS = 1.0


@dataclass
class Gauge:
    """Collects the lines of a ``meter`` or an ``echo ask``; times are seconds since the epoch."""

    received: int = 0
    updated: float = 0.0
    errors: int = 0
    broken: str = ""
    pauses: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    samples: deque[tuple[float, int]] = field(default_factory=lambda: deque[tuple[float, int]](maxlen=4096))

    def add(self, line: dict[str, Any]) -> None:
        """Take one line."""
        if "bytes" not in line:
            return
        self.received, self.updated = int(line["bytes"]), float(line["time"])
        self.samples.append((self.updated, self.received))
        begin, end = line["pause"]
        if end > begin:
            self.pauses.append((float(begin), float(end)))
        self.errors = int(line.get("errors", 0)) + int(line.get("wrong_blocks", 0))
        self.broken = str(line.get("broken", ""))

    def progressed_since(self, moment: float) -> bool:
        """Whether anything was received after ``moment``."""
        return any(sampled > moment and received < self.received for sampled, received in self.samples)

    def rate(self, over_seconds: float = _RATE_SECONDS) -> float:
        """Units per second, lately."""
        return self.rate_at(self.updated, over_seconds)

    def rate_at(self, moment: float, over_seconds: float) -> float:
        """Units per second in the time before ``moment``."""
        window = [sample for sample in self.samples if moment - over_seconds <= sample[0] <= moment]
        if len(window) < 2:
            return 0.0
        (first, before), (last, after) = window[0], window[-1]
        return (after - before) / (last - first) if last > first else 0.0

    def longest_pause(self, begin: float, end: float) -> float | None:
        """Seconds of the longest pause that touches the time from ``begin`` to ``end``; None if nothing is known.

        The application's own outage: from the last good operation to the next one.
        """
        touching = [until - since for since, until in self.pauses if since <= end and until >= begin]
        return max(touching, default=None)

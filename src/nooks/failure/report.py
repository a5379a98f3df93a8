"""What every failure detector says: this incarnation has failed, because ...

Detectors only report; the recovery manager alone decides what follows.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Reason(StrEnum):
    """Why an incarnation counts as failed (the journal's ``reason`` of ``failed`` events)."""

    PANIC = "panic"
    OOPS = "oops"
    EXIT = "exit"
    HEARTBEAT = "heartbeat"
    HALTED = "halted"
    FROZEN = "frozen"
    MEMORY = "memory"
    NO_PROGRESS = "no-progress"
    NO_ANSWER = "no-answer"
    PROTOCOL = "protocol"
    IO_ERRORS = "io-errors"
    CORRUPTION = "corruption"
    DETERMINISTIC = "deterministic"
    DMA = "dma"
    UNPLUGGED = "unplugged"
    PLANNED = "planned"
    OPERATOR = "operator"


@dataclass(frozen=True)
class FailureReport:
    """One detector's verdict on one incarnation.

    ``noticed_at`` is in seconds of the injected clock; ``detail`` is free structured data for the journal.
    ``stopped_at``: since when the machine stood still, card and all, where that is known.
    """

    incarnation: int
    reason: Reason
    noticed_at: float
    detector: str
    detail: dict[str, Any] = field(default_factory=dict[str, Any])
    stopped_at: float | None = None


ReportSink = Callable[[FailureReport], None]

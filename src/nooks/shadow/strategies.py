"""The five things that a shadow can do with a request while its driver is away, and the table of who does what.

Shadow drivers (Swift et al., OSDI 2004, section 4.3) name them. Each class has one table in its module; the shadow
goes by it, the documentation prints it, the tests walk through it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Strategy(StrEnum):
    """What an active shadow does with a request."""

    ANSWER = "answer-from-log"
    BUSY = "act-busy"
    BLOCK = "block"
    QUEUE = "queue"
    DROP = "drop"


@dataclass(frozen=True)
class Row:
    """One kind of request, its strategy, and how that looks from outside."""

    request: str
    strategy: Strategy
    meaning: str


class StrategyTable:
    """A class's requests with their strategies."""

    def __init__(self, device_class: str, rows: tuple[Row, ...]) -> None:
        self.device_class = device_class
        self.rows = rows
        self._by_request: Mapping[str, Row] = {row.request: row for row in rows}
        if len(self._by_request) != len(rows):
            raise ValueError(f"a request twice in the table of class {device_class}")

    def __getitem__(self, request: str) -> Strategy:
        """The strategy for a kind of request. Raises KeyError."""
        return self._by_request[request].strategy


class Counters:
    """How often each kind of request met its strategy, since the shadow was made."""

    def __init__(self, table: StrategyTable) -> None:
        self._table = table
        self._counts = {row.request: 0 for row in table.rows}

    def count(self, request: str, times: int = 1) -> Strategy:
        """Count a request; returns what is to be done with it. Raises KeyError if the table lacks it."""
        strategy = self._table[request]
        self._counts[request] += times
        return strategy

    def by_request(self) -> dict[str, int]:
        """Counts by kind of request."""
        return dict(self._counts)

    def by_strategy(self) -> dict[Strategy, int]:
        """Counts by strategy, for those that the class has."""
        totals: dict[Strategy, int] = {}
        for request, count in self._counts.items():
            strategy = self._table[request]
            totals[strategy] = totals.get(strategy, 0) + count
        return totals

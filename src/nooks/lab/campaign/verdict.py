"""The oracle's judgement of a trial, from what was observed. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nooks.lab.campaign.order import Verdict
from nooks.lab.product import Event

_COMMANDED = ("planned", "operator")


@dataclass(frozen=True)
class Observation:
    """What was seen of a trial.

    ``events`` are the nook's since the injection, ``state`` its own in the end; ``errors`` the application's, and
    ``works`` whether it got on when it was started anew. ``outage_seconds`` is the longest time in which it did not get
    on. ``faults`` are CONTRACT's records with ``executed``.
    """

    events: Sequence[Event]
    state: str
    errors: Sequence[str]
    works: bool
    outage_seconds: float | None
    injected_at: float
    faults: Sequence[Mapping[str, Any]]

    @property
    def failures(self) -> list[Event]:
        """The failures that nobody ordered."""
        return [each for each in self.events if each.event == "failed" and each.reason not in _COMMANDED]

    @property
    def resumed(self) -> Event | None:
        """The first resumption after the first failure."""
        failures = self.failures
        after = (each for each in self.events if failures and each.time >= failures[0].time)
        return next((each for each in after if each.event == "resumed"), None)


def judge(seen: Observation) -> dict[str, Any]:
    """CONTRACT's fields from ``domain`` to ``outage_seconds``, and ``dormant``, ``errors`` and ``failures``."""
    failures, resumed, verdict = seen.failures, seen.resumed, _verdict(seen)
    ended = verdict not in (Verdict.UNDETECTED, Verdict.NOT_RECOVERED)  # else the pause that counts has no end
    return {
        "domain": "failed" if failures else "healthy",
        "reason": failures[0].reason if failures else "",
        "verdict": verdict,
        "detection_seconds": round(failures[0].time - seen.injected_at, 4) if failures else None,
        "recovery_seconds": resumed.detail.get("recovery_seconds") if resumed else None,
        "outage_seconds": round(seen.outage_seconds, 4) if ended and seen.outage_seconds is not None else None,
        "means": resumed.detail.get("means") if resumed else None,
        "dormant": is_dormant(seen.faults),
        "errors": list(seen.errors),
        "failures": len(failures),
    }


def is_dormant(faults: Sequence[Mapping[str, Any]]) -> bool:
    """Whether none of the changed instructions ran. One of which nobody knows counts as run."""
    return all(each.get("executed") is False for each in faults)


def _verdict(seen: Observation) -> Verdict:
    if not seen.failures:
        return Verdict.UNDETECTED if seen.errors or not seen.works else Verdict.NO_EFFECT
    if seen.resumed is None or seen.state != "running" or not seen.works:
        return Verdict.NOT_RECOVERED
    return Verdict.RECOVERED_WITH_ERROR if seen.errors else Verdict.RECOVERED

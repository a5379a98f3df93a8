"""What QEMU's monitor tells, without a QEMU."""

import time

import pytest

from nooks.domain.monitor import Event, age_seconds


def stamped(seconds: float) -> Event:
    moment = time.time() - seconds
    return {"event": "STOP", "timestamp": {"seconds": int(moment), "microseconds": round(moment % 1 * 1e6)}}


def test_an_event_has_an_age() -> None:
    assert age_seconds(stamped(0.5)) == pytest.approx(0.5, abs=0.2)  # pyright: ignore[reportUnknownMemberType]


@pytest.mark.parametrize(
    "event",
    [
        stamped(3600),
        stamped(-3600),
        {"event": "STOP"},
        {"event": "STOP", "timestamp": 7},
        {"event": "STOP", "timestamp": {"seconds": "1", "microseconds": 2}},
        {"event": "STOP", "timestamp": {"seconds": -1, "microseconds": -1}},
    ],
)
def test_an_age_that_can_not_be_is_none(event: Event) -> None:
    assert age_seconds(event) == 0.0

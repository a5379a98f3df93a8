"""The counter's rate, as measured, beside what this machine's kernel says of its processor."""

import pytest

from nooks.domain import accel
from nooks.host import tsc


def test_a_second_has_as_many_ticks() -> None:
    rate = tsc.khz()
    if rate is None:
        pytest.skip("no counter that can be read")
    tsc.khz.cache_clear()
    again = tsc.khz()
    assert again is not None
    assert abs(again - rate) <= 1000
    assert 0.3e6 < rate < 10e6


def test_a_snapshot_is_of_one_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tsc, "khz", lambda: 2_596_000)
    assert accel.tcg().guest_arguments == "tsc_early_khz=2596000"
    monkeypatch.setattr(tsc, "khz", lambda: None)
    assert accel.tcg().guest_arguments == ""

"""How patient time-outs are."""

import pytest

from nooks.host import pace


def test_a_busy_machine_is_given_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr(pace, "processor", lambda: 1.0)
    for load, factor in ((0.0, 1.0), (2.0, 1.0), (6.0, 3.0), (100.0, 8.0)):
        monkeypatch.setattr("os.getloadavg", lambda load=load: (load, 0.0, 0.0))
        assert pace.load_factor() == factor
        assert pace.slowness() == factor


def test_so_is_a_slow_one_within_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "load_factor", lambda: 1.0)
    for speed, factor in ((1.0, 1.0), (6.0, 6.0)):
        monkeypatch.setattr(pace, "processor", lambda speed=speed: speed)
        assert pace.slowness() == factor


def test_the_speed_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1.0 <= pace.slowness() <= pace.LONGEST
    monkeypatch.setattr(pace, "_loop_seconds", lambda: 60.0)
    pace.processor.cache_clear()
    try:
        assert pace.processor() == pace.LONGEST
    finally:
        pace.processor.cache_clear()

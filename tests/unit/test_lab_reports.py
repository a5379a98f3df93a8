"""What the lab makes of what happened: failures, verdicts, quantiles, comparisons, lines of code."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nooks.host.errors import MachineError
from nooks.lab import bed, bench_network, demo_network, leaks
from nooks.lab.bare_guest import libraries
from nooks.lab.bench_network import Figure
from nooks.lab.by_hand import arguments_of
from nooks.lab.complexity import classes, in_c, lines_of_code, rooms
from nooks.lab.demo_network import SIZE_BYTES, WAYS, Scene, summarize
from nooks.lab.demo_screen import Screen
from nooks.lab.figures import quantiles
from nooks.lab.host_health import HostHealth
from nooks.lab.leaks import Picture
from nooks.lab.product import Event, Journal, Product, seconds_of
from nooks.lab.ways import Failure, explain, fail


class FakeProduct(Product):
    """A nook that fails and recovers by the book."""

    def __init__(self, *, notices: bool = True, recovers: bool = True) -> None:
        super().__init__("fake")
        self.notices, self.recovers = notices, recovers
        self.number = 4
        self.found: dict[str, Any] = {}

    async def status(self) -> dict[str, Any]:
        return {"incarnation": self.number, "pid": 1, "state": "running"}

    async def crash(self, how: str) -> dict[str, Any]:
        now = time.time()
        if self.notices:
            self._event(now + 0.02, "failed", how)
            self._event(now + 0.03, "fenced", "")
            self._event(now + 0.06, *(("resumed", "") if self.recovers else ("gave-up", "")))
        return {}

    async def postmortem(self, incarnation: int) -> dict[str, Any]:
        return self.found

    def _event(self, moment: float, event: str, reason: str) -> None:
        detail = {"means": "spare", "recovery_seconds": 0.04} if event == "resumed" else {}
        self.journal.events.append(Event(moment, self.number, event, reason, detail))


def test_a_failure_is_timed_from_the_journal() -> None:
    failure = asyncio.run(fail(FakeProduct(), "panic"))
    assert failure.recovered
    assert (failure.reason, failure.means, failure.recovery_seconds) == ("panic", "spare", 0.04)
    assert failure.detection_seconds == pytest.approx(0.02, abs=0.02)


def test_a_failure_that_is_not_recovered_or_not_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nooks.lab.ways.NOTICE_SECONDS", 0.05)
    given_up = asyncio.run(fail(FakeProduct(recovers=False), "panic"))
    assert (given_up.recovered, given_up.reason) == (False, "panic")
    unnoticed = asyncio.run(fail(FakeProduct(notices=False), "silent"))
    assert (unnoticed.recovered, unnoticed.reason, unnoticed.detection_seconds) == (False, "", None)


def test_memory_may_take_long_to_exhaust(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nooks.lab.ways.NOTICE_SECONDS", 60.0)
    monkeypatch.setattr("nooks.lab.ways.LEAK_NOTICE_SECONDS", 0.05)
    unnoticed = asyncio.run(asyncio.wait_for(fail(FakeProduct(notices=False), "leak"), 20))
    assert unnoticed.noticed is None


@pytest.mark.parametrize(
    ("way", "found", "happened", "takes_the_machine"),
    [
        ("oops", {"headline": "BUG: it", "function": "f", "module": "m", "console": ""}, "BUG: it in f [m]", False),
        ("oops", {"headline": "BUG: it", "console": "x - Fatal exception in interrupt"}, "BUG: it", True),
        ("hang", {}, "no word from the kernel", True),
        ("kill", {}, "no word from the kernel", False),
    ],
)
def test_what_happened_is_taken_from_the_post_mortem(
    way: str, found: dict[str, Any], happened: str, takes_the_machine: bool
) -> None:
    product, failure = FakeProduct(), Failure(way, 1.0, noticed=1.1)
    product.found = found
    asyncio.run(explain(product, failure))
    assert (failure.happened, failure.takes_the_machine) == (happened, takes_the_machine)


def test_events_are_read_in_either_form_of_time() -> None:
    journal = Journal()
    journal.add({"time": 5.5, "event": "failed", "incarnation": 1, "reason": "panic", "detail": None})
    journal.add({"something": "else"})
    assert journal.events == [Event(5.5, 1, "failed", "panic", {})]
    assert seconds_of("1970-01-01T00:01:00+00:00") == 60.0


def good_scene() -> Scene:
    scene = Scene(bed.plan(), "e1000", expected_sha256="ab", ports={40000})
    scene.gauge.received = SIZE_BYTES
    scene.result = {"sha256": "ab", "exit": 0, "curl": {"local_port": 40000}}
    scene.access_log = [{"event": "connection"}, {"event": "response", "bytes": SIZE_BYTES}]
    scene.failures = [Failure(way, 1.0, resumed=2.0, takes_the_machine=way == "hang") for way in WAYS]
    return scene


def test_the_demo_succeeds_only_if_everything_held() -> None:
    summary = summarize(good_scene())
    assert summary["ok"]
    assert (summary["failures"], summary["recoveries"]) == (len(WAYS), len(WAYS))
    assert summary["would_have_taken_the_machine"] == 1


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ({"expected_sha256": "cd"}, "SHA-256 agrees"),
        ({"result": {}}, "SHA-256 agrees"),
        ({"ports": {40000, 40001}}, "one TCP connection throughout"),
        ({"ports": {40001}}, "one TCP connection throughout"),
        ({"access_log": [{"event": "connection"}] * 2}, "one TCP connection throughout"),
        ({"size_bytes": SIZE_BYTES + 1}, "at least 200 MB downloaded"),
        ({"failures": []}, "every failure recovered"),
        ({"failures": [Failure(way, 1.0) for way in WAYS]}, "every failure recovered"),
        ({"host": ["the host's kernel had a oops"]}, "host unharmed"),
    ],
)
def test_the_demo_fails_if_anything_did_not_hold(change: dict[str, Any], broken: str) -> None:
    summary = summarize(replace(good_scene(), **change))
    assert not summary["ok"]
    assert broken in [check["name"] for check in summary["checks"] if not check["ok"]]


def test_the_picture_shows_the_verdict_and_fetches_nothing(tmp_path: Path) -> None:
    scene = good_scene()
    scene.failures[0].happened = "BUG: unable to handle [/bold]"  # no markup of rich's
    scene.gauge.add({"time": 10.0, "bytes": SIZE_BYTES // 2, "pause": (9, 9)})
    scene.gauge.add({"time": 11.0, "bytes": SIZE_BYTES, "pause": (9, 9)})
    picture = tmp_path / "demo.svg"
    with Screen(scene, quiet=True, terminal=False) as screen:
        screen.failed(scene.failures[0])
        screen.finish(summarize(scene), picture)
    drawn = picture.read_text()
    assert "everything&#160;held" in drawn
    assert "url(http" not in drawn
    assert "[/bold]" in drawn


def test_the_demo_without_root_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(MachineError, match="needs root"):
        demo_network.run(json=True)


def test_quantiles_of_what_is_known() -> None:
    assert quantiles([3.0, None, 1.0, 2.0]) == {"p50": 2.0, "p95": 3.0, "max": 3.0}
    assert quantiles([None]) == {"p50": None, "p95": None, "max": None}
    assert quantiles([float(n) for n in range(1, 101)])["p95"] == 95.0


def test_comparison_takes_medians_and_divides_by_the_baseline() -> None:
    def side(*values: float) -> list[dict[str, Figure]]:
        return [{"TCP": Figure(value, "Mbit/s", 0.5)} for value in values]

    (row,) = bench_network.compare(side(900, 100, 950), side(1000, 1000, 10))
    assert (row["native"], row["nook"], row["ratio"]) == (1000, 900, 0.9)
    assert row["baseline"] == "wired-by-hand"


def test_the_baseline_is_made_from_this_very_machine() -> None:
    assert arguments_of(1) is not None
    assert any("libc" in library.name for library in libraries(Path("/bin/sh")))


def test_host_health_sees_a_new_taint() -> None:
    now = HostHealth.now()
    assert now.harm() == []
    other_boot = HostHealth("another", now.tainted)
    assert other_boot.harm() == ["the host was booted anew"]


def test_leaks_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOOKS_RUN_DIR", str(tmp_path))
    blocks = tmp_path / "blocks"
    monkeypatch.setattr(leaks, "BLOCK_DEVICES", blocks)
    before = Picture.now()
    (tmp_path / "forgotten").write_text("")
    for device, name in (("loop7/loop/backing_file", "/nooks-disk (deleted)"), ("loop8/loop/backing_file", "/other")):
        (blocks / device).parent.mkdir(parents=True)
        (blocks / device).write_text(f"{name}\n")
    with Path("/dev/null").open():
        left = Picture.now().left_since(before)
    assert f"files: {tmp_path}/forgotten" in left
    assert [line for line in left if line.startswith("disks")] == ["disks: loop7 /nooks-disk (deleted)"]
    assert any(line.endswith("/dev/null") for line in left)


def test_lines_of_code_leave_out_comments_blanks_and_docstrings(tmp_path: Path) -> None:
    source = '"""Module."""\n\n# comment\nx = """a\nb"""\n\ndef f() -> None:\n    """Doc.\n\n    More."""\n    return\n'
    assert lines_of_code(source) == 4
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "a.py").write_text(source)
    (tmp_path / "top.py").write_text("x = 1\n")
    assert rooms(tmp_path) == {"nooks (top level)": 1, "room": 4}


def test_lines_of_c_and_of_one_class(tmp_path: Path) -> None:
    (tmp_path / "endpoint").mkdir()
    (tmp_path / "endpoint" / "ublk.c").write_text("/* what\n * it is */\nint a; /* b */\n\n// c\nint d;\n")
    for name in ("ublk", "tap", "pulse", "__init__"):
        (tmp_path / "endpoint" / f"{name}.py").write_text("x = 1\n")
    assert in_c(tmp_path) == {"endpoint/ublk.c": 2}
    assert classes(tmp_path) == {
        "block": {"endpoint/ublk.py": 1},
        "sound": {"endpoint/pulse.py": 1},
        "network": {"endpoint/tap.py": 1},
    }


def test_beds_do_not_meet() -> None:
    first, second = bed.plan(), bed.plan()
    assert first.nook != second.nook
    assert len(first.nook) <= 15
    assert len(first.wire) <= 15

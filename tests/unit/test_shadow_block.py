"""The shadow of disks: what it lets wait, what it insists on after a restart, when it gives up."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from fakes import FakeClock

from nooks.failure.report import FailureReport, Reason
from nooks.shadow.block import DISCARD, FLUSH, GEOMETRY, MEDIA, READ, REQUESTS, WRITE, BlockShadow, WrongDisk
from nooks.shadow.strategies import Strategy
from nooks.xpc.errors import ProtocolError
from nooks.xpc.states import BlockState, parse_state

DISK = BlockState(
    medium=True,
    size_bytes=1 << 30,
    sector_bytes=512,
    physical_bytes=512,
    read_only=False,
    rotational=True,
    cached=True,
    discard_bytes=0,
    zero_bytes=0,
    region_bytes=1 << 24,
    model="QEMU HARDDISK",
)


class Ports:
    """A driver and a data path that do as they are told."""

    def __init__(self) -> None:
        self.state = DISK
        self.calls: list[str] = []
        self.waited: dict[str, int] = {}

    async def resume(self, incarnation: int) -> BlockState:
        self.calls.append(f"resume {incarnation}")
        return self.state

    def lose(self, *, counts: bool) -> None:
        self.calls.append(f"lose {counts}")

    async def replay(self, *, write_through: bool) -> Mapping[str, int]:
        self.calls.append(f"replay {write_through}")
        return self.waited

    def give_up(self) -> None:
        self.calls.append("give up")

    def facts(self) -> dict[str, Any]:
        return {"unflushed_writes": 3}


def shadow_of(ports: Ports, clock: FakeClock, *, seconds: float = 0.0, state: BlockState | None = None) -> BlockShadow:
    return BlockShadow(ports, ports, clock, give_up_seconds=seconds, state=state)


def report(reason: Reason, **detail: Any) -> FailureReport:  # noqa: ANN401
    return FailureReport(1, reason, 0.0, "test", detail)


def test_every_request_has_a_strategy() -> None:
    assert {row.request: row.strategy for row in REQUESTS.rows} == {
        READ: Strategy.BLOCK,
        WRITE: Strategy.QUEUE,
        FLUSH: Strategy.BLOCK,
        DISCARD: Strategy.QUEUE,
        GEOMETRY: Strategy.ANSWER,
        MEDIA: Strategy.BUSY,
    }


def test_a_life() -> None:
    async def life() -> None:
        ports = Ports()
        shadow = shadow_of(ports, FakeClock())
        shadow.activate()
        facts = await shadow.replay(1)
        shadow.deactivate()
        assert shadow.state == DISK
        assert facts == {"kept": 3, "waited": 0, "model": "QEMU HARDDISK"}
        shadow.activate(report(Reason.PANIC))
        ports.waited = {READ: 2, WRITE: 5}
        assert (await shadow.replay(2))["waited"] == 7
        assert shadow.counters.by_strategy()[Strategy.QUEUE] == 5
        assert ports.calls == ["lose False", "resume 1", "replay False", "lose True", "resume 2", "replay False"]

    asyncio.run(life())


@pytest.mark.parametrize(
    ("failure", "counts"),
    [
        (report(Reason.OOPS), True),
        (report(Reason.PLANNED), False),
        (report(Reason.OPERATOR), False),
        (report(Reason.EXIT, commanded="kill"), False),
    ],
)
def test_failures_by_command_are_no_evidence_against_a_request(failure: FailureReport, counts: bool) -> None:
    ports = Ports()
    shadow_of(ports, FakeClock()).activate(failure)
    assert ports.calls == [f"lose {counts}"]


def test_a_disk_without_a_cache_needs_no_flushes() -> None:
    ports = Ports()
    ports.state = replace(DISK, cached=False)
    asyncio.run(shadow_of(ports, FakeClock()).replay(1))
    assert ports.calls[-1] == "replay True"


@pytest.mark.parametrize(
    "change", [{"size_bytes": 1 << 29}, {"sector_bytes": 4096}, {"read_only": True}, {"medium": False}]
)
def test_another_disk_is_not_written_to(change: dict[str, Any]) -> None:
    ports = Ports()
    ports.state = replace(DISK, **change)
    shadow = shadow_of(ports, FakeClock(), state=DISK)
    with pytest.raises(WrongDisk, match=next(iter(change))):
        asyncio.run(shadow.replay(2))
    assert not any(call.startswith("replay") for call in ports.calls)
    assert shadow.state == DISK


def test_degraded_requests_wait_for_ever_or_fail_after_a_while() -> None:
    async def patience(seconds: float) -> list[str]:
        ports, clock = Ports(), FakeClock()
        shadow = shadow_of(ports, clock, seconds=seconds)
        shadow.degrade()
        await clock.advance(100.0)
        calls = list(ports.calls)
        await shadow.close()
        return calls

    assert asyncio.run(patience(0.0)) == ["lose False"]
    assert asyncio.run(patience(99.0)) == ["lose False", "give up"]
    assert asyncio.run(patience(101.0)) == ["lose False"]


def test_a_driver_that_comes_back_in_time_ends_the_patience() -> None:
    async def life() -> None:
        ports, clock = Ports(), FakeClock()
        shadow = shadow_of(ports, clock, seconds=10.0)
        shadow.degrade()
        await clock.advance(5.0)
        shadow.activate()
        await clock.advance(50.0)
        assert "give up" not in ports.calls

    asyncio.run(life())


def test_states_of_disks_are_bounded() -> None:
    assert parse_state(DISK.to_payload()) == DISK
    for change in ({"size_bytes": -1}, {"sector_bytes": 1}, {"model": "x" * 65}, {"medium": 1}, {"more": 1}):
        with pytest.raises(ProtocolError):
            parse_state(DISK.to_payload() | change)

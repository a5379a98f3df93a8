"""The network shadow against a driver that forgets everything: each strategy, each way that a replay can end."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from shadow_fakes import FakeDriver, FakeEndpoint, FakeEvents

from nooks.endpoint.tap import TapEndpoint
from nooks.host.errors import InputError, NooksError, StateError
from nooks.shadow.errors import BusyError, ReplayMismatch, SettingRefused
from nooks.shadow.log import Log, StateFile
from nooks.shadow.network import (
    CARRIER,
    ENDPOINT_CHANGE,
    READ,
    REQUESTS,
    SEND,
    SEND_BEYOND,
    SET,
    EndpointPort,
    Mode,
    NetworkShadow,
)
from nooks.shadow.readback import LinkState
from nooks.shadow.strategies import Strategy


class Bench:
    """A shadow with its fakes."""

    def __init__(self, log: Log | None = None) -> None:
        self.driver, self.endpoint, self.events = FakeDriver(), FakeEndpoint(), FakeEvents()
        self.log = log or Log()
        self.shadow = NetworkShadow(self.driver, self.endpoint, self.log, self.events)

    async def start(self, incarnation: int = 1) -> dict[str, Any]:
        facts = await self.shadow.replay(incarnation)
        self.shadow.deactivate()
        await self.shadow.settled()
        return facts

    def fail(self) -> None:
        self.shadow.activate()
        self.driver.fail()

    async def recover(self, incarnation: int = 2) -> dict[str, Any]:
        self.fail()
        return await self.start(incarnation)


def shadowed(body: Callable[[Bench], Awaitable[None]]) -> None:
    async def run() -> None:
        bench = Bench()
        await bench.start()
        await body(bench)
        await bench.shadow.close()

    asyncio.run(run())


def test_every_strategy_of_the_class_is_in_its_table_once() -> None:
    assert {row.request: row.strategy for row in REQUESTS.rows} == {
        READ: Strategy.ANSWER,
        CARRIER: Strategy.ANSWER,
        SET: Strategy.BUSY,
        ENDPOINT_CHANGE: Strategy.QUEUE,
        SEND: Strategy.QUEUE,
        SEND_BEYOND: Strategy.DROP,
    }


def test_a_setting_is_recorded_as_the_driver_has_it_and_comes_back() -> None:
    async def body(bench: Bench) -> None:
        assert await bench.shadow.set({"ring.rx": 100, "mtu": 1400}) == {"ring.rx": 104, "mtu": 1400}
        assert bench.log.settings == {"ring.rx": 104, "mtu": 1400}
        assert bench.endpoint.shown == {"ring.rx": 104, "mtu": 1400}
        facts = await bench.recover()
        assert bench.driver.state["ring.rx"] == 104
        assert bench.driver.state["mtu"] == 1400
        assert bench.driver.incarnation == 2
        assert facts == {"settings": 2, "queued": 0, "refused": {}, "unverified": [], "carrier": True}

    shadowed(body)


def test_what_the_driver_refuses_is_told_and_not_recorded() -> None:
    async def body(bench: Bench) -> None:
        with pytest.raises(SettingRefused, match=r"mtu \(too long\)"):
            await bench.shadow.set({"mtu": 9000, "promisc": True})
        assert bench.log.settings == {"promisc": True}
        bench.driver.broken.add("up")
        bench.driver.state["up"] = True
        with pytest.raises(SettingRefused, match=r"up \(the driver has on\)"):
            await bench.shadow.set({"up": False})
        assert "up" not in bench.log.settings

    shadowed(body)


def test_unknown_settings_are_bad_input() -> None:
    async def body(bench: Bench) -> None:
        for wrong in ({"colour": 1}, {"mtu": "big"}, {"promisc": 1}):
            with pytest.raises(InputError):
                await bench.shadow.set(wrong)

    shadowed(body)


def test_act_busy_a_set_during_recovery_fails_at_once() -> None:
    async def body(bench: Bench) -> None:
        bench.fail()
        with pytest.raises(BusyError, match="try again"):
            await bench.shadow.set({"mtu": 1400})
        await bench.start(2)
        assert bench.log.settings == {}
        assert bench.shadow.counters.by_request()[SET] == 1

    shadowed(body)


def test_act_busy_a_set_whose_driver_dies_does_not_wait_for_its_deadline() -> None:
    async def body(bench: Bench) -> None:
        bench.driver.held = True
        asking = asyncio.create_task(bench.shadow.set({"mtu": 1400}))
        behind = asyncio.create_task(bench.shadow.set({"promisc": True}))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        bench.fail()
        for task in (asking, behind):
            with pytest.raises(BusyError):
                await asyncio.wait_for(task, 1)
        bench.driver.held = False
        await bench.start(2)
        assert bench.log.settings == {}

    shadowed(body)


def test_queue_an_interface_change_during_recovery_reaches_the_next_driver() -> None:
    async def body(bench: Bench) -> None:
        bench.fail()
        bench.shadow.changed({"mtu": 1400, "promisc": True})
        assert bench.log.target() == {"mtu": 1400, "promisc": True}
        facts = await bench.start(2)
        assert facts["queued"] == 2
        assert bench.log.settings == {"mtu": 1400, "promisc": True}
        assert bench.log.pending == {}
        assert bench.driver.state["promisc"] is True
        assert bench.shadow.counters.by_request()[ENDPOINT_CHANGE] == 2

    shadowed(body)


def test_an_interface_change_in_the_middle_of_a_replay_is_applied_after_it() -> None:
    async def body(bench: Bench) -> None:
        bench.fail()
        bench.driver.held = True
        replaying = asyncio.create_task(bench.shadow.replay(2))
        for _ in range(4):
            await asyncio.sleep(0)
            bench.driver.answer()
            if bench.driver.incarnation == 2:
                break
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        bench.shadow.changed({"mtu": 1300})
        bench.driver.held = False
        bench.driver.answer()
        await replaying
        assert bench.driver.state["mtu"] == 1500
        bench.shadow.deactivate()
        await bench.shadow.settled()
        assert bench.driver.state["mtu"] == bench.log.settings["mtu"] == 1300

    shadowed(body)


def test_an_interface_change_that_the_driver_refuses_is_undone_there() -> None:
    async def body(bench: Bench) -> None:
        bench.shadow.changed({"mtu": 9000})
        await bench.shadow.settled()
        assert bench.endpoint.shown == {"mtu": 1500}
        assert bench.log.target() == {}
        await bench.shadow.set({"mtu": 1400})
        bench.fail()
        bench.shadow.changed({"mtu": 9000})
        facts = await bench.start(2)
        assert facts["refused"] == {"mtu": "too long"}
        assert bench.endpoint.shown == {"mtu": 1400}
        assert ("setting", "refused", {"mtu": "too long"}) in bench.events.seen
        await bench.recover(3)
        assert bench.driver.state["mtu"] == 1400

    shadowed(body)


def test_a_later_set_wins_over_a_change_that_still_waits() -> None:
    async def body(bench: Bench) -> None:
        bench.driver.error = NooksError("no answer")
        bench.shadow.changed({"mtu": 1400})
        await bench.shadow.settled()
        assert bench.events.seen[-1][1] == "unanswered"
        bench.driver.error = None
        await bench.shadow.set({"mtu": 1300})
        bench.shadow.changed({"promisc": True})
        await bench.shadow.settled()
        assert bench.driver.state["mtu"] == bench.log.settings["mtu"] == 1300

    shadowed(body)


def test_answer_from_log_reads_go_on_during_recovery() -> None:
    async def body(bench: Bench) -> None:
        await bench.shadow.set({"mtu": 1400})
        assert (await bench.shadow.read()).statistics == {"rx_packets": 7}
        bench.fail()
        bench.shadow.changed({"promisc": True})
        state = await bench.shadow.read()
        assert state.readback["mtu"] == 1400
        assert state.readback["promisc"] is True
        assert state.link.speed == 1000
        assert state.statistics == {"rx_packets": 7}
        assert bench.shadow.counters.by_request()[READ] == 1

    shadowed(body)


def test_a_read_whose_driver_dies_is_answered_from_the_log() -> None:
    async def body(bench: Bench) -> None:
        await bench.shadow.set({"mtu": 1400})
        bench.driver.held = True
        reading = asyncio.create_task(bench.shadow.read())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        bench.fail()
        assert (await reading).readback["mtu"] == 1400

    shadowed(body)


def test_the_carrier_is_mirrored_but_stays_during_recovery() -> None:
    async def body(bench: Bench) -> None:
        unplugged = LinkState(carrier=False)
        bench.shadow.link_changed(unplugged)
        assert bench.endpoint.carrier is False
        bench.shadow.link_changed(LinkState(carrier=True, speed=100, duplex="half"))
        assert bench.endpoint.carrier is True
        assert bench.endpoint.links[-1] == (100, "half", None)
        bench.fail()
        bench.shadow.link_changed(unplugged)
        assert bench.endpoint.carrier is True
        assert bench.shadow.counters.by_request()[CARRIER] == 1
        bench.driver.link = unplugged
        facts = await bench.start(2)
        assert facts["carrier"] is False
        assert bench.endpoint.carrier is False

    shadowed(body)


def test_queue_and_drop_frames_are_counted() -> None:
    async def body(bench: Bench) -> None:
        bench.endpoint.dropped, bench.endpoint.moved = 5, 3
        bench.fail()
        bench.endpoint.dropped, bench.endpoint.moved = 9, 13
        await bench.start(2)
        assert bench.shadow.counters.by_request()[SEND] == 10
        assert bench.shadow.counters.by_request()[SEND_BEYOND] == 4
        assert bench.shadow.counters.by_strategy()[Strategy.DROP] == 4

    shadowed(body)


def test_a_driver_that_does_not_come_back_to_its_state_is_found_out() -> None:
    async def body(bench: Bench) -> None:
        await bench.shadow.set({"promisc": True, "ring.rx": 104})
        bench.driver.broken = {"promisc", "ring.rx"}
        with pytest.raises(ReplayMismatch, match="promisc is off instead of on") as caught:
            await bench.recover()
        assert {(each.key, each.wanted, each.got) for each in caught.value.mismatches} == {
            ("promisc", True, False),
            ("ring.rx", 104, 256),
        }
        bench.driver.broken.clear()
        await bench.recover(3)

    shadowed(body)


def test_what_cannot_be_read_back_is_said_to_be_unverified() -> None:
    async def body(bench: Bench) -> None:
        await bench.shadow.set({"promisc": True})
        bench.driver.unreadable.add("promisc")
        assert (await bench.recover())["unverified"] == ["promisc"]

    shadowed(body)


def test_filters_may_let_in_more_and_negotiated_speeds_differ() -> None:
    async def body(bench: Bench) -> None:
        bench.driver.broken = {"multicast"}
        bench.driver.state["multicast"] = ("01:00:5e:00:00:01", "33:33:00:00:00:01")
        await bench.shadow.set({"multicast": ["33:33:00:00:00:01"]})
        await bench.shadow.set({"link.autoneg": False, "link.speed": 100, "link.duplex": "full"})
        assert bench.log.settings["link.speed"] == 100
        await bench.shadow.set({"link.autoneg": True})
        assert "link.speed" not in bench.log.settings

    shadowed(body)


def test_features_that_depend_on_each_other_do_not_fail_a_replay() -> None:
    segmentation, checksum = "feature.tx-tcp-segmentation", "feature.tx-checksum-ip-generic"

    async def body(bench: Bench) -> None:
        await bench.shadow.set({segmentation: True})
        await bench.shadow.set({checksum: False})
        assert bench.log.settings[segmentation] is False
        await bench.shadow.set({checksum: True})
        await bench.shadow.set({segmentation: True})
        bench.fail()
        bench.shadow.changed({checksum: False})
        await bench.start(2)
        assert bench.log.settings == {segmentation: False, checksum: False}
        await bench.recover(3)

    shadowed(body)


def test_degraded_is_a_carrier_that_is_off_until_it_is_re_armed() -> None:
    async def body(bench: Bench) -> None:
        bench.fail()
        bench.shadow.degrade()
        assert bench.endpoint.carrier is False
        bench.shadow.changed({"mtu": 1400})
        with pytest.raises(BusyError):
            await bench.shadow.set({"mtu": 1300})
        with pytest.raises(StateError):
            bench.shadow.deactivate()
        await bench.recover()
        assert bench.endpoint.carrier is True
        assert bench.driver.state["mtu"] == 1400
        assert bench.shadow.mode is Mode.PASSIVE

    shadowed(body)


def test_a_killed_supervisors_log_goes_on_in_the_next() -> None:
    async def run() -> None:
        file = StateFile.create("nooks-test")
        first = Bench(Log(file))
        first.shadow.seed({"mtu": 1450})
        await first.start()
        await first.shadow.set({"ring.rx": 512})
        first.driver.held = True
        first.shadow.changed({"promisc": True})
        await first.shadow.close()
        second = Bench(Log(file))
        await second.start()
        assert second.driver.state["mtu"] == 1450
        assert second.driver.state["ring.rx"] == 512
        assert second.driver.state["promisc"] is True
        file.close()

    asyncio.run(run())


def test_a_refused_setting_of_the_spec_stops_the_start() -> None:
    async def run() -> None:
        bench = Bench()
        bench.shadow.seed({"mtu": 9000})
        with pytest.raises(ReplayMismatch, match="mtu is too long instead of 9000"):
            await bench.start()

    asyncio.run(run())


def test_the_tap_is_an_endpoint_for_the_shadow() -> None:
    def fits(endpoint: TapEndpoint) -> EndpointPort:
        return endpoint  # pyright checks it

    assert fits is not None

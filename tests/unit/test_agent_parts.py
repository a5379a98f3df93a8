"""The agent's parts that need no domain: JSON, netlink attributes, the heartbeat process, the settings' logic."""

import json
import os
import select
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nooks.agent import netlink, network_settings, quickjson
from nooks.agent.ethtool import Feature, LinkSettings
from nooks.agent.heartbeat import Heartbeat
from nooks.agent.netlink import Link
from nooks.agent.network_settings import Settings
from nooks.xpc import wire

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_quick_json_is_json(value: object) -> None:
    encoded = quickjson.dump(value)
    assert encoded.isascii()
    assert json.loads(encoded) == value
    assert quickjson.load(json.dumps(value).encode()) == value
    assert quickjson.load(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")) == value


@pytest.mark.parametrize("bad", [b"", b"{", b"nonsense", b'{"a"}', b"\xff"])
def test_quick_json_refuses(bad: bytes) -> None:
    with pytest.raises(ValueError, match=r"JSON|Expect|decode|Unterminated|delimiter"):
        quickjson.load(bad)


@pytest.mark.parametrize("bad", [object(), float("nan"), {"a": b"bytes"}])
def test_quick_json_cannot_write(bad: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        quickjson.dump(bad)


@given(st.dictionaries(st.integers(0, 0x3FFF), st.binary(max_size=40), max_size=8))
def test_attributes_round_trip(values: dict[int, bytes]) -> None:
    data = b"head" + b"".join(netlink.attribute(kind, value) for kind, value in values.items())
    assert netlink.attributes(data, 4) == values


@given(st.binary(max_size=80))
def test_attributes_of_garbage(data: bytes) -> None:
    netlink.attributes(data, 0)


def test_heartbeat_process(tmp_path: Path) -> None:
    read, write = os.pipe()
    (tmp_path / "packets").write_text("42\n")
    heartbeat = Heartbeat(f"/proc/self/fd/{write}", interval_ms=5, real_time=False)
    try:
        heartbeat.set_counters({"nic_rx": str(tmp_path / "packets")})
        heartbeat.set_incarnation(3)
        decoder, beats = wire.Decoder(), list[wire.Frame]()
        while len(beats) < 12 or not any(beat.payload for beat in beats[2:]):
            assert select.select([read], [], [], 5)[0]
            beats += decoder.feed(os.read(read, 4096))
    finally:
        os.kill(heartbeat.process_id, 9)
        os.waitpid(heartbeat.process_id, 0)
        os.close(read)
        os.close(write)
    assert [beat.sequence for beat in beats] == list(range(1, len(beats) + 1))
    assert {beat.kind for beat in beats} == {wire.HEARTBEAT}
    assert beats[-1].incarnation == 3
    assert {"counters": {"nic_rx": 42}} in [beat.payload for beat in beats]


class FakeNetlink:
    def __init__(self) -> None:
        self.mac, self.mtu, self.flags = "02:00:00:00:00:01", 1500, 0
        self.order: list[str] = []

    def link(self, index: int, with_statistics: bool = False) -> Any:  # noqa: ANN401
        link = Link.__new__(Link)
        link.index, link.flags = index, self.flags
        link.attributes = {
            netlink.IFLA_ADDRESS: bytes.fromhex(self.mac.replace(":", "")),
            netlink.IFLA_MTU: self.mtu.to_bytes(4, "little"),
        }
        return link

    def set_mac(self, index: int, mac: str) -> None:
        self.order.append("mac")
        self.mac = mac

    def change(self, index: int, *attributes: bytes, flags: int = 0, mask: int = 0) -> None:
        if attributes:
            self.order.append(f"mtu of {index}")
            mtu = int.from_bytes(attributes[0][4:], "little")
            if mtu > 9000:
                raise OSError(22, "Invalid argument")
            if index == 1:
                self.mtu = mtu
        self.flags = self.flags & ~mask | flags
        if mask:
            self.order.append(f"flags {flags:x}/{mask:x}")


class FakeEthtool:
    def __init__(self, order: list[str]) -> None:
        self.order = order
        self.ring = (256, 128)
        self.on = {"rx-checksum": False}
        self.state = LinkSettings(True, 1000, "full")

    def features(self) -> dict[str, Feature]:
        return {name: Feature(True, on) for name, on in self.on.items()} | {"fixed": Feature(False, True)}

    def set_features(self, wanted: dict[str, bool]) -> None:
        self.order.append("features")
        self.on.update({name: on for name, on in wanted.items() if name in self.on})

    def rings(self) -> tuple[int, int]:
        return self.ring

    def set_rings(self, receive: int | None, transmit: int | None) -> None:
        self.order.append("rings")
        self.ring = (receive or self.ring[0], min(transmit or self.ring[1], 512))

    def coalesce(self) -> tuple[int, int]:
        raise OSError(95, "Operation not supported")

    pause = coalesce

    def link(self) -> LinkSettings:
        return self.state

    def set_link(self, autoneg: bool, speed: int | None, duplex: str | None) -> None:
        self.order.append("link")
        self.state = LinkSettings(autoneg, speed or self.state.speed, duplex or self.state.duplex)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> tuple[Settings, FakeNetlink, FakeEthtool]:
    links = FakeNetlink()
    tool = FakeEthtool(links.order)
    monkeypatch.setattr(network_settings, "Ethtool", _any(tool))
    monkeypatch.setattr(network_settings.system, "read", _no_proc)
    return Settings(links, 1, "nic0", 2), links, tool  # type: ignore[arg-type]


def _any(tool: FakeEthtool) -> Callable[[str], FakeEthtool]:
    def make(interface: str) -> FakeEthtool:
        return tool

    return make


def _no_proc(path: str) -> str:
    raise OSError(2, "No such file or directory")


Fake = tuple[Settings, FakeNetlink, FakeEthtool]


def test_nothing_is_written_when_nothing_differs(fake: Fake) -> None:
    it, links, _ = fake
    state = it.read()
    assert state["ring.rx"] == 256
    assert "coalesce.rx_usecs" not in state
    assert it.apply(state) == (state, {})
    assert links.order == []


def test_only_differences_are_written_and_up_comes_last(fake: Fake) -> None:
    it, links, _ = fake
    wanted = {"up": True, "mac": "02:00:00:00:00:02", "ring.rx": 512, "ring.tx": 128, "promisc": False}
    after, refused = it.apply(wanted)
    assert links.order == ["mac", "rings", "flags 1/1"]
    assert refused == {}
    assert {key: after[key] for key in wanted} == wanted


def test_refusals_say_why(fake: Fake) -> None:
    it, links, _ = fake
    wanted = {
        "mtu": 9999,
        "allmulti": True,
        "ring.tx": 4096,
        "coalesce.rx_usecs": 5,
        "feature.fixed": True,
        "feature.none": True,
    }
    after, refused = it.apply(wanted)
    assert refused == {
        "mtu": "Invalid argument",
        "ring.tx": "the driver made it 512",
        "coalesce.rx_usecs": "not supported by this driver",
        "feature.none": "the driver made it False",
    }
    assert after["allmulti"] is True
    assert after["mtu"] == 1500
    assert "mtu of 2" not in links.order  # the peer keeps its own when the card refuses


def test_mtu_is_that_of_both_sides(fake: Fake) -> None:
    it, links, _ = fake
    it.apply({"mtu": 1400})
    assert links.order == ["mtu of 1", "mtu of 2"]


def test_speed_is_no_setting_while_it_is_negotiated(fake: Fake) -> None:
    it, links, _ = fake
    assert it.apply({"link.speed": 100, "link.duplex": "half"})[1] == {}
    assert links.order == []
    after, refused = it.apply({"link.autoneg": False, "link.speed": 100})
    assert (links.order, refused) == (["link"], {})
    assert after["link.speed"] == 100
    assert it.apply({"link.autoneg": True, "link.speed": 1000})[1] == {}


def test_a_link_that_is_down_tells_no_speed(fake: Fake) -> None:
    it, _, tool = fake
    tool.set_link = lambda autoneg, speed, duplex: setattr(  # type: ignore[method-assign]
        tool, "state", LinkSettings(autoneg, -1, "unknown")
    )
    assert it.apply({"link.autoneg": False, "link.speed": 100, "link.duplex": "full"})[1] == {}

"""Messages from a domain are parsed strictly."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nooks.xpc import messages
from nooks.xpc.errors import ProtocolError
from nooks.xpc.messages import Message
from nooks.xpc.settings import check_settings
from nooks.xpc.states import NetworkState

READBACK = {
    "mac": "02:00:00:00:00:01",
    "mtu": 1500,
    "up": True,
    "multicast": ["01:00:5e:00:00:01"],
    "vlans": [5],
    "feature.rx-checksum": True,
    "link.duplex": "full",
    "link.speed": -1,
}
STATE: dict[str, Any] = {"class": "network", "carrier": True, "speed": 1000, "duplex": "full"}
UNPLUGGED: dict[str, Any] = {"class": "network", "carrier": False, "speed": -1, "duplex": "unknown"}
STREAM: dict[str, Any] = {
    "format": "s16",
    "channels": 2,
    "rate": 48000,
    "rate_min": 8000,
    "rate_max": 48000,
    "period": 1024,
    "buffer": 16384,
}
SOUND: dict[str, Any] = {
    "class": "sound",
    "card": "A card",
    "playback": STREAM,
    "capture": None,
    "elements": {"mixer.master-playback-volume": {"count": 2, "low": 0, "high": 31, "items": []}},
    "jacks": {"Headphone": False},
}
MIXED = {
    "playback.rate": 44100,
    "mixer.master-playback-volume": [31, 31],
    "mixer.capture-source": ["Mic", "Line"],
    "mixer.tone": "Off",
}
BRING_UP_REPLY: dict[str, Any] = {
    "driver": "a_driver",
    "state": STATE,
    "seconds": {"load": 0.1, "probe": 0.2, "link": 2},
    "readback": READBACK,
    "refused": {"ring.rx": "not supported"},
    "sections": {"a_driver": {".text": 0xFFFFFFFFC0000000, ".text.unlikely": 0}},
}
EXAMPLES: list[tuple[type[Message], dict[str, Any]]] = [
    (
        messages.BringUp,
        {
            "device_class": "network",
            "modules": [{"path": "a_driver.ko", "parameters": "a=1"}],
            "settings": READBACK,
            "claim_seconds": 4.0,
        },
    ),
    (messages.Prepare, {"device_class": "network", "modules": [{"path": "a_driver.ko", "parameters": ""}]}),
    (messages.PrepareReply, {"load": 0.5}),
    (messages.BringUpReply, BRING_UP_REPLY),
    (messages.Apply, {"settings": READBACK}),
    (messages.ApplyReply, {"readback": READBACK, "refused": {}}),
    (messages.Resume, {"incarnation": 3, "nonce": "00ff", "time_ns": 1, "entropy": "ab", "settings": {}}),
    (messages.ResumeReply, {"nonce": "00ff", "state": UNPLUGGED, "readback": {}, "refused": {}}),
    (messages.Read, {}),
    (messages.ReadReply, {"readback": {}, "state": UNPLUGGED, "statistics": {"rx_packets": 5}}),
    (messages.Sync, {"nonce": "1"}),
    (messages.SyncReply, {"nonce": "1"}),
    (messages.Crash, {"how": "dma", "registers": [{"bar": 0, "offset": 4, "size": 2, "value": 2**32 - 1}]}),
    (messages.CrashReply, {"means": "sysrq c"}),
    (messages.Hello, {"kernel": "6.1", "agent_version": "1", "boot_seconds": 1.5}),
    (messages.Changed, {"state": STATE}),
    (messages.Heartbeat, {"counters": {"nic_rx": 2**40}}),
    (messages.Changed, {"state": SOUND}),
    (messages.Apply, {"settings": MIXED}),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(("cls", "payload"), EXAMPLES, ids=lambda value: getattr(value, "__name__", ""))
def test_round_trip(cls: type[Message], payload: dict[str, Any]) -> None:
    message = cls.parse(payload)
    assert message.to_payload() == payload
    assert cls.parse(message.to_payload()) == message


@pytest.mark.parametrize(("cls", "payload"), EXAMPLES, ids=lambda value: getattr(value, "__name__", ""))
@given(data=st.data())
def test_any_change_parses_or_is_a_protocol_error(
    cls: type[Message], payload: dict[str, Any], data: st.DataObject
) -> None:
    changed: dict[str, Any] = dict(payload)
    for key in data.draw(st.lists(st.sampled_from([*payload, "extra"]), max_size=2)):
        changed[key] = data.draw(JSON)
    with suppress(ProtocolError):
        cls.parse(changed)


@pytest.mark.parametrize(("cls", "payload"), EXAMPLES, ids=lambda value: getattr(value, "__name__", ""))
def test_missing_and_additional_keys(cls: type[Message], payload: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match="extra"):
        cls.parse({**payload, "extra": 1})
    for key in payload:
        with pytest.raises(ProtocolError, match=key):
            cls.parse({name: value for name, value in payload.items() if name != key} or {"x" + key: 1})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("carrier", STATE | {"carrier": 1}),
        ("speed", STATE | {"speed": True}),
        ("speed", STATE | {"speed": 2**40}),
        ("duplex", STATE | {"duplex": "double"}),
        ("no device's state", STATE | {"class": "toaster"}),
        ("no device's state", [STATE]),
        ("mac", {"mac": "02:00:00:00:00:0G"}),
        ("mac", {"mac": "02:00:00:00:00:01\n"}),
        ("driver", "\x1b[31m"),
        ("driver", "\ud800"),
        ("driver", "x" * 65),
        ("seconds", {"load": 1, "probe": 1, "link": float("nan")}),
        ("readback", {"mtu": -1}),
        ("readback", {"unknown": 1}),
        ("readback", {"feature.": True}),
        ("readback", {"feature.tx": 1}),
        ("readback", {"vlans": [0]}),
        ("readback", {"vlans": list(range(1, 600))}),
        ("readback", {"mixer.Master": [1]}),
        ("readback", {"mixer.master": [2**40]}),
        ("readback", {"mixer.master": [1, "Mic"]}),
        ("readback", {"mixer.master": 1}),
        ("readback", {"playback.rate": 0}),
        ("rate", SOUND | {"playback": STREAM | {"rate": 0}}),
        ("format", SOUND | {"capture": STREAM | {"format": "s16_le"}}),
        ("elements", SOUND | {"elements": {"mixer.x": {"count": 0, "low": 0, "high": 1, "items": []}}}),
        ("jacks", SOUND | {"jacks": {"Headphone": 1}}),
        ("jacks", SOUND | {"jacks": {"x" * 65: True}}),
        ("refused", {"a": "x" * 501}),
    ],
)
def test_values_out_of_bounds(key: str, value: object) -> None:
    inside = {"mac": "readback"}.get(key, key if key in BRING_UP_REPLY else "state")
    with pytest.raises(ProtocolError, match=key):
        messages.BringUpReply.parse({**BRING_UP_REPLY, inside: value})


@given(JSON)
def test_settings_of_any_kind(value: object) -> None:
    with suppress(ProtocolError):
        check_settings(value)


def test_events_and_errors() -> None:
    unplugged = {"type": "changed", "state": UNPLUGGED}
    assert messages.parse_event(unplugged) == messages.Changed(NetworkState(carrier=False))
    for bad in ({"type": "other"}, {"type": ["changed"]}, {}, {**unplugged, "more": 1}):
        with pytest.raises(ProtocolError):
            messages.parse_event(bad)
    assert messages.parse_error({"message": "no"}) == "no"
    with pytest.raises(ProtocolError):
        messages.parse_error({"message": "no", "more": 1})


def test_beat_without_counters() -> None:
    assert messages.Heartbeat.parse({}).counters is None

"""The log and its memory file: nothing acknowledged is lost, whenever the supervisor is killed."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nooks.shadow.log import Log, LogFull, StateFile


def test_a_state_file_gives_back_the_last_state() -> None:
    file = StateFile.create("nooks-test", slot_bytes=4096)
    assert file.load() == b""
    for state in (b"one", b"", b"three" * 100):
        file.store(state)
        assert file.load() == state
    other = StateFile.from_fd(os.dup(file.fileno()))
    assert other.load() == b"three" * 100
    other.store(b"four")
    assert StateFile.from_fd(os.dup(file.fileno())).load() == b"four"
    other.close()
    file.close()
    file.close()


def test_what_does_not_fit_is_refused_and_the_old_state_stays() -> None:
    file = StateFile.create("nooks-test", slot_bytes=4096)
    file.store(b"old")
    with pytest.raises(LogFull, match="room for"):
        file.store(bytes(4096))
    assert file.load() == b"old"
    file.close()
    file = StateFile.create("nooks-test", slot_bytes=4096)
    log = Log(file)
    with pytest.raises(LogFull):
        log.queue({"multicast": tuple(f"01:00:5e:00:{n // 256:02x}:{n % 256:02x}" for n in range(512))})
    assert log.pending == {}
    file.close()


@given(
    states=st.lists(st.binary(max_size=200), min_size=1, max_size=6),
    torn=st.binary(max_size=60),
    cut=st.integers(0, 250),
)
def test_a_write_torn_anywhere_leaves_the_state_before_it(states: list[bytes], torn: bytes, cut: int) -> None:
    file = StateFile.create("nooks-test", slot_bytes=512)
    for state in states:
        file.store(state)
    before = [os.pread(file.fileno(), 512, start) for start in (0, 512)]
    file.store(torn)
    after = [os.pread(file.fileno(), 512, start) for start in (0, 512)]
    (slot,) = [number for number in (0, 1) if before[number] != after[number]]
    os.pwrite(file.fileno(), after[slot][:cut] + before[slot][cut:], slot * 512)
    assert StateFile.from_fd(os.dup(file.fileno())).load() in (states[-1], torn)
    file.close()


def test_damage_is_no_state() -> None:
    file = StateFile.create("nooks-test", slot_bytes=512)
    file.store(b"first")
    file.store(b"second")
    os.pwrite(file.fileno(), b"X", 25)
    assert StateFile.from_fd(os.dup(file.fileno())).load() == b"first"
    file.close()


def test_the_log_comes_back_from_its_file() -> None:
    file = StateFile.create("nooks-test")
    log = Log(file)
    log.accept({"mtu": 1400, "multicast": ("01:00:5e:00:00:01",)}, log.next_generation())
    log.queue({"promisc": True})
    number = log.begin({"write": [1, 2]})
    again = Log(file)
    assert again.settings == {"mtu": 1400, "multicast": ("01:00:5e:00:00:01",)}
    assert again.target() == {"mtu": 1400, "multicast": ("01:00:5e:00:00:01",), "promisc": True}
    assert again.requests == {number: {"write": [1, 2]}}
    assert again.next_generation() > number
    again.finish(number)
    again.forget(["mtu"])
    assert Log(file).requests == {}
    assert "mtu" not in Log(file).settings
    file.close()


def test_an_answer_settles_only_what_was_asked_before() -> None:
    log = Log()
    log.queue({"mtu": 1400, "up": True})
    asked = log.generation
    log.queue({"mtu": 1300})
    log.accept({"mtu": 1400, "up": True}, asked)
    assert log.settings == {"mtu": 1400, "up": True}
    assert {key: entry.value for key, entry in log.pending.items()} == {"mtu": 1300}
    assert log.target() == {"mtu": 1300, "up": True}
    log.refuse(["mtu"], asked)
    assert "mtu" in log.pending
    log.refuse(["mtu"], log.generation)
    assert log.pending == {}

"""The lab's ears: what is said of recordings that were made up, and what goes over a line without a bus."""

import asyncio
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from nooks.lab.campaign.sound import wrongs
from nooks.lab.sound.card_line import Heard as Piece
from nooks.lab.sound.card_line import Line, Voice
from nooks.lab.sound.dbus_peer import DBusError, Message, Peer
from nooks.lab.sound.hearing import Break, Hole, breaks, holes, passages
from nooks.lab.sound.listening import Stretch, stretches
from nooks.lab.sound.music import FRAME_BYTES, write_music
from nooks.lab.sound.recovery import Heard, Trial, attribute, document, owner_of
from nooks.lab.sound.world import Ear, World, world_frames, world_number
from nooks.lab.ways import Failure

RATE = 48000


@pytest.fixture
def music(tmp_path: Path) -> bytes:
    write_music(tmp_path / "music", RATE)
    return (tmp_path / "music").read_bytes()


def part(music: bytes, begin: int, end: int) -> bytes:
    return music[begin * FRAME_BYTES : end * FRAME_BYTES]


def silence(frames: int) -> bytes:
    return bytes(frames * FRAME_BYTES)


def line(*pieces: tuple[float, bytes]) -> Line:
    def nothing(size_bytes: int, now: float, voice: Voice) -> bytes:
        raise AssertionError((size_bytes, now, voice))

    return Line(nothing, [Piece(when, samples) for when, samples in pieces], Voice(rate=RATE))


def test_a_recording_is_taken_apart_to_the_sample(music: bytes) -> None:
    recording = silence(100) + part(music, 0, 5000) + silence(777) + part(music, 4990, 9000) + part(music, 9100, 9500)
    assert stretches(recording, music, FRAME_BYTES) == [
        Stretch(100, 0, 5000),
        Stretch(5877, 4990, 4010),
        Stretch(9887, 9100, 400),
    ]


def test_what_is_not_of_the_original_is_no_stretch(music: bytes) -> None:
    wrong = bytes(byte ^ 0x55 or 1 for byte in part(music, 1000, 1200))
    recording = part(music, 0, 1000) + wrong + part(music, 1200, 2000)
    assert stretches(recording, music, FRAME_BYTES) == [Stretch(0, 0, 1000), Stretch(1200, 1200, 800)]


def test_breaks_between_domains_and_within_one(music: bytes) -> None:
    first = line((10.0, silence(100)), (11.0, part(music, 0, 4800)), (11.2, silence(4800) + part(music, 4800, 9600)))
    spare = line((10.5, silence(1000)))
    second = line((11.5, silence(480) + part(music, 9000, 13800)))
    found = passages([(3, second), (2, spare), (1, first)], music)
    assert [(each.pid, each.of, each.end) for each in found] == [(1, 0, 4800), (1, 4800, 9600), (3, 9000, 13800)]
    dry, recovered = breaks(found)
    assert (dry.lost, dry.changed, round(dry.silence_seconds, 6)) == (0, False, 0.1)
    assert (recovered.lost, recovered.changed, round(recovered.silence_seconds, 6)) == (-600, True, 0.2)


def test_how_late_music_goes_on_is_told_by_the_pieces_that_are_least_late(music: bytes) -> None:
    """Pieces of 10 ms, some late, later ones more; 30 ms are left out, after a silence that is 2 ms longer."""
    late, later = (0.0, 0.004, 0.002), (0.003, 0.0, 0.009)
    before = line(*((10 + n / 100 + late[n % 3], part(music, 480 * (n - 1), 480 * n)) for n in range(1, 21)))
    after = line(*((10.002 + n / 100 + later[n % 3], part(music, 480 * (n - 1), 480 * n)) for n in range(24, 40)))
    (found,) = breaks(passages([(1, before), (2, after)], music))
    assert (found.lost, found.changed, round(found.late_seconds, 6)) == (1440, True, 0.002)


def test_holes_of_a_recording_of_the_world() -> None:
    def world(begin: int, end: int) -> bytes:
        return world_frames(begin, end - begin)

    recording = silence(7) + world(50, 1050) + silence(200) + world(1250, 1300) + silence(10) + world(1330, 1400)
    assert holes(recording) == [Hole(1007, 200, 0), Hole(1257, 10, -20)]
    assert holes(world(29000, 31000)) == []
    assert holes(world(0, 100) + world(95, 200)) == [Hole(100, 0, 5)]
    assert holes(silence(100)) == []


def test_an_ear_hears_the_world_as_time_goes_by() -> None:
    ear = Ear(World(began=100.0))
    voice = Voice(rate=1000)
    assert ear(4000, 105.0, voice) == b""
    heard = ear(4000, 105.125, voice)
    assert len(heard) == 125 * FRAME_BYTES
    assert world_number(heard[:FRAME_BYTES]) == 5000
    assert len(ear(40, 105.25, voice)) == 40
    assert world_number(silence(1)) is None


def test_calls_values_and_descriptors_between_two_peers() -> None:
    heard: list[Message] = []

    def answer(message: Message) -> tuple[str, Sequence[Any]] | None:
        heard.append(message)
        return ("ay", [b"answer"]) if message.member == "Read" else None

    async def body() -> None:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        caller, called = Peer(ours, answer), Peer(theirs, answer)
        opening = asyncio.create_task(caller.open())
        await greet(theirs)
        await opening
        called.listen()
        await caller.call("/path", "an.Interface", "Init", "ubt", [7, 1, 1 << 40])
        assert (heard[0].member, heard[0].path, heard[0].body) == ("Init", "/path", [7, 1, 1 << 40])
        await caller.call("/path", "an.Interface", "Read")
        await called.close()
        with pytest.raises(DBusError, match="not answered"):
            await caller.call("/path", "an.Interface", "Init")
        await caller.close()

    asyncio.run(body())


async def greet(connection: socket.socket) -> None:
    """What the other side of the authentication says."""
    loop = asyncio.get_running_loop()
    assert (await loop.sock_recv(connection, 512)).startswith(b"\0AUTH EXTERNAL ")
    await loop.sock_sendall(connection, b"OK 0123\r\n")
    assert await loop.sock_recv(connection, 512) == b"NEGOTIATE_UNIX_FD\r\n"
    await loop.sock_sendall(connection, b"AGREE_UNIX_FD\r\n")
    assert await loop.sock_recv(connection, 512) == b"BEGIN\r\n"


def test_breaks_are_told_from_those_that_nothing_caused() -> None:
    """A failure's own, one that had begun before it, one after it had been recovered from, and one of no failure's."""
    trials = [Trial(Failure("halt", started=100.0, resumed=101.5)), Trial(Failure("kill", started=110.0))]
    assert owner_of(100.1, 1.4, trials) == 0
    assert owner_of(99.8, 1.7, trials) == 0
    assert owner_of(102.0, 0.1, trials) == 0
    assert owner_of(105.0, 0.1, trials) is None
    assert owner_of(110.2, 0.1, trials) == 1


def test_what_a_dry_card_made_late_counts_until_the_next_failure() -> None:
    """Under the policy clock the music is in time again after that: it leaves out both."""
    trials = [Trial(Failure("kill", at, resumed=at + 0.02, recovery_seconds=0.02)) for at in (100.0, 110.0, 120.0)]
    heard = [
        Break(90.0, 0.2, 0, changed=False, late_seconds=0.27),
        Break(95.0, 0.1, 0, changed=False, late_seconds=0.03),
        Break(100.0, 0.1, 22080, changed=True, late_seconds=-0.36),
        Break(100.3, 0.0, -960, changed=False, late_seconds=0.06),
        Break(110.0, 0.1, 4800, changed=True, late_seconds=0.001),
    ]
    dry, unheard = attribute(heard, trials, 0.0)
    assert dry == heard[:2]
    assert unheard == trials[2:]
    assert [trial.late_seconds for trial in trials] == [0.0, 0.001, None]
    assert (trials[0].silence_seconds, trials[0].lost, trials[0].stuttered) == (0.1, 22080, 960)


def test_what_is_told_of_failures() -> None:
    trials = [
        Trial(Failure("kill", 100.0, resumed=100.2, recovery_seconds=0.02, means="spare"), 0.1, -300),
        Trial(Failure("silent", 110.0, resumed=110.2, recovery_seconds=0.04, means="spare"), 0.5, 7, 4096),
        Trial(Failure("hang", 120.0)),
    ]
    told = document("sb16", "mixed", Heard(trials, [], {}, ["player ended with 1"]))
    assert (told["count"], told["unrecovered"], told["application_errors"]) == (3, 1, 2)
    assert told["lost_frames"]["max"] == 7
    assert told["repeated_frames"]["max"] == 300
    assert told["stuttered_frames"]["max"] == 4096
    assert told["outage_seconds"] == {"p50": 0.3, "p95": 0.5, "max": 0.5}
    assert told["ways"]["silent"]["recovery_seconds"]["max"] == 0.04


def test_what_a_listener_would_complain_of(music: bytes) -> None:
    noise = bytes(byte ^ 0x55 or 1 for byte in part(music, 20000, 21000))
    heard = [(11.0, part(music, 0, 10000)), (11.5, silence(3000) + part(music, 9000, 20000))]
    assert wrongs({1: line(*heard)}, music) == []
    assert wrongs({1: line(*heard, (12.0, noise))}, music) == ["1000 frames that nobody played"]
    held_back = noise[:3600]
    assert wrongs({0: line(), 1: line((10.0, held_back + silence(50)), *heard)}, music) == []
    assert wrongs({1: line((10.0, 3 * noise), *heard)}, music) == ["3000 frames that nobody played"]
    reset = line(*heard)  # a broken driver sets its card to eight bits at its end
    reset.out.bits, reset.heard = 8, [*reset.heard, Piece(13.0, noise, 2)]
    assert wrongs({1: reset}, music) == ["1000 frames that nobody played"]
    assert wrongs({1: line(*heard), 2: line((13.0, part(music, 30000, 31000)))}, music) == ["10000 frames lost"]

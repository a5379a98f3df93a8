"""Sound nooks on a user's own server, with the programs that people have; bad input and broken surroundings."""

import asyncio
import shutil
import time
from pathlib import Path

import pytest

from nooks.lab.sound.recorder import recorder

from .conftest import Bench
from .sound_servers import UserServer, user_server
from .test_nook_bad_input import check_refused

pytestmark = [pytest.mark.vm, pytest.mark.skipif(shutil.which("pulseaudio") is None, reason="needs PulseAudio")]

PLAYERS = {
    "paplay": "paplay --device={sink} {chirp}",
    "mpg123": "mpg123 -q -o pulse -a {sink} {mp3}",
    "sox": "sox -q {chirp} -t pulseaudio {sink}",
    "ffmpeg": "ffmpeg -loglevel error -nostdin -i {chirp} -f pulse -device {sink} chirp",
    "espeak-ng": "espeak-ng one-two-three",
}
HEARD_BYTES = 90_000
"""Of each; ffmpeg ends without waiting for what the server still has."""

BACK_SECONDS = 20.0


@pytest.fixture(params=["pulseaudio", "pipewire"])
def server(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # noqa: ANN201
    """A server of this user's, to which nooks started meanwhile come."""
    if shutil.which(request.param) is None or shutil.which("dbus-run-session") is None:
        pytest.skip(f"needs {request.param}")
    with user_server(request.param, tmp_path) as made:
        monkeypatch.setenv("XDG_RUNTIME_DIR", made.environment["XDG_RUNTIME_DIR"])
        monkeypatch.delenv("PULSE_SERVER", raising=False)
        yield made


def start(bench: Bench, *flags: str) -> str:
    """Start a sound nook; the name of its sink."""
    started = bench.ok("start", "--driver", "intel8x0", "--name", bench.name, *flags)
    bench.stack.callback(bench.nooks, "stop", bench.name, "--force")
    assert started["private_server"] is False
    return started["sink"]


def test_what_people_play_and_record_with(bench: Bench, server: UserServer, tmp_path: Path) -> None:
    chirp, mp3, recording = tmp_path / "chirp.wav", tmp_path / "chirp.mp3", tmp_path / "recorded.wav"
    tone = "ffmpeg -loglevel error -f lavfi -i sine=frequency=440:sample_rate=48000:duration=3 -ac 2"
    for file in (chirp, mp3):
        assert server.run(*tone.split(), str(file)).returncode == 0

    async def body() -> None:
        async with recorder() as ears:
            sink = await asyncio.to_thread(start, bench, "--line", f"unix:{ears.path}")
            for name, command in PLAYERS.items():
                before = sum(len(piece.samples.strip(b"\0")) for line in ears.lines.values() for piece in line.heard)
                argv = [word.format(sink=sink, chirp=chirp, mp3=mp3) for word in command.split()]
                done = await asyncio.to_thread(server.run, *argv, PULSE_SINK=sink)
                assert (done.returncode, done.stderr) == (0, ""), (name, done)
                after = sum(len(piece.samples.strip(b"\0")) for line in ears.lines.values() for piece in line.heard)
                assert after - before > HEARD_BYTES, name
            words = f"timeout -s INT 5 parecord --latency-msec=100 --device={sink}.source"
            argv = [*words.split(), str(recording)]
            await asyncio.to_thread(server.run, *argv)
            assert recording.stat().st_size > 48000

    asyncio.run(body())
    assert bench.status()["failures"] == 0


def test_a_server_that_ends_and_comes_back(bench: Bench, server: UserServer) -> None:
    sink = start(bench)
    server.end()
    time.sleep(1)
    assert bench.status()["state"] == "running"
    server.begin()
    deadline = time.monotonic() + BACK_SECONDS
    while sink not in server.pactl("list", "short", "sinks").stdout:
        assert time.monotonic() < deadline, server.pactl("list", "short", "sinks")
        time.sleep(0.2)


@pytest.mark.parametrize("server", ["pulseaudio"], indirect=True)
def test_bad_input(bench: Bench, server: UserServer, tmp_path: Path) -> None:
    sink = start(bench)
    check_refused(bench.nooks("set", bench.name, "mixer.master-playback-volume=200%"), 2, "0 to 63, or 0% to 100%")
    check_refused(bench.nooks("set", bench.name, "mixer.mister-playback-volume=1"), 2, "perhaps mixer.master-playback")
    check_refused(bench.nooks("set", bench.name, "policy=loud"), 2, "it is content or clock")
    other = ("start", "--driver", "intel8x0", "--name", f"{bench.name}b")
    server.pactl("load-module", "module-null-sink", f"sink_name=nooks-{bench.name}b")
    check_refused(bench.nooks(*other), 2, f"has a sink or source nooks-{bench.name}b already")
    check_refused(bench.nooks(*other, "--latency", "none"), 2, "it must be default or low")
    check_refused(bench.nooks(*other, "--line", "none/there"), 2, "--line")
    server.pactl("set-default-sink", sink)
    chirp = tmp_path / "noise.raw"
    chirp.write_bytes(bytes(range(1, 256)) * 6000)
    with_player = ["sh", "-c", f'paplay --raw --device={sink} {chirp} & sleep 2; exec "$@"', "sh"]
    stopped = bench.nooks("stop", bench.name, within=with_player)
    assert stopped.status == 0, stopped
    assert f"{sink}\t" not in server.pactl("list", "short", "sinks").stdout


def test_no_server_and_none_to_start(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for folder in ("/usr/bin", "/usr/sbin", "/bin", "/sbin"):
        for program in Path(folder).iterdir():
            if program.name != "pulseaudio" and not (programs / program.name).exists():
                (programs / program.name).symlink_to(program)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "nothing"))
    done = bench.nooks("start", "--driver", "intel8x0", "--name", bench.name)
    check_refused(done, 1, "no sound server runs, and PulseAudio is not installed")

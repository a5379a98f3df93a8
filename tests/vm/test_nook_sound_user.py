"""A sound nook of an ordinary user, who has no privilege at all, on that user's own sound server."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import nooks
from nooks.host import paths
from nooks.host.pace import slowness
from nooks.lab.sound.music import write_music

from .sound_servers import UserServer

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user"),
    pytest.mark.skipif(shutil.which("pulseaudio") is None, reason="needs PulseAudio"),
]

INTERPRETER = f"python{sys.version_info.major}.{sys.version_info.minor}"
CACHED = ("kernels", "userlands", "resolved")
"""What needn't be fetched and made again; the image and the snapshot are the user's own."""

WAIT_SECONDS = 60.0
MUSIC_SECONDS = 15


@dataclass
class User:
    """Somebody with a home, a runtime directory and a sound server, known by a number that nobody has."""

    number: int
    folder: Path
    server: UserServer

    def nooks(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the command line as that user."""
        return self.server.run(str(self.folder / "venv/bin/python"), "-m", "nooks.cli.main", *words, "--json")

    def ok(self, *words: str) -> Any:  # noqa: ANN401 - any JSON
        """A command that must succeed; its document."""
        done = self.nooks(*words)
        assert done.returncode == 0, done.stderr + self.log()
        return json.loads(done.stdout.splitlines()[-1])

    def until(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The nook's status as soon as it is so."""
        deadline = time.monotonic() + WAIT_SECONDS * slowness()
        while not holds(status := self.ok("status", "speakers")):
            assert time.monotonic() < deadline, f"{status}\n{self.log()}"
            time.sleep(0.1)
        return status

    def processes(self) -> dict[int, str]:
        """All that runs as that user, by command line."""
        found: dict[int, str] = {}
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdecimal() and entry.stat().st_uid == self.number:
                    words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    if words:  # else it has ended
                        found[int(entry.name)] = words
            except (FileNotFoundError, ProcessLookupError):
                continue
        return found

    def log(self) -> str:
        """What the nook's log says."""
        path = self.folder / "nooks/speakers.log"
        return path.read_text()[-4000:] if path.exists() else ""


def base_interpreter(become: tuple[str, ...]) -> str:
    """An interpreter that the user may run: ours may lie in somebody's home."""
    for place in (sys.executable, f"/usr/bin/{INTERPRETER}", f"/usr/local/bin/{INTERPRETER}"):
        if shutil.which(place) and not subprocess.run([*become, place, "-c", ""], check=False).returncode:
            return place
    pytest.skip(f"another user can't run {INTERPRETER}")


@pytest.fixture(scope="module")
def somebody() -> Iterator[User]:
    """A user with nothing but a sound server."""
    number = 1_700_000_000 + secrets.randbelow(1 << 20)
    # setpriv itself keeps root's capabilities until it calls another program, and would find what the user can't.
    become = ("setpriv", f"--reuid={number}", f"--regid={number}", "--clear-groups", "env")
    base = base_interpreter(become)
    with tempfile.TemporaryDirectory(prefix="user-") as name, pytest.MonkeyPatch.context() as patch:
        for key in ("PULSE_SERVER", "NOOKS_RUN_DIR", "NOOKS_LOG_DIR"):
            patch.delenv(key, raising=False)
        folder = Path(name)
        server = UserServer("pulseaudio", folder, become=become)
        server.environment["XDG_CACHE_HOME"] = str(folder / "cache")
        for kind in CACHED:
            if (paths.cache_dir() / kind).exists():
                shutil.copytree(paths.cache_dir() / kind, folder / "cache/nooks" / kind, symlinks=True)
        subprocess.run(["chown", "-R", f"{number}:{number}", name], check=True)
        assert server.run(base, "-m", "venv", "--without-pip", str(folder / "venv")).returncode == 0
        site = folder / f"venv/lib/{INTERPRETER}/site-packages/ours.pth"
        lines = [f"import site; site.addsitedir({place!r})" for place in sys.path if place.endswith("site-packages")]
        site.write_text("\n".join([*lines, str(Path(nooks.__file__).parent.parent)]) + "\n")
        server.begin()
        try:
            yield User(number, folder, server)
        finally:
            server.end()


@pytest.fixture
def user(somebody: User) -> Iterator[User]:
    """That user; nothing runs in the end but the sound server."""
    yield somebody
    left = {pid: words for pid, words in somebody.processes().items() if not words.startswith("pulseaudio ")}
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == {}


def test_music_goes_on_without_any_privilege(user: User) -> None:
    started = user.ok("start", "--driver", "intel8x0", "--name", "speakers", "--intensity", "100")
    assert started["private_server"] is False
    assert started["server"] == user.server.address
    music = user.folder / "music.raw"
    write_music(music, 48000 * MUSIC_SECONDS, 1)
    argv = ["paplay", "--raw", f"--device={started['sink']}", "--rate=48000", "--channels=2", str(music)]
    env = {**os.environ, **user.server.environment}
    player = subprocess.Popen([*user.server.become, *argv], env=env, stderr=subprocess.PIPE, text=True)
    try:
        for how in ("kill", "hang", "panic"):
            before = user.until(lambda status: status["spare_ready"])["recoveries"]
            user.ok("crash", "speakers", "--how", how)
            user.until(lambda status, before=before: status["recoveries"] > before)
        _, said = player.communicate(timeout=(MUSIC_SECONDS + WAIT_SECONDS) * slowness())
        assert (player.returncode, said) == (0, "")
    finally:
        player.kill()
        player.communicate()
    assert user.ok("set", "speakers", "mixer.master-playback-volume=50%")["settings"]
    user.ok("stop", "speakers")
    assert user.server.pactl("list", "short", "sinks").stdout.count("nooks-") == 0
    assert list((user.folder / "runtime/nooks").iterdir()) == []


def test_a_domain_has_no_network_and_no_new_privilege(user: User) -> None:
    user.ok("start", "--driver", "intel8x0", "--name", "speakers")
    pid = user.ok("status", "speakers")["domain_pid"]
    names = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
    assert [name.split(":")[0].strip() for name in names] == ["lo"]
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert (status["NoNewPrivs"], status["Seccomp"], int(status["CapEff"], 16)) == ("1", "2", 0)
    user.ok("stop", "speakers")


def test_a_supervisor_that_dies_is_replaced_and_what_both_daemons_left_is_ended(user: User) -> None:
    started = user.ok("start", "--driver", "intel8x0", "--name", "speakers")
    os.kill(started["pid"], signal.SIGKILL)
    adopted = user.ok("start", "speakers")
    assert adopted["domain_pid"] == started["domain_pid"]
    daemons = [pid for pid, words in user.processes().items() if "keeper" in words or pid == adopted["pid"]]
    assert len(daemons) == 2
    for pid in daemons:
        os.kill(pid, signal.SIGKILL)
    again = user.ok("start", "--driver", "intel8x0", "--name", "speakers")
    domains = [pid for pid, words in user.processes().items() if "qemu" in words]
    assert again["domain_pid"] in domains
    assert started["domain_pid"] not in domains
    user.ok("stop", "speakers")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("start", "--driver", "e1000", "--name", "nic0"), "a network nook needs root"),
        (("start", "--driver", "ens1371", "--name", "speakers"), "with the device model:es1371 needs root"),
    ],
)
def test_what_takes_root_is_told(user: User, words: tuple[str, ...], said: str) -> None:
    done = user.nooks(*words)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1

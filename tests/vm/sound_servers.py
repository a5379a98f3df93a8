"""Sound servers of a user, for tests: PulseAudio or PipeWire in a runtime directory of its own."""

import os
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ANSWER_SECONDS = 30.0


@dataclass
class UserServer:
    """A server that may end and begin again; ``environment`` leads its user's programs to it.

    ``become`` is put before every program, to run it as another user.
    """

    kind: str
    folder: Path
    environment: dict[str, str] = field(default_factory=dict[str, str])
    become: tuple[str, ...] = ()
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list[subprocess.Popen[bytes]])

    def __post_init__(self) -> None:
        runtime = self.folder / "runtime"
        runtime.mkdir(mode=0o700)
        home = {key: str(self.folder) for key in ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME")}
        self.environment = {"XDG_RUNTIME_DIR": str(runtime), **home}

    @property
    def address(self) -> str:
        """Where it is found."""
        return f"unix:{self.folder / 'runtime' / 'pulse' / 'native'}"

    def begin(self) -> None:
        """Start it, and wait until it answers."""
        if self.kind == "pulseaudio":
            argv = ["pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--disallow-exit=no"]
            self._spawn(*argv, "--log-level=error", "--load", "module-native-protocol-unix")
        else:
            script = "pipewire & sleep 0.5; wireplumber & sleep 1; exec pipewire-pulse"
            self._spawn("dbus-run-session", "--", "sh", "-c", f"trap 'kill 0' TERM; {script}")
        deadline = time.monotonic() + ANSWER_SECONDS
        while self.pactl("info").returncode:
            assert time.monotonic() < deadline, self.pactl("info").stderr
            time.sleep(0.1)

    def end(self) -> None:
        """End it. Again is harmless."""
        for process in self._processes:
            os.killpg(process.pid, 15)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.wait()
        self._processes.clear()

    def run(self, *argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A program of this user's."""
        env = {**os.environ, **self.environment, **environment}
        return subprocess.run([*self.become, *argv], env=env, capture_output=True, text=True, check=False, timeout=120)

    def pactl(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Ask the server."""
        return self.run("pactl", *words)

    def _spawn(self, *argv: str) -> None:
        log = (self.folder / "server.log").open("ab")
        env = {**os.environ, **self.environment}
        with log:
            made = subprocess.Popen(
                [*self.become, *argv], env=env, stdout=log, stderr=log, stdin=log, start_new_session=True
            )
        self._processes.append(made)


@contextmanager
def user_server(kind: str, folder: Path) -> Generator[UserServer]:
    """A running server for the block."""
    server = UserServer(kind, folder)
    try:
        server.begin()
        yield server
    finally:
        server.end()

"""A PulseAudio of a nook's own, where no sound server runs. It goes on when its supervisor dies."""

import asyncio
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path

from nooks.endpoint.pulse import PulseClient, PulseError
from nooks.endpoint.sound_server import Server, reach
from nooks.host.errors import MachineError
from nooks.host.hardening import expose_to_oom_killer
from nooks.host.pace import slowness
from nooks.host.process import Process, spawn

PROGRAM = "pulseaudio"
SOCKET = "pulse"

_START_SECONDS = 5.0
_POLL_SECONDS = 0.02


def address(directory: Path) -> str:
    """Where the server of the nook with this run directory is found."""
    return f"unix:{directory / SOCKET}"


def check() -> None:
    """Raises MachineError if there is no PulseAudio that could be started."""
    if shutil.which(PROGRAM) is None:
        what = "no sound server runs, and PulseAudio is not installed, which would be started then"
        raise MachineError(what, "apt-get install pulseaudio, or start PipeWire with pipewire-pulse")


async def start(directory: Path) -> tuple[Server, Process]:
    """Start a server and connect to it; its process is the caller's to hold. Raises MachineError; none runs then."""
    check()
    socket = directory / SOCKET
    socket.unlink(missing_ok=True)
    state = directory / "pulse-state"
    state.mkdir(exist_ok=True)
    argv = [
        *(PROGRAM, "-n", "--daemonize=no", "--use-pid-file=no", "--exit-idle-time=-1", "--disallow-exit=no"),
        *("--log-level=error", "--log-target=stderr"),
        *("--load", f"module-native-protocol-unix socket={socket}"),
        *("--load", "module-suspend-on-idle"),
    ]
    env = {**os.environ, "PULSE_RUNTIME_PATH": str(state), "PULSE_STATE_PATH": str(state), "HOME": str(state)}
    process = spawn(argv, stderr=sys.stderr.fileno(), env=env, new_session=True)
    expose_to_oom_killer(process.pid)
    try:
        return await _answering(directory, process), process
    except BaseException:
        process.kill_now()
        raise


async def end(directory: Path) -> None:
    """End a server that a nook of this directory left, if one answers there."""
    if not (directory / SOCKET).exists():
        return
    with suppress(PulseError):
        client = await PulseClient.connect(address(directory), "nooks")
        try:
            await client.end_server()
        finally:
            await client.close()


async def _answering(directory: Path, process: Process) -> Server:
    deadline = asyncio.get_running_loop().time() + _START_SECONDS * slowness()
    while True:
        if process.returncode is not None:
            raise MachineError(f"PulseAudio ended with {process.returncode} when it was started", "see the nook's log")
        try:
            if (directory / SOCKET).exists():
                return await reach(address(directory), os.geteuid())
        except PulseError as error:
            if asyncio.get_running_loop().time() > deadline:
                raise MachineError(
                    f"PulseAudio was started and does not answer: {error}", "see the nook's log"
                ) from None
        await asyncio.sleep(_POLL_SECONDS)

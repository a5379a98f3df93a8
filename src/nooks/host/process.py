"""The one module that starts processes.

A process is held by its pidfd, never by a number that the kernel may give to somebody else. Descriptors are made
by the parent, handed over, and closed in the parent by whoever made them.
"""

import asyncio
import os
import select
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nooks.host.errors import MachineError, NooksError

WRITTEN_FILE_BYTES = 64 << 20
"""What a confined process may write to a file: a domain writes its device state (0.5 MB) when a snapshot is taken."""

TERMINATE_SECONDS = 5.0
"""How long a process may take to end after SIGTERM before it gets SIGKILL."""


class ProcessError(NooksError):
    """A program could not be started, failed, or took too long."""


class ReapError(ProcessError):
    """A process did not end although it was killed: it may still touch what it holds."""


@dataclass(frozen=True)
class Confinement:
    """What a process is confined to.

    ``user_id`` and ``group_id`` replace root's; ``network`` is the descriptor of the network namespace that it
    enters. None: a new one, in a user namespace of its own, which an ordinary user may make; user and groups stay then
    (user_namespaces(7)). ``address_space_bytes`` bounds its memory where no cgroup can; ``extra_group`` opens a device
    node; ``locked_bytes`` of its memory may be locked (VFIO pins a guest's: Documentation/driver-api/vfio.rst);
    ``written_file_bytes`` is the largest file that it may write, None for any.
    """

    user_id: int
    group_id: int
    network: int | None
    address_space_bytes: int
    extra_group: int | None = None
    locked_bytes: int | None = None
    written_file_bytes: int | None = WRITTEN_FILE_BYTES


def require(program: str, packages: str) -> None:
    """Raises MachineError if there is no such program; ``packages`` have it."""
    if shutil.which(program) is None:
        raise MachineError(f"{program} is not installed", f"apt-get install {packages}")


def run(
    argv: Sequence[str],
    *,
    timeout_seconds: float = 120.0,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and return it with its output as text.

    Raises ProcessError (with the program, its exit status and the end of what it said) unless it exits with 0.
    """
    try:
        done = subprocess.run(
            argv,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_seconds,
            env=env,
            cwd=cwd,
            check=False,
        )
    except FileNotFoundError:
        raise ProcessError(f"{argv[0]} is not installed", "run 'nooks doctor'") from None
    except subprocess.TimeoutExpired:
        raise ProcessError(f"{argv[0]} did not finish in {timeout_seconds:.0f} s") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip())[-600:]
        raise ProcessError(f"{' '.join(argv[:4])} failed with exit status {done.returncode}: {said}")
    return done


class Process:
    """A child process, held by its pidfd."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen = popen
        self.pid = popen.pid
        self.pidfd = os.pidfd_open(popen.pid)

    @property
    def returncode(self) -> int | None:
        """The exit status (negative: the signal), or None while it runs."""
        return self._popen.poll()

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to this very process; does nothing if it is gone."""
        send_signal(self.pidfd, number)

    async def kill(self, *, within_seconds: float) -> None:
        """SIGKILL and reap. Raises ReapError if it is still there after ``within_seconds``."""
        await kill(self.pidfd, within_seconds=within_seconds)
        self._popen.wait()

    def kill_now(self) -> None:
        """SIGKILL, reap and close without an event loop to wait in; for undoing a launch that failed half-way."""
        self.send_signal(signal.SIGKILL)
        self._popen.wait()
        self.close()

    async def terminate(self, *, within_seconds: float = TERMINATE_SECONDS) -> None:
        """SIGTERM, and SIGKILL for what does not end by it; reaped in any case."""
        self.send_signal(signal.SIGTERM)
        if not await wait_readable(self.pidfd, within_seconds):
            await self.kill(within_seconds=within_seconds)
        self._popen.wait()

    def close(self) -> None:
        """Give up the pidfd. The process must have ended or be somebody else's to end."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


def spawn(
    argv: Sequence[str],
    *,
    pass_fds: Sequence[int] = (),
    stderr: int = subprocess.DEVNULL,
    stdout: int = subprocess.DEVNULL,
    env: Mapping[str, str] | None = None,
    new_session: bool = False,
    confinement: Confinement | None = None,
) -> Process:
    """Start a program that goes on beside us.

    ``confinement`` is put in front as a chain of exec calls (nsenter or unshare, prlimit, setpriv), so that the pid
    stays and no Python code runs between fork and exec. Raises ProcessError if the program is missing.
    """
    command = list(argv)
    descriptors = list(pass_fds)
    if confinement is not None:
        command = _confined(command, confinement)
        if confinement.network is not None:
            descriptors.append(confinement.network)
    try:
        popen = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            pass_fds=descriptors,
            env=env,
            start_new_session=new_session,
        )
    except FileNotFoundError:
        raise ProcessError(f"{command[0]} is not installed", "run 'nooks doctor'") from None
    return Process(popen)


def _confined(command: list[str], confinement: Confinement) -> list[str]:
    limits = [
        "prlimit",
        f"--as={confinement.address_space_bytes}",
        f"--fsize={'unlimited' if confinement.written_file_bytes is None else confinement.written_file_bytes}",
        "--core=0",
        "--nofile=256",
        *([] if confinement.locked_bytes is None else [f"--memlock={confinement.locked_bytes}"]),
        "--",
    ]
    if confinement.network is None:
        alone = ["unshare", "--user", "--map-current-user", "--net", "--"]
        return [*alone, *limits, "setpriv", "--no-new-privs", "--", *command]
    return [
        "nsenter",
        f"--net=/proc/self/fd/{confinement.network}",
        "--",
        *limits,
        "setpriv",
        f"--reuid={confinement.user_id}",
        f"--regid={confinement.group_id}",
        "--clear-groups" if confinement.extra_group is None else f"--groups={confinement.extra_group}",
        "--no-new-privs",
        "--bounding-set=-all",
        "--inh-caps=-all",
        "--",
        *command,
    ]


def send_signal(pidfd: int, number: signal.Signals) -> None:
    """Signal the process behind a pidfd; does nothing if it is gone."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return


async def kill(pidfd: int, *, within_seconds: float) -> None:
    """Kill the process behind a pidfd (a child or an adopted one) and wait until it is dead.

    When a pidfd becomes readable the whole thread group is gone and its descriptors are closed (pidfd_open(2)).
    Raises ReapError after ``within_seconds``.
    """
    send_signal(pidfd, signal.SIGKILL)
    if not await wait_readable(pidfd, within_seconds):
        raise ReapError(
            f"a killed process is still there after {within_seconds:.0f} s",
            "it hangs in the kernel; look at its state in /proc before anything else touches its device",
        )


def pid_of(pidfd: int) -> int:
    """The process id behind a pidfd (proc(5): fdinfo); -1 if it is gone."""
    for line in Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines():
        if line.startswith("Pid:"):
            return int(line.split()[1])
    return -1


def has_ended(pidfd: int) -> bool:
    """Whether the process behind a pidfd has ended."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


async def wait_readable(fd: int, within_seconds: float | None = None) -> bool:
    """Wait until ``fd`` becomes readable; False after ``within_seconds``."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    own = os.dup(fd)
    loop.add_reader(own, ready.set)
    try:
        async with asyncio.timeout(within_seconds):
            await ready.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(own)
        os.close(own)
    return True

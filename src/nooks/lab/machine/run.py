"""``nooks lab run``: starts a lab machine, runs one command in it, and leaves nothing behind."""

import contextlib
import fcntl
import os
import signal
import socket
import sys
import tempfile
import termios
import time
import tty
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nooks.domain.emulator import PROGRAM, SYSTEM, Emulator
from nooks.host import paths
from nooks.host.errors import InputError, NooksError
from nooks.host.process import Process, spawn
from nooks.image import userland
from nooks.image.emulator import with_vfio_user
from nooks.image.kernel import FLAVOURS, Kernel
from nooks.image.progress import Progress, quiet
from nooks.lab.machine import initramfs, kernels
from nooks.lab.machine.arguments import Files, command
from nooks.lab.machine.layout import Placed, has_own, medium_name, place, serial, socket_name
from nooks.lab.machine.options import Card, Wishes
from nooks.lab.machine.relay import STDERR, STDIN, STDOUT, LabError, Outcome, Relay, TooLongError
from nooks.lab.machine.wire import PORTS
from nooks.lab.model_card import powered

BOOT_SECONDS = 180.0
"""How long a lab may take to its command on a busy host (10 s on an idle one)."""

MEDIUM_BYTES = 256 << 20
"""Of a disk that was given no image."""

TOLD_LINES = 12
_PADDED = "pcnet"
"""This card throws away the short frames which a hub lets through; QEMU 7.2 pads them to 60 bytes, 11.1 does not."""

_PANIC = "Kernel panic"
HOSTNAME = "nooks-lab"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PASSED = ("HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TERM", "COLORTERM", "SHELL", "VIRTUAL_ENV")
_PASSED_PREFIXES = ("NOOKS_", "LC_", "XDG_STATE_")


@dataclass(frozen=True)
class Result:
    """``boot_seconds`` from starting QEMU to starting the command, ``seconds`` from there to its end."""

    exit_status: int
    boot_seconds: float
    seconds: float
    kernel: str
    console: Path


def run(
    wishes: Wishes,
    argv: Sequence[str],
    *,
    timeout_seconds: float | None = None,
    console: Path | None = None,
    stdout: int = STDOUT,
    progress: Progress = quiet,
) -> Result:
    """Run ``argv`` (empty: a shell) in a lab machine, in our working directory, with our streams.

    ``stdout`` is the descriptor that the command's standard output goes to. Raises InputError for a kernel that is
    unknown, LabError if the machine dies, does not boot, or the command takes longer than ``timeout_seconds``.
    """
    terminal = not argv and os.isatty(STDIN)
    kernel = kernels.resolve(wishes.kernel, progress)
    # A lab machine has no network: what a nook inside will want from the archive has to be in the cache by now.
    userland.resolve(FLAVOURS[kernel.flavour].architecture, progress)
    emulator = emulator_for(wishes.cards, progress)
    placed = place(wishes.cards, emulator)
    cache = paths.cache_dir()
    cache.mkdir(parents=True, exist_ok=True)
    job = make_job(argv, placed, terminal=terminal, environment=os.environ | wishes.environment)
    with ExitStack() as stack:
        log = stack.enter_context(_console(console))
        sockets, theirs = _ports(stack)
        archive = stack.enter_context(_initramfs(kernel, job, cache))
        complaints = os.memfd_create("nooks-lab-stderr", os.MFD_CLOEXEC)
        stack.callback(os.close, complaints)
        media = _media(placed, stack)
        files = Files(kernel.vmlinux, archive, cache, log, media, _own_cards(placed, media, stack))
        began = time.monotonic()
        qemu = spawn(
            command(wishes, placed, files, {kind: end.fileno() for kind, end in theirs.items()}, emulator),
            pass_fds=[archive, *(end.fileno() for end in theirs.values()), *files.cables.values()],
            stderr=complaints,
            new_session=True,  # the terminal's Ctrl-C is ours, not QEMU's
        )
        stack.callback(_end, qemu)
        for end in theirs.values():
            end.close()
        relay = Relay(sockets, qemu.pidfd, {"stdout": stdout, "stderr": STDERR})
        if terminal:
            stack.enter_context(_raw_terminal(relay))
        try:
            outcome = relay.run(BOOT_SECONDS, timeout_seconds)
        except LabError as error:
            raise _explained(error, qemu, complaints, log) from None
        return _result(outcome, began, kernel, log)


def emulator_for(cards: Sequence[Card], progress: Progress = quiet) -> Emulator:
    """The newest that is to be had: Debian 12's, 7.2, emulates virtualisation with faults that end the machine.

    With a card that is ``_PADDED`` the distribution's. Raises NooksError if a model of ours can't be had.
    """
    if has_own(cards):
        return with_vfio_user(progress)
    if all(card.model.name != _PADDED for card in cards):
        with contextlib.suppress(NooksError):
            return with_vfio_user(progress)
    return SYSTEM


def make_job(
    argv: Sequence[str], placed: Sequence[Placed], *, terminal: bool, environment: Mapping[str, str]
) -> dict[str, Any]:
    """What the inside is to do."""
    passed = {
        name: value for name, value in environment.items() if name in _PASSED or name.startswith(_PASSED_PREFIXES)
    }
    path = list(dict.fromkeys([*environment.get("PATH", _PATH).split(":"), *_PATH.split(":")]))
    shell = environment.get("SHELL") or "/bin/sh"
    size = os.get_terminal_size(STDIN) if terminal else os.terminal_size((80, 24))
    return {
        "argv": list(argv) or [shell],
        "directory": str(Path.cwd()),
        "terminal": terminal,
        "size": [size.lines, size.columns],
        "hostname": HOSTNAME,
        "environment": {
            "HOME": "/root",
            "TERM": "dumb",
            "LANG": "C.UTF-8",
            **passed,
            "PATH": ":".join(path),
            "XDG_CACHE_HOME": str(paths.cache_dir().parent),
            "NOOKS_LAB": "1",
        },
        "layout": [one.facts() for one in placed],
    }


def _media(placed: Sequence[Placed], stack: ExitStack) -> Path:
    """A folder with an empty medium for each disk that was given none."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nooks-lab-")))
    for one in placed:
        if one.card.model.wants_medium and one.card.drive is None:
            with (folder / medium_name(one.number)).open("wb") as file:
                file.truncate(MEDIUM_BYTES)
    return folder


def _own_cards(placed: Sequence[Placed], folder: Path, stack: ExitStack) -> dict[int, int]:
    """Switch on the models of ours; QEMU's end of the cable of each that has one, by number."""
    cables: dict[int, int] = {}
    for one in placed:
        name = one.card.model.own
        if name is None:
            continue
        ends: dict[str, int] = {}
        if one.wire is not None:
            card, lab = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            stack.enter_context(lab)
            stack.enter_context(card)
            cables[one.number], ends["cable"] = lab.fileno(), card.fileno()
        stack.enter_context(powered(name, folder / socket_name(one.number), ends, serial(one.number)))
    return cables


def _result(outcome: Outcome, began: float, kernel: Kernel, log: Path) -> Result:
    total = time.monotonic() - began
    return Result(
        exit_status=outcome.status,
        boot_seconds=round(outcome.ready_seconds, 2),
        seconds=round(total - outcome.ready_seconds, 2),
        kernel=kernel.version,
        console=log,
    )


@contextlib.contextmanager
def _console(wanted: Path | None) -> Generator[Path, None, None]:
    """The console log, emptied: the one that was given, or the first of the log directory that no lab is using."""
    if wanted is not None:
        wanted.write_bytes(b"")
        yield wanted.absolute()
        return
    folder = paths.log_dir() / "lab"
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    while True:
        path = folder / f"console-{number}.log"
        with path.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                number += 1
                continue
            file.truncate(0)
            yield path
            return


def _ports(stack: ExitStack) -> tuple[dict[str, socket.socket], dict[str, socket.socket]]:
    """A socket pair for each port: our ends, and QEMU's."""
    ours: dict[str, socket.socket] = {}
    theirs: dict[str, socket.socket] = {}
    for kind in PORTS:
        here, there = socket.socketpair()
        ours[kind], theirs[kind] = stack.enter_context(here), stack.enter_context(there)
    return ours, theirs


@contextlib.contextmanager
def _initramfs(kernel: Kernel, job: Mapping[str, Any], cache: Path) -> Generator[int, None, None]:
    """The descriptor of the initramfs."""
    needed = [Path.cwd(), Path(sys.prefix)]
    with os.fdopen(os.memfd_create("nooks-lab-initramfs", os.MFD_CLOEXEC), "wb") as file:
        initramfs.build(file, kernel, job, cache, needed)
        file.flush()
        yield file.fileno()


@contextlib.contextmanager
def _raw_terminal(relay: Relay) -> Generator[None, None, None]:
    """Our terminal without any editing or signals of its own; its size goes to the lab."""
    before = termios.tcgetattr(STDIN)

    def resized(number: int, frame: object) -> None:
        size = os.get_terminal_size(STDIN)
        relay.resize(size.lines, size.columns)

    handler = signal.signal(signal.SIGWINCH, resized)
    tty.setraw(STDIN)
    try:
        yield
    finally:
        termios.tcsetattr(STDIN, termios.TCSADRAIN, before)
        signal.signal(signal.SIGWINCH, handler)


def _end(qemu: Process) -> None:
    qemu.kill_now()


def _explained(error: LabError, qemu: Process, complaints: int, log: Path) -> NooksError:
    """The error with what QEMU, the kernel and the console said last."""
    where = f"its console is in {log}"
    if isinstance(error, TooLongError):
        return LabError(error.message, where)
    said = os.pread(complaints, 4096, 0).decode(errors="replace").splitlines()
    own = [line.partition(f"{PROGRAM}: ")[2] or line for line in said if line.strip() and "warning:" not in line]
    if qemu.returncode and own and own[-1].startswith("-device "):
        complaint = own[-1].partition(": ")[2].strip()
        return InputError(f"QEMU refuses a device: {complaint}", f"see '{PROGRAM} -device MODEL,help'")
    if qemu.returncode and own:
        return LabError(f"{error.message}: {own[-1].strip()}", where)
    console = log.read_text(errors="replace").splitlines() if log.exists() else []
    for line in console[-TOLD_LINES:]:
        print(f"lab console: {line.rstrip()}", file=sys.stderr)
    panic = next((line[line.index(_PANIC) :] for line in console if _PANIC in line), "")
    return LabError(f"{error.message}: {panic.strip()}" if panic else error.message, where)

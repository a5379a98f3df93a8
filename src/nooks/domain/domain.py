"""One domain: a QEMU process with the sockets that lead into it. Replaceable at any moment.

Knows nothing of drivers, classes or recovery; whoever holds a Domain decides what becomes of it.
"""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nooks.domain.console import Console
from nooks.domain.monitor import Event, Monitor, MonitorError
from nooks.domain.qemu import OVERHEAD_BYTES, Plan, command
from nooks.domain.snapshot import Snapshot, new_memory
from nooks.host import processors
from nooks.host.cgroup import MARK, Cgroup
from nooks.host.errors import NooksError
from nooks.host.hardening import expose_to_oom_killer
from nooks.host.process import (
    WRITTEN_FILE_BYTES,
    Confinement,
    Process,
    ReapError,
    has_ended,
    kill,
    pid_of,
    send_signal,
    spawn,
    wait_readable,
)

LOAD_SECONDS = 30.0
"""How long loading a snapshot may take on a starved host (45 ms on an idle one)."""

REAP_SECONDS = 10.0
"""How long a killed QEMU may take to be gone (3-7 ms on an idle host)."""

SOCKETS = ("qmp", "xpc", "heartbeat", "console", "debug")

MEMORY_STAYS = [{"capability": "x-ignore-shared", "state": True}]
"""The memory is a file already: only the devices' state is written and read (QEMU, migration/ram.c)."""

PINNED_BESIDE_BYTES = 64 << 20
"""What VFIO may pin beside the guest's memory: option ROMs, the cards' own regions."""

_TALKER = "IO vfio-user"
"""QEMU's thread that gets a device model's messages."""
PREPARING_NICENESS = 10
"""A spare is prepared behind everything that serves somebody."""


class LaunchError(NooksError):
    """QEMU did not start, or ended before it served."""


@dataclass(frozen=True)
class Jail:
    """Where domains of one nook run: their user, their empty network namespace, their control groups' prefix.

    ``network`` is None where we are not root: each domain makes its own then, and its user is ours.
    """

    user_id: int
    network: int | None
    cgroup_prefix: str

    def close(self) -> None:
        """Give the namespace up. Safe once."""
        if self.network is not None:
            os.close(self.network)


@dataclass
class Handles:
    """All that it takes to hold a domain; what the keeper keeps so that another supervisor can adopt it."""

    pidfd: int
    sockets: dict[str, socket.socket] = field(default_factory=dict[str, socket.socket])
    cgroup: Path | None = None


class Domain:
    """A QEMU process, its monitor, its console, and the raw sockets for XPC and heartbeats.

    ``memory`` is the descriptor of the guest's memory, of which a snapshot can be made after a cold boot.
    """

    def __init__(self, handles: Handles, *, process: Process | None = None, stderr: int = -1, memory: int = -1) -> None:
        self.handles = handles
        self.memory = memory
        self.console = Console(handles.sockets["console"])
        self.pid = pid_of(handles.pidfd)
        self.vcpu_thread = 0
        self.on_event: Callable[[Event], None] | None = None
        self._process = process
        self._stderr = stderr
        self._cgroup = Cgroup(handles.cgroup)
        self._monitor = Monitor(self._dispatch)
        self._closed = False

    @classmethod
    async def launch(
        cls,
        plan: Plan,
        attachments: Mapping[str, int],
        jail: Jail,
        name: str,
        *,
        snapshot: Snapshot | None = None,
        paused: bool = False,
        niceness: int = 0,
        keep_memory: bool = False,
    ) -> "Domain":
        """Start a QEMU process and wait until its monitor answers (and, with a snapshot, until that is loaded).

        ``attachments`` are descriptors for the plan's hardware; they stay the caller's. Without ``snapshot`` the
        domain boots cold, in a memory that a snapshot can be taken of; ``keep_memory`` gives one that is restored such
        a memory as well, by copying. Raises LaunchError; nothing is left then.
        """
        memory = _memory_for(plan, snapshot, keep_memory)
        shared = snapshot is None or keep_memory
        try:
            domain = cls._spawn(plan, attachments, jail, name, memory, shared, snapshot is not None, paused, niceness)
        except BaseException:
            os.close(memory)
            raise
        try:
            await domain._monitor.open(domain.handles.sockets["qmp"].dup())
            if snapshot is not None:
                await domain._load(snapshot)
            await domain._find_vcpu()
        except BaseException as error:
            said = domain.said()
            await domain.destroy()
            if isinstance(error, MonitorError):
                raise LaunchError(f"the domain's QEMU did not start: {said or error}") from error
            raise
        domain.console.watch()
        return domain

    @classmethod
    def _spawn(
        cls,
        plan: Plan,
        attachments: Mapping[str, int],
        jail: Jail,
        name: str,
        memory: int,
        shared: bool,
        incoming: bool,
        paused: bool,
        niceness: int,
    ) -> "Domain":
        with ExitStack() as ours, ExitStack() as theirs:
            sockets: dict[str, socket.socket] = {}
            descriptors: dict[str, int] = dict(attachments)
            for kind in SOCKETS if plan.debug else SOCKETS[:-1]:
                here, there = socket.socketpair()
                sockets[kind] = ours.enter_context(here)
                descriptors[kind] = theirs.enter_context(there).fileno()
            descriptors["memory"] = memory
            for kind, path in (("vmlinux", plan.vmlinux), ("initramfs", plan.initramfs)):
                descriptors[kind] = os.open(path, os.O_RDONLY)
                theirs.callback(os.close, descriptors[kind])
            if (emulator := plan.emulator.open()) is not None:
                descriptors["emulator"] = emulator
                theirs.callback(os.close, emulator)
            stderr, stderr_theirs = os.pipe()
            ours.callback(os.close, stderr)
            os.set_blocking(stderr_theirs, False)  # a QEMU that has much to say must not stop for want of a reader
            theirs.callback(os.close, stderr_theirs)
            process = spawn(
                [
                    *(["nice", "-n", str(niceness)] if niceness and _may_renice() else []),
                    *command(
                        plan,
                        descriptors,
                        incoming=incoming,
                        paused=paused,
                        shared=shared,
                    ),
                ],
                pass_fds=[*descriptors.values(), *plan.inherited],
                stderr=stderr_theirs,
                env={**os.environ, MARK: jail.cgroup_prefix},
                confinement=Confinement(
                    user_id=jail.user_id,
                    group_id=jail.user_id,
                    network=jail.network,
                    address_space_bytes=plan.address_space_bytes,
                    extra_group=plan.accelerator.group,
                    locked_bytes=plan.all_memory_bytes + PINNED_BESIDE_BYTES if plan.pinned else None,
                    written_file_bytes=None if plan.writes_files else WRITTEN_FILE_BYTES,
                ),
            )
            ours.callback(process.kill_now)  # whatever fails from here on must not leave it behind
            cgroup = Cgroup.create(f"{jail.cgroup_prefix}-{name}", plan.all_memory_bytes + OVERHEAD_BYTES)
            cgroup.add(process.pid)
            expose_to_oom_killer(process.pid)
            ours.pop_all()
        os.set_blocking(stderr, False)
        handles = Handles(process.pidfd, sockets, cgroup.path)
        return cls(handles, process=process, stderr=stderr, memory=memory)

    @classmethod
    async def adopt(cls, handles: Handles) -> "Domain":
        """Take over a running domain whose supervisor died. Raises MonitorError if its QEMU does not answer."""
        domain = cls(handles)
        await domain._monitor.open(handles.sockets["qmp"].dup(), resumed=True)
        await domain._find_vcpu()
        domain.console.watch()
        return domain

    @property
    def ended(self) -> bool:
        """Whether the QEMU process is gone."""
        return has_ended(self.handles.pidfd)

    async def wait_ended(self, within_seconds: float | None = None) -> bool:
        """Wait for the QEMU process to end by itself; False after ``within_seconds``."""
        return await wait_readable(self.handles.pidfd, within_seconds)

    async def run(self, *, niceness: int = 0) -> None:
        """Let the domain's CPU run (``cont``), at full priority unless it is a spare's. Raises MonitorError."""
        self._set_niceness(niceness)
        await self._monitor.execute("cont")

    async def pause(self) -> None:
        """Let the domain's CPU stand still (``stop``), until ``run``. Raises MonitorError."""
        await self._monitor.execute("stop")

    async def plug(self, device: Mapping[str, Any]) -> None:
        """Plug a device in while the domain runs or stands still (``device_add``). Raises MonitorError."""
        await self._monitor.execute("device_add", **device)

    def bind_to(self, processor: int) -> None:
        """Have the virtual processor, and what brings a device model's answers to it, run on one of the host's."""
        tasks = Path(f"/proc/{self.pid}/task")
        with contextlib.suppress(FileNotFoundError):  # it has just ended
            talking = [int(task.name) for task in tasks.iterdir() if (task / "comm").read_text().startswith(_TALKER)]
            processors.bind([self.vcpu_thread, *talking], processor)

    async def log_translations(self, descriptor: int) -> None:
        """Have the emulator write to the file ``descriptor`` which code of modules it translates from now on.

        It translates code when that is about to run for the first time, or again after it was changed. Needs a debug
        plan, and has no effect where the processor runs the code itself (KVM). Raises MonitorError.
        """
        number, _ = await self._monitor.add_descriptor(descriptor)
        for line in (f"logfile /proc/self/fd/{number}", "log in_asm"):
            said = await self._monitor.execute("human-monitor-command", **{"command-line": line})
            if said:
                raise MonitorError(f"QEMU does not log: {said.strip()}")

    async def command(self, name: str, **arguments: Any) -> Any:  # noqa: ANN401 - QMP takes and gives any JSON
        """Run a monitor command of which this class knows nothing. Raises MonitorError."""
        return await self._monitor.execute(name, **arguments)

    async def give_file(self, descriptor: int) -> str:
        """Hand QEMU a copy of ``descriptor`` for good; the name under which it opens it. Raises MonitorError."""
        _, file_set = await self._monitor.add_descriptor(descriptor)
        return f"/dev/fdset/{file_set}"

    async def connect_display(self, connection: socket.socket) -> None:
        """Let who has the other end of ``connection`` hear and feed the domain's sound card. Raises MonitorError."""
        await self._monitor.give_descriptor("display", connection.fileno())
        await self._monitor.execute("add_client", protocol="@dbus-display", fdname="display")

    async def status(self) -> str:
        """QEMU's run state (``running``, ``paused``, ``guest-panicked`` ...). Raises MonitorError."""
        return str((await self._monitor.execute("query-status"))["status"])

    async def migrate_to(self, descriptor: int) -> None:
        """Write the device state (not the memory) to ``descriptor``; the domain stands still from then on.

        Raises MonitorError.
        """
        await self._monitor.execute("migrate-set-capabilities", capabilities=MEMORY_STAYS)
        await self._monitor.execute("migrate-set-parameters", **{"max-bandwidth": 10**11})
        writable = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            uri = await self._monitor.give_file("state", writable)
        finally:
            os.close(writable)
        await self._monitor.execute("migrate", uri=uri)
        async with asyncio.timeout(LOAD_SECONDS):
            while True:
                facts = await self._monitor.execute("query-migrate")
                if facts.get("status") == "completed":
                    return
                if facts.get("status") in ("failed", "cancelled"):
                    raise MonitorError(f"the snapshot failed: {facts.get('error-desc', facts['status'])}")
                await asyncio.sleep(0.005)

    def stop_process(self) -> None:
        """Stop the whole process (SIGSTOP): what ``crash --how freeze`` does."""
        send_signal(self.handles.pidfd, signal.SIGSTOP)

    def kill_process(self) -> None:
        """SIGKILL without waiting: what ``crash --how kill`` does."""
        send_signal(self.handles.pidfd, signal.SIGKILL)

    async def fence(self) -> None:
        """Kill QEMU and return when it can touch nothing any more: process reaped, control group empty.

        Raises ReapError if that does not happen within ``REAP_SECONDS``.
        """
        try:
            self._cgroup.kill()
            if self._process is not None:
                await self._process.kill(within_seconds=REAP_SECONDS)
            else:
                await kill(self.handles.pidfd, within_seconds=REAP_SECONDS)
            async with asyncio.timeout(REAP_SECONDS):
                while not self._cgroup.is_empty():
                    await asyncio.sleep(0.001)
        except TimeoutError as error:
            raise ReapError(f"domain {self.pid} left processes behind", "look at its state in /proc") from error

    async def destroy(self) -> None:
        """Fence, then give back everything. Safe to call twice. Raises ReapError."""
        if self._closed:
            return
        await self.fence()
        await self.release()

    async def release(self) -> None:
        """Give back the descriptors and the control group of a domain that was fenced. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        await self._monitor.close()
        self.console.close()
        for each in self.handles.sockets.values():
            each.close()
        for descriptor in (self._stderr, self.memory):
            if descriptor >= 0:
                os.close(descriptor)
        if self._process is not None:
            self._process.close()
        else:
            os.close(self.handles.pidfd)
        self._cgroup.remove()

    def _dispatch(self, event: Event) -> None:
        if self.on_event is not None:
            self.on_event(event)

    def said(self) -> str:
        """What QEMU wrote to its standard error, its own name cut off."""
        try:
            text = os.read(self._stderr, 4096).decode(errors="replace") if self._stderr >= 0 else ""
        except BlockingIOError:
            return ""
        return " ".join(text.strip().replace("qemu-system-x86_64: ", "").split())[-400:]

    async def _load(self, snapshot: Snapshot) -> None:
        await self._monitor.execute("migrate-set-capabilities", capabilities=MEMORY_STAYS)
        state = snapshot.open_state()
        try:
            uri = await self._monitor.give_file("state", state)
        finally:
            os.close(state)
        await self._monitor.execute("migrate-set-parameters", **{"announce-rounds": 0})
        await self._monitor.execute("migrate-incoming", uri=uri)
        try:
            async with asyncio.timeout(LOAD_SECONDS):
                while await self.status() == "inmigrate":
                    await asyncio.sleep(0.002)
        except TimeoutError:
            raise MonitorError(f"the snapshot was not loaded within {LOAD_SECONDS:.0f} s") from None

    async def _find_vcpu(self) -> None:
        self.vcpu_thread = int((await self._monitor.execute("query-cpus-fast"))[0]["thread-id"])

    def _set_niceness(self, niceness: int) -> None:
        if not _may_renice():
            return
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            try:
                os.setpriority(os.PRIO_PROCESS, int(task.name), niceness)
            except (ProcessLookupError, PermissionError):
                continue


def _may_renice() -> bool:
    """An ordinary user may make a process nicer, but never take that back (setpriority(2))."""
    return os.geteuid() == 0


def _memory_for(plan: Plan, snapshot: Snapshot | None, keep_memory: bool) -> int:
    if snapshot is None:
        return new_memory(plan.memory_bytes)
    return snapshot.copy_memory() if keep_memory else snapshot.open_memory()

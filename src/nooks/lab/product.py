"""The product, used from outside: its command line, and the control socket for what must be quick."""

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from nooks.host.errors import NooksError
from nooks.host.process import ProcessError, run
from nooks.lab.workers import Worker, python, worker
from nooks.lifecycle import contact

START_SECONDS = 300.0
STOP_SECONDS = 60.0
CONTROL_SECONDS = 30.0
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Event:
    """A line of the journal. ``time`` is in seconds since the epoch."""

    time: float
    incarnation: int
    event: str
    reason: str
    detail: dict[str, Any] = field(default_factory=dict[str, Any])


class Journal:
    """The events of one nook as they come, for waiting and for looking back."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._changed = asyncio.Event()

    def add(self, line: dict[str, Any]) -> None:
        """Take one line of ``nooks events --json``."""
        if "event" not in line:
            return
        self.events.append(
            Event(
                seconds_of(line["time"]),
                int(line.get("incarnation") or 0),
                str(line["event"]),
                str(line.get("reason") or ""),
                line.get("detail") or {},
            )
        )
        self._changed.set()

    async def wait(self, wanted: Callable[[Event], bool], within_seconds: float) -> Event | None:
        """The first event, past or to come, that is ``wanted``; None if it does not come in time."""
        deadline = time.monotonic() + within_seconds
        while True:
            found = next(filter(wanted, self.events), None)
            if found is not None or time.monotonic() >= deadline:
                return found
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(deadline - time.monotonic()):
                    await self._changed.wait()


class Product:
    """One nook, as its user sees it. ``environment``: variables that its commands have beside our own."""

    def __init__(self, name: str, environment: Mapping[str, str] | None = None) -> None:
        self.name = name
        self._environment = environment or {}
        self.journal = Journal()

    async def start(self, *flags: str) -> dict[str, Any]:
        """``nooks start --name NAME FLAGS``; returns its document. Raises NooksError with the command's own error."""
        return await self._command("start", "--name", self.name, *flags, timeout_seconds=START_SECONDS)

    async def attach(self, device: str, *flags: str) -> dict[str, Any]:
        """``nooks attach DEVICE --name NAME FLAGS``; its document. Raises NooksError with the command's own error."""
        return await self._command("attach", device, "--name", self.name, *flags, timeout_seconds=START_SECONDS)

    async def detach(self, *, force: bool = False) -> None:
        """``nooks detach NAME``. Raises NooksError."""
        await self._command("detach", self.name, *(["--force"] if force else []), timeout_seconds=STOP_SECONDS)

    async def adopt(self) -> dict[str, Any]:
        """``nooks start NAME``: the supervisor is dead, another one takes over."""
        return await self._command("start", self.name, timeout_seconds=START_SECONDS)

    async def stop(self, *, force: bool = False) -> None:
        """``nooks stop NAME``. Raises NooksError."""
        flags = ["--force"] if force else []
        await self._command("stop", self.name, *flags, timeout_seconds=STOP_SECONDS)

    async def postmortem(self, incarnation: int) -> dict[str, Any]:
        """``nooks postmortem``; empty if there is none."""
        try:
            return await self._command("postmortem", self.name, str(incarnation), timeout_seconds=CONTROL_SECONDS)
        except NooksError:
            return {}

    async def status(self) -> dict[str, Any]:
        """What ``nooks status`` says, asked at the control socket."""
        return await self._control("status")

    async def crash(self, how: str) -> dict[str, Any]:
        """What ``nooks crash --how HOW`` does, asked at the control socket."""
        return await self._control("crash", {"how": how})

    async def inject(self, type_name: str, count: int, seed: int) -> list[dict[str, Any]]:
        """What ``nooks inject`` does, asked at the control socket."""
        return await self._control("inject", {"type": type_name, "count": count, "seed": seed})

    async def injected(self) -> list[dict[str, Any]]:
        """What ``nooks inject --show`` says, asked at the control socket."""
        return await self._control("injected")

    async def restart(self) -> dict[str, Any]:
        """What ``nooks restart`` does, asked at the control socket."""
        return await self._control("restart")

    async def set(self, **settings: object) -> dict[str, Any]:
        """What ``nooks set`` does, asked at the control socket; ``__`` stands for a dot, ``_`` for a hyphen."""
        wanted = {key.replace("__", ".").replace("_", "-"): value for key, value in settings.items()}
        return await self._control("set", {"settings": wanted})

    async def kill_supervisor(self) -> int:
        """``kill -9`` of the supervisor; returns its process id."""
        pid = int((await self.status())["pid"])
        os.kill(pid, signal.SIGKILL)
        return pid

    async def wait_for_spare(self, within_seconds: float) -> bool:
        """Wait until a spare is ready; False if none is in time (then a recovery does without, and takes longer)."""
        deadline = time.monotonic() + within_seconds
        while time.monotonic() < deadline:
            if (await self.status()).get("spare_ready"):
                return True
            await asyncio.sleep(_POLL_SECONDS)
        return False

    async def kill_spare(self) -> None:
        """``kill -9`` of the domain that waits, if there is one: the next recovery has to do without."""
        pid = (await self.status()).get("spare_pid")
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    @contextlib.asynccontextmanager
    async def following(self) -> AsyncGenerator[Worker, None]:
        """``nooks events --follow`` for the block: fills the journal."""
        command = python("nooks.cli.main", "events", self.name, "--follow", "--json")
        async with worker("event reader", command, self.journal.add) as follower:
            yield follower

    async def _control(self, command: str, arguments: dict[str, Any] | None = None) -> Any:  # noqa: ANN401
        def ask() -> Any:  # noqa: ANN401
            with contact.connect(self.name) as control:
                return control.request(command, arguments, timeout_seconds=CONTROL_SECONDS)

        return await asyncio.to_thread(ask)

    async def _command(self, *arguments: str, timeout_seconds: float) -> dict[str, Any]:
        argv = python("nooks.cli.main", *arguments, "--json")
        try:
            done = await asyncio.to_thread(
                run, argv, timeout_seconds=timeout_seconds, env={**os.environ, **self._environment}
            )
        except ProcessError as error:
            said = error.message.rpartition("nooks: error: ")[2]
            raise NooksError(f"'nooks {arguments[0]}' failed: {said}") from None
        return json.loads(done.stdout.splitlines()[-1])


def seconds_of(moment: object) -> float:
    """Seconds since the epoch of a journal's time: a number, or text of ISO 8601."""
    if isinstance(moment, int | float):
        return float(moment)
    return datetime.fromisoformat(str(moment)).timestamp()

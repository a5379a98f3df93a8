"""Sound servers, and a nook's sink and source on one: PulseAudio by its modules, PipeWire by a gate of our own.

What was attached stays when this process dies; another one takes it over by what ``facts`` said and the gate's pidfd.
"""

import asyncio
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import structlog

from nooks.endpoint.pulse import PulseClient, PulseError, addresses
from nooks.host.errors import InputError, NooksError
from nooks.host.hardening import expose_to_oom_killer
from nooks.host.process import Process, has_ended, kill, spawn

APPLICATION = "nooks"
PLAYBACK, CAPTURE = "playback", "capture"

_PIPEWIRE = "PipeWire"
_KILL_SECONDS = 5.0
_GRACE_SECONDS = 0.5
"""A server that ends unloads its modules first; a user who unloads one has a server that goes on."""


@dataclass(frozen=True)
class Format:
    """Samples on a server: its name for the kind, frames a second, channels."""

    sample: str
    rate: int
    channels: int


@dataclass(frozen=True)
class Offer:
    """What a nook has for a server: the names of sink and source, and their formats (None where there is none).

    Their pipes are ``playback`` and ``capture`` in ``directory``.
    """

    sink: str
    source: str
    directory: Path
    playback: Format | None
    capture: Format | None


class Attachment(Protocol):
    """Sink and source on one server. ``gone`` is called once when they are no more, ``removed`` if a user did that."""

    gone: Callable[[], None]
    removed: Callable[[], None]

    @property
    def address(self) -> str:
        """Where applications find the server."""
        ...

    @property
    def facts(self) -> dict[str, Any]:
        """What another process needs to take over."""
        ...

    async def playing(self) -> list[str]:
        """The names of the streams that applications play on the sink."""
        ...

    async def detach(self) -> None:
        """Take sink and source away. Safe to call twice."""
        ...

    async def leave(self) -> None:
        """Let go of the server; sink and source stay."""
        ...


class PulseAttachment:
    """By PulseAudio's own pipe modules, which go on without us."""

    def __init__(self, client: PulseClient, modules: list[int]) -> None:
        self.gone: Callable[[], None] = lambda: None
        self.removed: Callable[[], None] = lambda: None
        self._client = client
        self._modules = modules
        self._sink = ""
        self._removing: asyncio.Task[None] | None = None
        client.lost = self._lost
        client.unloaded = self._unloaded

    @classmethod
    async def attach(cls, client: PulseClient, offer: Offer) -> "PulseAttachment":
        """Load the modules. Raises PulseError; nothing is left then.

        The module for recording makes its pipe itself, and fails if one is there (module-pipe-source.c).
        """
        made = cls(client, [])
        try:
            await client.watch_modules()
            (offer.directory / CAPTURE).unlink(missing_ok=True)
            for module, arguments in _modules(offer):
                made._modules.append(await client.load(module, arguments))
        except BaseException:
            with suppress(PulseError):
                await made.detach()
            raise
        made._sink = offer.sink
        return made

    @classmethod
    async def adopt(cls, client: PulseClient, offer: Offer, modules: list[int]) -> "PulseAttachment | None":
        """Take over what another process has loaded; None if that is not there any more."""
        for module in modules:
            if not await client.has_module(module):
                return None
        await client.watch_modules()
        made = cls(client, modules)
        made._sink = offer.sink
        return made

    @property
    def address(self) -> str:
        """The server's."""
        return self._client.address

    @property
    def facts(self) -> dict[str, Any]:
        """Server and modules."""
        return {"server": self.address, "modules": self._modules}

    async def playing(self) -> list[str]:
        """See Attachment."""
        return await self._client.playing(self._sink)

    async def detach(self) -> None:
        """Unload the modules; the server moves what plays to another sink, if there is one."""
        modules, self._modules = self._modules, []
        try:
            for module in reversed(modules):
                await self._client.unload(module)
        except PulseError as error:
            structlog.get_logger().warning("sink and source were not taken away", error=str(error))
        await self.leave()

    async def leave(self) -> None:
        """See Attachment."""
        if self._removing is not None:
            self._removing.cancel()
        await self._client.close()

    def _lost(self) -> None:
        self._modules = []
        self.gone()

    def _unloaded(self, module: int) -> None:
        if module in self._modules and self._removing is None:
            self._removing = asyncio.create_task(self._removed())

    async def _removed(self) -> None:
        await asyncio.sleep(_GRACE_SECONDS)
        if self._modules:  # else the server went as well, and may come back
            self.removed()


class GateAttachment:
    """By a process of ours that is PipeWire's client, and goes on without us. ``pidfd`` is the keeper's to hold."""

    def __init__(self, address: str, runtime: str, pidfd: int, process: Process | None = None) -> None:
        self.gone: Callable[[], None] = lambda: None
        self.removed: Callable[[], None] = lambda: None
        self.pidfd = pidfd
        self._address = address
        self._runtime = runtime
        self._process = process
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(pidfd, self._ended)

    @classmethod
    def attach(cls, address: str, runtime: str, offer: Offer) -> "GateAttachment":
        """Start the gate; ``runtime`` is the directory of PipeWire's socket."""
        argv = [sys.executable, "-m", "nooks.endpoint.pipewire_gate"]
        for direction, name, form in _streams(offer):
            argv += [direction, name, form.sample, str(form.rate), str(form.channels), str(offer.directory / direction)]
        process = spawn(
            argv, stderr=sys.stderr.fileno(), env={**os.environ, "XDG_RUNTIME_DIR": runtime}, new_session=True
        )
        expose_to_oom_killer(process.pid)
        return cls(address, runtime, process.pidfd, process)

    @classmethod
    def adopt(cls, address: str, runtime: str, pidfd: int) -> "GateAttachment | None":
        """Take over a gate that another process has started; None if it has ended."""
        return None if has_ended(pidfd) else cls(address, runtime, pidfd)

    @property
    def address(self) -> str:
        """The server's."""
        return self._address

    @property
    def facts(self) -> dict[str, Any]:
        """The server."""
        return {"server": self._address, "runtime": self._runtime}

    async def playing(self) -> list[str]:
        """PipeWire moves what plays by itself."""
        return []

    async def detach(self) -> None:
        """End the gate."""
        if self.pidfd >= 0:
            await self.leave(end=True)

    async def leave(self, *, end: bool = False) -> None:
        """See Attachment."""
        if self.pidfd < 0:
            return
        self._loop.remove_reader(self.pidfd)
        pidfd, self.pidfd = self.pidfd, -1
        if end:
            await kill(pidfd, within_seconds=_KILL_SECONDS)
        if self._process is not None:
            _ = self._process.returncode  # reaped, if it has ended
            self._process.close()
        else:
            os.close(pidfd)

    def _ended(self) -> None:
        self._loop.remove_reader(self.pidfd)
        self.gone()


@dataclass(frozen=True)
class Server:
    """A sound server that answers. ``runtime`` is the directory of PipeWire's socket, empty for PulseAudio."""

    client: PulseClient
    runtime: str

    @property
    def address(self) -> str:
        """Where applications find it."""
        return self.client.address

    async def attach(self, offer: Offer) -> Attachment:
        """Give it the sink and the source. Raises PulseError."""
        if not self.runtime:
            return await PulseAttachment.attach(self.client, offer)
        await self.client.close()
        return GateAttachment.attach(self.address, self.runtime, offer)

    async def refuse_taken(self, *names: str) -> None:
        """Raises InputError if there is a sink or source of one of these names."""
        for name in names:
            if await self.client.has_sink(name) or await self.client.has_source(name):
                what = f"the sound server at {self.address} has a sink or source {name} already"
                raise InputError(what, "choose another --name")

    async def leave(self) -> None:
        """Close the connection."""
        await self.client.close()


async def reach(address: str, user_id: int) -> Server:
    """The server at an address. Raises PulseError."""
    client = await PulseClient.connect(address, APPLICATION)
    try:
        name = await client.server_name()
    except BaseException:
        await client.close()
        raise
    return Server(client, _runtime(user_id) if _PIPEWIRE in name else "")


async def find() -> Server | None:
    """The sound server of the user that we are, or that called us by sudo; None if there is none."""
    users = [os.geteuid()]
    if users == [0] and os.environ.get("SUDO_UID", "").isdigit():
        users.append(int(os.environ["SUDO_UID"]))
    for user_id in users:
        for address in addresses(user_id):
            try:
                return await reach(address, user_id)
            except NooksError as error:
                structlog.get_logger().info("no sound server", address=address, error=str(error))
    return None


async def forget(directory: Path) -> None:
    """Unload what an earlier nook of this directory left on a server, because it was killed with its keeper."""
    server = await find()
    if server is None:
        return
    try:
        for module, arguments in await server.client.modules():
            if f"file={directory}/" in arguments:
                await server.client.unload(module)
    except PulseError as error:
        structlog.get_logger().warning("the sound server was not cleared up", error=str(error))
    finally:
        await server.leave()


def _runtime(user_id: int) -> str:
    own = os.environ.get("PIPEWIRE_RUNTIME_DIR") or os.environ.get("XDG_RUNTIME_DIR")
    return own if own and user_id == os.geteuid() else f"/run/user/{user_id}"


def _streams(offer: Offer) -> list[tuple[str, str, Format]]:
    """What there is: direction, name, format."""
    found = ((PLAYBACK, offer.sink, offer.playback), (CAPTURE, offer.source, offer.capture))
    return [(direction, name, form) for direction, name, form in found if form is not None]


def _modules(offer: Offer) -> list[tuple[str, str]]:
    """PulseAudio's modules with their arguments."""
    loads: list[tuple[str, str]] = []
    for direction, name, form in _streams(offer):
        kind = "sink" if direction == PLAYBACK else "source"
        facts = {
            f"{kind}_name": name,
            "file": offer.directory / direction,
            "format": form.sample,
            "rate": form.rate,
            "channels": form.channels,
            f"{kind}_properties": f"device.description={name}",
        }
        loads.append((f"module-pipe-{kind}", " ".join(f"{key}={value}" for key, value in facts.items())))
    return loads

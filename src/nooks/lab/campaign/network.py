"""The class network in a campaign: a bed with an exchange's far end, and its client as the application."""

import asyncio
import contextlib
import dataclasses
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

from nooks.device.emulated import NETWORK_CABLE, as_argument, network_card
from nooks.endpoint.wire import Wire, parse_wire
from nooks.image.payload import AGENT, Payload
from nooks.lab import bed as beds
from nooks.lab.campaign.told import ToldApplication
from nooks.lab.exchange.client import FINISH
from nooks.lab.workers import Worker, python, worker
from nooks.spec import Device

WORKLOAD = "a file each way with checksum, and a question every 5 ms"
RATE_BYTES = 3_000_000
"""Of the download, per second."""
_READY_SECONDS = 60.0
_GUEST, _FAR_END, _NETMASK = "198.18.0.1", "198.18.0.2", "255.255.255.252"
"""In a namespace of its own, so every bed may have these (RFC 2544)."""


class ExchangeApplication(ToldApplication):
    """The exchange's client; ``say`` reaches it."""

    LAST = "finished"

    def __init__(self, say: Callable[[bytes], object]) -> None:
        super().__init__(lambda: say(FINISH + b"\n"))
        self._wrong: list[str] = []

    def add(self, line: dict[str, Any]) -> None:
        """Take one line of the client's."""
        self._wrong = [str(each)[:200] for each in line.get("wrong", ())]
        super().add(line)

    def errors(self) -> list[str]:
        """What went wrong so far."""
        return list(self._wrong)


class NetworkSurroundings:
    """A bed: the cable's far end in a namespace, with the exchange's server in it."""

    workload = WORKLOAD

    def __init__(self, bed: beds.Bed) -> None:
        self.name = bed.nook
        self._bed = bed
        self._stack = contextlib.AsyncExitStack()
        self._server: Worker | None = None

    def remains(self) -> dict[str, list[str]]:
        """The bed's namespace."""
        return {"namespaces": [self._bed.netns]}

    def flags(self) -> list[str]:
        """The bed's cable and addresses."""
        bed = self._bed
        return ["--wire", f"tap:{bed.wire}@{bed.netns}", "--address", f"{bed.host}/{bed.prefix}"]

    async def started(self, document: dict[str, Any]) -> None:
        """Address the far end, whose cable was made with the nook, and serve there."""
        del document
        await asyncio.to_thread(beds.address_peer, self._bed)
        await self._stack.aclose()
        self._server = await self._stack.enter_async_context(_far_end(self._bed))

    async def leaving(self) -> None:
        """Nothing is held."""

    @contextlib.asynccontextmanager
    async def application(self, seed: int) -> AsyncGenerator[ExchangeApplication, None]:
        """The client, on the host."""
        assert self._server is not None
        theirs, control = os.pipe()
        use = python("nooks.lab.exchange.client", "--address", self._bed.peer, "--port", self._server.last["port"])
        use += ["--seed", str(seed & 0xFFFFFFFF), "--control-fd", str(theirs)]
        application = ExchangeApplication(lambda data: os.write(control, data))
        try:
            async with worker("client", use, application.add, pass_fds=[theirs]):
                os.close(theirs)
                theirs = -1
                yield application
        finally:
            for descriptor in (theirs, control):
                if descriptor >= 0:
                    os.close(descriptor)

    async def close(self) -> None:
        """End the server."""
        await self._stack.aclose()


def workloads(driver: str) -> Sequence[str]:
    """None beside the ordinary one."""
    del driver
    return ()


@contextlib.asynccontextmanager
async def surroundings(driver: str, workload: str) -> AsyncGenerator[NetworkSurroundings, None]:
    """The class's entry point."""
    del workload  # there is one
    del driver  # all of them have the same
    bed = beds.plan()
    async with beds.far_end(bed):
        around = NetworkSurroundings(bed)
        try:
            yield around
        finally:
            await around.close()


class NativeNetworkSurroundings:
    """A bed's far end, and a TAP whose other end is a guest's card."""

    workload = WORKLOAD
    payload = Payload(
        AGENT.root,
        (
            *AGENT.packages,
            "nooks.lab.exchange",
            "nooks.lab.guest",
            "nooks.lab.content",
            "nooks.lab.echo",
            "nooks.lab.meter",
        ),
        "nooks.lab.exchange.guest",
    )
    writes_files = False

    def __init__(self, bed: beds.Bed, wire: Wire, server: Worker) -> None:
        self.name = bed.nook
        self._bed = bed
        self._wire = wire
        self._server = server

    def remains(self) -> dict[str, list[str]]:
        """The bed's namespace."""
        return {"namespaces": [self._bed.netns]}

    def hardware(self, device: Device) -> tuple[str, ...]:
        """The card on its cable."""
        return (*NETWORK_CABLE, *as_argument(network_card(device.model, device.options)))

    def attachments(self) -> dict[str, int]:
        """The cable."""
        return {"wire": self._wire.queue_fds[0]}

    def bring_up(self) -> dict[str, Any]:
        """The card's address, the same for all, so that one snapshot serves every bed."""
        return {"address": _GUEST, "netmask": _NETMASK}

    def use(self, seed: int) -> dict[str, Any]:
        """Where the far end is."""
        return {"address": _FAR_END, "port": self._server.last["port"], "seed": seed & 0xFFFFFFFF}

    def settle(self) -> None:
        """Frames of an earlier guest's are lost."""
        self._wire.drain(0)

    def application(self, say: Callable[[bytes], None]) -> ExchangeApplication:
        """The client in a guest."""
        return ExchangeApplication(say)


@contextlib.asynccontextmanager
async def native_surroundings(driver: str) -> AsyncGenerator[NativeNetworkSurroundings, None]:
    """The class's entry point for native controls."""
    del driver  # all of them have the same
    bed = dataclasses.replace(beds.plan(), peer=_FAR_END)
    async with beds.far_end(bed):
        wire = await Wire.open(parse_wire(f"tap:{bed.wire}@{bed.netns}"))
        try:
            await asyncio.to_thread(beds.address_peer, bed)
            async with _far_end(bed) as server:
                yield NativeNetworkSurroundings(bed, wire, server)
        finally:
            await wire.close()


@contextlib.asynccontextmanager
async def _far_end(bed: beds.Bed) -> AsyncGenerator[Worker, None]:
    serve = python("nooks.lab.exchange.server", "--address", bed.peer, "--rate-bytes", RATE_BYTES)
    async with worker("far end", serve, netns=bed.netns) as server:
        await server.until_ready(_READY_SECONDS)
        yield server

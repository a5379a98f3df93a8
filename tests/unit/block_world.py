"""A data path with a kernel that asks, domains that come and go, and somebody who listens."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from block_fakes import FakeDomain, FakeFront

from nooks.nook.block_data import DataPath
from nooks.shadow.integrity import IntegrityMap
from nooks.shadow.requests import RequestLog
from nooks.shadow.write_log import WriteLog
from nooks.xpc.errors import ProtocolError

SIZE = 8 << 20


class Told:
    """A Listener that remembers."""

    def __init__(self) -> None:
        self.violations: list[str] = []
        self.corruptions: list[Mapping[str, Any]] = []
        self.refusals: list[tuple[Mapping[str, Any], str]] = []
        self.errors: list[Mapping[str, Any]] = []
        self.doubts: list[Mapping[str, Any]] = []
        self.ended = 0

    def violated(self, error: ProtocolError) -> None:
        self.violations.append(str(error))

    def corrupted(self, request: Mapping[str, Any]) -> None:
        self.corruptions.append(request)

    def refused(self, request: Mapping[str, Any], why: str) -> None:
        self.refusals.append((request, why))

    def doubted(self, request: Mapping[str, Any]) -> None:
        self.doubts.append(request)

    def device_error(self, request: Mapping[str, Any]) -> None:
        self.errors.append(request)

    def gone(self) -> None:
        self.ended += 1


class World:
    """A data path with all that is around it. Every second domain answers in the ring."""

    def __init__(self, *, doubting: bool = False) -> None:
        self.disk = bytearray(SIZE)
        self.front = FakeFront()
        self.told = Told()
        self.store = WriteLog.create(ring_bytes=8 << 20)
        self.path = DataPath(RequestLog(self.store), self.store)
        self.path.start(self.told)
        self.path.serve(self.front, IntegrityMap(SIZE), doubting=doubting)
        self.domains: list[FakeDomain] = []

    async def driver_comes(self, *, held: bool = False, errors: Mapping[int, int] | None = None) -> FakeDomain:
        domain = FakeDomain(self.disk, held=held, rings=len(self.domains) % 2 == 1)
        domain.errors.update(errors or {})
        self.domains.append(domain)
        replaying = asyncio.ensure_future(self.path.replay(domain.link, write_through=False))
        if not held:
            await asyncio.wait_for(replaying, 10)
        else:
            replaying.add_done_callback(lambda future: future.cancelled() or future.exception())
        return domain

    def driver_dies(self, *, counts: bool = False) -> None:
        self.path.lose(counts=counts)
        self.domains[-1].die()

    async def answer(self, handle: int) -> tuple[int, bytes]:
        return await asyncio.to_thread(self.front.answer_to, handle)

    async def until(self, holds: Callable[[], object]) -> None:
        deadline = time.monotonic() + 10
        while not holds():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.005)

    def close(self) -> None:
        self.path.close()
        for domain in self.domains:
            if domain.link.region_fd >= 0:
                domain.die()
        self.store.close()
        self.front.close()


@asynccontextmanager
async def world(*, doubting: bool = False) -> AsyncGenerator[World, None]:
    made = World(doubting=doubting)
    try:
        yield made
        assert made.front.twice == []
    finally:
        made.close()


def run(test: Callable[[World], Awaitable[None]], *, doubting: bool = False) -> None:
    async def within() -> None:
        async with world(doubting=doubting) as made:
            await test(made)

    asyncio.run(within())

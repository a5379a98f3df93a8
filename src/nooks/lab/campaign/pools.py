"""Who carries orders out: worker processes on this machine, or the workers of a dask.distributed scheduler."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import msgspec

from nooks.host.errors import InputError, MachineError
from nooks.lab.campaign.hands import PROGRAM, Hands
from nooks.lab.campaign.order import Order, Record, not_run

CONNECT_SECONDS = 10.0

Result = tuple[Order, Record]


class Pool(Protocol):
    """Carries orders out."""

    @property
    def width(self) -> int:
        """How many at a time."""
        ...

    def run(self, orders: Sequence[Order]) -> AsyncGenerator[Result, None]:
        """Each order with its record, as they are done. Ending the iteration early ends the trials under way."""
        ...


class LocalPool:
    """``width`` worker processes of the module ``program`` on this machine."""

    def __init__(self, width: int, program: str = PROGRAM) -> None:
        self.width = width
        self._program = program

    async def run(self, orders: Sequence[Order]) -> AsyncGenerator[Result, None]:
        """As Pool's."""
        waiting = list(reversed(orders))
        done: asyncio.Queue[Result] = asyncio.Queue()
        hands = [Hands(self._program) for _ in range(min(self.width, len(orders)))]
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(max_workers=max(1, len(hands)), thread_name_prefix="trials") as threads:

            async def work(one: Hands) -> None:
                while waiting:
                    order = waiting.pop()
                    done.put_nowait((order, await loop.run_in_executor(threads, one.run, order)))
                await loop.run_in_executor(threads, one.end)

            workers = [asyncio.create_task(work(one)) for one in hands]
            try:
                for _ in orders:
                    yield await done.get()
                await asyncio.gather(*workers)
            finally:
                waiting.clear()
                for one, worker in zip(hands, workers, strict=True):
                    if not worker.done():
                        one.interrupt()
                await asyncio.shield(asyncio.gather(*workers, return_exceptions=True))


class DaskPool:
    """The workers that a scheduler knows; each must be a process of its own with one thread (``--nthreads 1``)."""

    def __init__(self, address: str) -> None:
        """Raises InputError if the scheduler can't be reached, MachineError if dask.distributed is missing."""
        try:
            from distributed import Client
        except ImportError:
            fix = "install nooks with its extra 'campaign' (make setup does)"
            raise MachineError("dask.distributed is not installed", fix) from None
        try:
            self._address = address
            self._client: Any = Client(address, timeout=CONNECT_SECONDS)
        except (OSError, ValueError, TimeoutError) as error:
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            fix = "start one with 'dask scheduler' and give the address that it prints"
            raise InputError(f"the scheduler {address} can't be reached: {why}", fix) from None

    @property
    def width(self) -> int:
        """As many as it has workers now."""
        return max(1, len(self._client.scheduler_info()["workers"]))

    async def run(self, orders: Sequence[Order]) -> AsyncGenerator[Result, None]:
        """As Pool's."""
        from distributed import as_completed

        futures = {self._client.submit(carry_out, msgspec.to_builtins(order), pure=False): order for order in orders}
        completed = as_completed(list(futures))
        try:
            while futures:
                future = await asyncio.to_thread(next, completed)
                order = futures.pop(future)
                record = await asyncio.to_thread(_result, future, order)
                if self._client.status != "running":
                    what = f"the scheduler {self._address} went away"
                    raise MachineError(what, "start it and its workers again; the same command goes on")
                yield order, record
        finally:
            for future in futures:
                with contextlib.suppress(Exception):
                    future.cancel(force=True)

    def close(self) -> None:
        """Let go of the scheduler."""
        self._client.close()


def _result(future: Any, order: Order) -> Record:  # noqa: ANN401 - dask has no types
    try:
        return future.result()
    except Exception as error:  # noqa: BLE001 - a worker that died, or whatever dask met
        return not_run(order, f"dask: {error}")


_hands: Hands | None = None


def carry_out(order: dict[str, Any]) -> Record:
    """A dask task: one trial, by the worker process that belongs to this dask worker."""
    global _hands
    if _hands is None:
        _hands = Hands()
    return _hands.run(msgspec.convert(order, Order))

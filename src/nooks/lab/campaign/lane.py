"""A lane makes trials one after the other, on a nook of its own.

Each trial has a fresh domain, restored from a snapshot: the spare that a planned restart switches to, or the one that a
recovery has just brought. The nook stays from trial to trial, unless a trial left any doubt about it.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from typing import Any

from nooks.failure.report import Reason
from nooks.host.errors import NooksError
from nooks.host.paths import nook_dir
from nooks.lab.bed import own_logs
from nooks.lab.campaign.classes import Application, Surroundings, class_of
from nooks.lab.campaign.order import Order, Record, Verdict, not_run
from nooks.lab.campaign.verdict import Observation, judge
from nooks.lab.host_health import HostHealth
from nooks.lab.product import Event, Product

SPARE_SECONDS = 30.0
GOING_SECONDS = 20.0
WARM_UP_SECONDS = 0.4
"""How long the application works before the faults come."""
OBSERVED_SECONDS = 3.0
"""How long every trial is watched after the injection."""
STALLED_SECONDS = 0.5
"""An application that has not got on for so long may be about to be rescued: it is watched longer ..."""
LONGEST_SECONDS = 30.0
"""... but not for ever."""
FINISH_SECONDS = 25.0
RESUME_SECONDS = 30.0
INTENSITY = 30
"""Failures in a minute: trials follow each other quickly."""
_POLL_SECONDS = 0.05


class Lane:
    """Trials of one driver and kernel; an async context manager."""

    def __init__(self, driver: str, kernel: str | None, workload: str = "") -> None:
        self._driver = driver
        self._kernel = kernel
        self._workload = workload
        self._stack = contextlib.AsyncExitStack()
        self._nook = contextlib.AsyncExitStack()
        self._around: Surroundings
        self._logs: str | None = None
        self._product: Product | None = None

    async def __aenter__(self) -> "Lane":
        try:
            self._logs = self._stack.enter_context(own_logs())
            self._around = await self._stack.enter_async_context(
                class_of(self._driver).surroundings(self._driver, self._workload)
            )
            self._stack.push_async_callback(self._nook.aclose)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def remains(self) -> dict[str, list[str]]:
        """What would be left if this process were killed (``sweep``)."""
        around = self._around.remains()
        logs = [] if self._logs is None else [self._logs]
        return {"nooks": [self._around.name], **around, "folders": [*around.get("folders", ()), *logs]}

    async def run(self, order: Order) -> Record:
        """Make one trial. Raises nothing but what ends the lane."""
        began = time.monotonic()
        health = HostHealth.now()
        try:
            product = await self._ready()
            record = await self._try(order, product)
        except NooksError as error:
            record = not_run(order, error.message)
        record["host"] = "harmed" if health.harm() else "unharmed"
        doubtful = record["verdict"] not in (Verdict.NO_EFFECT, Verdict.RECOVERED)
        if doubtful or record["reason"] == Reason.IO_ERRORS:  # after those a nook believes errors for a while
            await self._nook.aclose()
            self._product = None
        return record | {"seconds": round(time.monotonic() - began, 2)}

    async def _ready(self) -> Product:
        """The nook, with a fresh domain and a spare."""
        if self._product is None:
            await self._nook.aclose()
            self._product = await self._nook.enter_async_context(self._running_nook())
        await self._product.wait_for_spare(SPARE_SECONDS)
        return self._product

    @contextlib.asynccontextmanager
    async def _running_nook(self) -> AsyncGenerator[Product, None]:
        product = Product(self._around.name)
        kernel = ["--kernel", self._kernel] if self._kernel is not None else []
        try:
            started = await product.start(
                *("--driver", self._driver, "--debug", "--intensity", str(INTENSITY)), *kernel, *self._around.flags()
            )
            await self._around.started(started)
            async with product.following():
                yield product
        finally:
            await asyncio.shield(self._around.leaving())
            if nook_dir(product.name).exists():
                await asyncio.shield(_stop(product))

    async def _try(self, order: Order, product: Product) -> Record:
        status = await product.status()
        async with self._around.application(order.injection_seed) as application:
            await until_going(application)
            await asyncio.sleep(WARM_UP_SECONDS)
            injected_at = time.time()
            faults = await product.inject(order.type, order.faults, order.injection_seed)
            await self._watch(product, application, injected_at)
            errors = await application.finish(FINISH_SECONDS)
            outage = application.gauge.longest_pause(injected_at, time.time())
        with contextlib.suppress(NooksError):
            faults = await product.injected()
        works = not errors or await self._works(order, product)
        state = await _settled_state(product)
        since = await _events_since(product, injected_at, state)
        observation = Observation(since, state, errors, works, outage, injected_at, faults)
        record = _record(order, status, self._around.workload, observation)
        if record["domain"] == "failed":
            record["died_of"] = await _died_of(product, observation)
        doubtful = record["verdict"] not in (Verdict.NO_EFFECT, Verdict.RECOVERED)
        if doubtful or record["reason"] == Reason.IO_ERRORS:  # after those a nook believes errors for a while
            record["events"] = [_told(event) for event in since]
        if state == "running" and not any(event.event == "resumed" for event in since):
            await product.restart()  # the next trial's domain
        return record

    async def _watch(self, product: Product, application: Application, injected_at: float) -> None:
        """For the fixed time, and longer if the application or the nook is in trouble just then."""
        await asyncio.sleep(max(0.0, injected_at + OBSERVED_SECONDS - time.time()))
        while time.time() < injected_at + LONGEST_SECONDS and not application.errors():
            running = (await product.status())["state"] == "running"
            if running and application.gauge.progressed_since(time.time() - STALLED_SECONDS):
                return
            if (await product.status())["state"] == "degraded":
                return
            await asyncio.sleep(_POLL_SECONDS)

    async def _works(self, order: Order, product: Product) -> bool:
        """Whether the application, started anew, gets on: what somebody would find who was told of its error."""
        with contextlib.suppress(NooksError):
            if await _settled_state(product) == "running":
                async with self._around.application(order.injection_seed) as application:
                    await until_going(application)
                    return not await application.finish(FINISH_SECONDS)
        return False


async def until_going(application: Application) -> None:
    """Raises NooksError if it doesn't get going."""
    deadline = time.monotonic() + GOING_SECONDS
    while not application.gauge.received:
        if application.errors() or time.monotonic() > deadline:
            why = "; ".join(application.errors()) or "it makes no progress"
            raise NooksError(f"the application did not get going: {why}")
        await asyncio.sleep(_POLL_SECONDS)


async def _settled_state(product: Product) -> str:
    """The nook's state once it is none that passes."""
    deadline = time.monotonic() + RESUME_SECONDS
    while True:
        try:
            state = str((await product.status())["state"])
        except NooksError:
            state = "orphaned"
        if state not in ("recovering", "starting") or time.monotonic() > deadline:
            return state
        await asyncio.sleep(_POLL_SECONDS)


async def _events_since(product: Product, begin: float, state: str) -> list[Event]:
    """The journal's events since ``begin``; those of a nook that runs again tell how it came to, perhaps late."""
    failed = [event.time for event in product.journal.events if event.time >= begin and event.event == "failed"]
    if failed and state == "running":
        await product.journal.wait(lambda event: event.event == "resumed" and event.time >= failed[-1], RESUME_SECONDS)
    return [event for event in product.journal.events if event.time >= begin]


async def _stop(product: Product) -> None:
    try:
        await product.stop()
    except NooksError:
        await product.stop(force=True)


async def _died_of(product: Product, observation: Observation) -> dict[str, Any]:
    """The post-mortem's gist."""
    failed = observation.failures[0]
    found = await product.postmortem(failed.incarnation)
    gist = {key: found[key] for key in ("headline", "panic", "function", "module") if found.get(key)}
    return gist | {"detail": failed.detail}


def _told(event: Event) -> dict[str, Any]:
    return {
        "time": round(event.time, 4),
        "event": event.event,
        "incarnation": event.incarnation,
        "reason": event.reason,
        "detail": event.detail,
    }


def _record(order: Order, status: dict[str, Any], workload: str, seen: Observation) -> Record:
    """CONTRACT's line, and what else helps to understand a trial."""
    return {
        "trial": order.trial,
        "driver": order.driver,
        "kernel": status["kernel"],
        "seed": order.injection_seed,
        "faults": seen.faults,
        "workload": workload,
        **judge(seen),
        "repeat": order.repeat(),
    }

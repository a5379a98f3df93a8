"""Native controls: the same driver, kernel, faults and workload without a nook, the application in the same kernel.

The guest has the distribution's own panic settings; it is restored from a snapshot taken when the driver was ready, and
left running long enough to see the end: a panic, a kernel that schedules no more, an application that gets no further,
or nothing of the sort.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from nooks import drivers
from nooks.device import late
from nooks.domain import accel
from nooks.domain.domain import Domain
from nooks.domain.maker import DomainMaker
from nooks.domain.qemu import Plan
from nooks.failure.oops import parse
from nooks.faults.coverage import TranslationLog
from nooks.faults.gdb import DebugStub
from nooks.faults.injector import Injection
from nooks.host.errors import InputError, NooksError
from nooks.host.pace import slowness
from nooks.image import initramfs
from nooks.image import kernel as kernels
from nooks.image.modules import ModuleTree, canonical
from nooks.lab.campaign.classes import NativeApplication, NativeSurroundings, class_of
from nooks.lab.campaign.lane import OBSERVED_SECONDS, STALLED_SECONDS, WARM_UP_SECONDS, until_going
from nooks.lab.campaign.order import Order, Outcome, Record, not_run
from nooks.lab.campaign.verdict import is_dormant
from nooks.nook import jails
from nooks.spec import parse_device

MEMORY_BYTES = 160 << 20
DISTRIBUTION = "panic=0 softlockup_panic=0 hung_task_panic=0 sysctl.vm.panic_on_oom=0 sysctl.kernel.panic_on_oops=0"
"""Debian's own settings where domains have others (its kernels' CONFIG_PANIC_TIMEOUT=0, no CONFIG_PANIC_ON_OOPS)."""
READY_SECONDS = 90.0
BEATS_SECONDS = 20.0
"""A kernel of which nothing is heard for so long schedules nothing any more."""
END_SECONDS = 45.0
"""After the fixed time: longer than an application's patience, and than the kernel's own watchdogs."""
_POLL_SECONDS = 0.05
_LINE_BYTES_MAX = 1 << 20


class ControlLane:
    """Native controls of one driver and kernel; an async context manager."""

    def __init__(self, driver: str, kernel: str | None) -> None:
        self._driver = drivers.find(driver)
        if not self._driver.devices:
            raise InputError(f"{driver} has no emulated device to make native controls with", "choose another driver")
        if not late.has_snapshots(parse_device(self._driver.devices[0])):
            raise InputError(
                f"{driver} has no native controls: no snapshot can hold its device", "leave --controls and --native out"
            )
        self._kernel = kernel
        self._stack = contextlib.AsyncExitStack()
        self._around: NativeSurroundings
        self._maker: DomainMaker
        self.module_files: list[Path]

    async def __aenter__(self) -> "ControlLane":
        try:
            self._around = await self._stack.enter_async_context(
                class_of(self._driver.name).native_surroundings(self._driver.name)
            )
            await self._prepare()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def remains(self) -> dict[str, list[str]]:
        """What would be left if this process were killed (``sweep``)."""
        return {"guests": [self._guest_name()], **self._around.remains()}

    def _guest_name(self) -> str:
        return f"native-{self._around.name}"

    async def run(self, order: Order) -> Record:
        """Make one control. Raises nothing but what ends the lane."""
        began = time.monotonic()
        try:
            record = await self._try(order)
        except NooksError as error:
            record = not_run(order, error.message)
        return record | {"seconds": round(time.monotonic() - began, 2)}

    async def _prepare(self) -> None:
        driver, around = self._driver, self._around
        kernel = await asyncio.to_thread(_kernel, self._kernel, driver.flavour)
        modules = [*driver.with_modules, driver.module]
        image = await asyncio.to_thread(
            lambda: initramfs.build(kernel, modules, firmware=driver.firmware, payload=around.payload)
        )
        tree = ModuleTree(kernel.modules, kernel.version)
        own, *others = (tree.find(name) for name in (image.load_order[-1], *driver.load_modules))
        if own is None:
            raise NooksError(f"kernel {kernel.version} has no {image.load_order[-1]}", "use another kernel")
        self.module_files = [own.path, *(module.path for module in others if module is not None)]
        plan = Plan(
            vmlinux=kernel.vmlinux,
            initramfs=image.initramfs,
            image_digest=image.digest,
            memory_bytes=MEMORY_BYTES,
            hardware=around.hardware(parse_device(driver.devices[0])),
            accelerator=accel.tcg(),
            debug=True,
            writes_files=around.writes_files,
            guest_arguments=DISTRIBUTION,
        )
        name = self._guest_name()
        jail = jails.make(name)
        self._stack.callback(jail.close)
        request = {
            "order": "bring_up",
            "parameters": {canonical(driver.module): driver.parameters},
            **around.bring_up(),
        }

        async def bring_up(domain: Domain) -> dict[str, Any]:
            async with _Conversation(domain) as guest:
                await guest.heard("hello", READY_SECONDS * slowness())
                await guest.say(request)
                return await guest.heard("ready", READY_SECONDS * slowness())

        self.version = kernel.version
        self._maker = DomainMaker(plan, jail, bring_up, json.dumps(request))
        self._stack.push_async_callback(self._maker.close)
        await self._maker.ready_snapshot(around.attachments())

    async def survey(self, log: TranslationLog, seconds: float) -> dict[str, dict[str, int]]:
        """Run the workload without faults; ``log`` gets what runs. Returns where the modules' sections lie."""
        async with self._guest() as (domain, guest):
            await domain.log_translations(log.descriptor)
            application = await self._begin(domain, guest, 0)
            await asyncio.sleep(seconds)
            errors = await application.finish(END_SECONDS)
        if errors:
            raise NooksError(f"the workload failed without any fault: {'; '.join(errors)}")
        return self._maker.facts["sections"]

    @contextlib.asynccontextmanager
    async def _guest(self) -> AsyncGenerator[tuple[Domain, "_Conversation"], None]:
        """A guest restored from the snapshot, which stands still."""
        self._around.settle()
        domain = await self._maker.restore(self._around.attachments(), spare=False)
        try:
            async with _Conversation(domain) as guest:
                yield domain, guest
        finally:
            await domain.destroy()

    async def _begin(self, domain: Domain, guest: "_Conversation", seed: int) -> NativeApplication:
        """Let it run, with the application at work."""
        application = guest.application = self._around.application(guest.say_raw)
        await domain.run()
        await guest.say({"order": "use", "time_ns": time.time_ns(), **self._around.use(seed)})
        await until_going(application)
        return application

    async def _try(self, order: Order) -> Record:
        injection = await asyncio.to_thread(
            Injection, self.module_files, self._maker.plan.vmlinux, order.type, order.faults, order.injection_seed
        )
        log = TranslationLog()
        try:
            async with self._guest() as (domain, guest):
                application = await self._begin(domain, guest, order.injection_seed)
                await asyncio.sleep(WARM_UP_SECONDS)
                await domain.log_translations(log.descriptor)
                injected_at = time.time()
                faults = await self._inject(domain, injection)
                outcome = await _end(guest, application, injected_at)
                died_of = _gist(domain.console.text())
            executed = log.executed(int(fault["address"], 16) for fault in faults)
        finally:
            log.close()
        faults = [{**fault, "executed": ran} for fault, ran in zip(faults, executed, strict=True)]
        return {
            "trial": order.trial,
            "driver": order.driver,
            "kernel": self.version,
            "seed": order.injection_seed,
            "faults": faults,
            "workload": self._around.workload,
            "outcome": outcome,
            "dormant": is_dormant(faults),
            "errors": application.errors(),
            "died_of": died_of,
            "repeat": order.repeat(),
        }

    async def _inject(self, domain: Domain, injection: Injection) -> list[dict[str, Any]]:
        stub = await DebugStub.open(domain.handles.sockets["debug"].dup())
        try:
            return await injection.apply(stub, self._maker.facts["sections"])
        finally:
            await stub.close()


def _gist(console: str) -> dict[str, str]:
    """What the kernel said of its end."""
    oops = parse(console)
    words = {"headline": oops.headline, "panic": oops.panic, "function": oops.function, "module": oops.module}
    return {key: value for key, value in words.items() if value}


def _kernel(version: str | None, flavour: str) -> kernels.Kernel:
    return kernels.whole(kernels.resolve(version or "debian", flavour))


async def _end(guest: "_Conversation", application: NativeApplication, injected_at: float) -> Outcome:
    """Wait for the end, whatever it is."""
    while time.time() < injected_at + OBSERVED_SECONDS and not guest.panicked:
        await asyncio.sleep(_POLL_SECONDS)
    told = False
    deadline = time.time() + END_SECONDS * slowness()
    while time.time() < deadline:
        if guest.panicked:
            return Outcome.PANIC
        if time.time() - guest.beat_at > BEATS_SECONDS * slowness():
            return Outcome.HANG
        if application.ended:
            return Outcome.DRIVER_FAILED if application.errors() else Outcome.NO_EFFECT
        if not told and application.gauge.progressed_since(time.time() - STALLED_SECONDS):
            told = True
            application.tell_to_finish()
        await asyncio.sleep(_POLL_SECONDS)
    return Outcome.DRIVER_FAILED


class _Conversation:
    """Lines to and from a guest, its heartbeat, and whether its kernel has panicked."""

    def __init__(self, domain: Domain) -> None:
        self.panicked = False
        self.beat_at = time.time()
        self.application: NativeApplication | None = None
        self._domain = domain
        self._told: dict[str, dict[str, Any]] = {}
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._writer: asyncio.StreamWriter
        domain.on_event = self._machine

    async def __aenter__(self) -> "_Conversation":
        reader, self._writer = await asyncio.open_connection(
            sock=self._domain.handles.sockets["xpc"].dup(), limit=_LINE_BYTES_MAX
        )
        beats, self._beats_writer = await asyncio.open_connection(sock=self._domain.handles.sockets["heartbeat"].dup())
        self._tasks = [asyncio.create_task(self._read(reader)), asyncio.create_task(self._beat(beats))]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in (self._writer, self._beats_writer):
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def say(self, line: dict[str, Any]) -> None:
        """One order."""
        self.say_raw(json.dumps(line).encode() + b"\n")
        with contextlib.suppress(OSError):
            await self._writer.drain()

    def say_raw(self, data: bytes) -> None:
        """Some bytes."""
        self._writer.write(data)

    async def heard(self, event: str, within_seconds: float) -> dict[str, Any]:
        """The line with this event. Raises NooksError if it doesn't come, or an error does."""
        try:
            async with asyncio.timeout(within_seconds):
                while event not in self._told:
                    if "error" in self._told:
                        raise NooksError(f"the guest failed: {self._told['error'].get('message')}")
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            last = self._domain.console.text().strip().rpartition("\n")[2]
            raise NooksError(f"the guest did not get ready: {last or 'it said nothing'}") from None
        return self._told[event]

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            async for raw in reader:
                with contextlib.suppress(ValueError, AttributeError):
                    line: dict[str, Any] = json.loads(raw)
                    if "event" in line:
                        self._told[str(line["event"])] = line
                        self._news.set()
                    elif self.application is not None:
                        self.application.add(line)

    async def _beat(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while await reader.read(4096):
                self.beat_at = time.time()

    def _machine(self, event: dict[str, Any]) -> None:
        if event["event"] == "GUEST_PANICKED":
            self.panicked = True

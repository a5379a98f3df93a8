"""What ``inject`` does with a running nook: faults go into its driver's live code, through the domain's debug stub.

The injector is a user of the product: it is loaded only where faults are asked for.
"""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nooks import drivers
from nooks.host.errors import StateError
from nooks.image.modules import canonical
from nooks.nook.incarnation import Incarnation
from nooks.nook.nook import Nook

if TYPE_CHECKING:
    from nooks.faults.coverage import TranslationLog
    from nooks.faults.injector import Injection

Records = list[dict[str, Any]]


class Injecting:
    """Injects, and remembers what was injected last, to say whether it ran."""

    def __init__(self, nook: Nook) -> None:
        self._nook = nook
        self._records: Records = []
        self._log: TranslationLog | None = None

    async def inject(self, arguments: dict[str, Any]) -> Records:
        """CONTRACT's records. Raises InputError, StateError, StubError, NooksError."""
        nook = self._nook
        live = nook.running()
        if not nook.spec.debug:
            raise StateError(f"{nook.spec.name} runs without a debug stub", "start it with --debug")
        injection = await asyncio.to_thread(
            _prepared,
            _module_files(nook),
            Path(nook.image["vmlinux"]),
            str(arguments.get("type")),
            int(arguments.get("count") or 1),
            int(arguments.get("seed") or 0),
        )
        await self._begin_log(live)
        self._records = []
        nook.watcher.pause()
        try:
            sections = nook.restarter.maker.facts["sections"]
            self._records = await _apply(injection, live, sections)
        finally:
            nook.watcher.unpause()
        nook.commanded(live.number, "inject")
        return self._records

    async def injected(self, arguments: dict[str, Any]) -> Records:
        """What was injected last, each with ``executed``: whether that code has run since, None if nobody knows."""
        del arguments
        known: list[bool | None] = [None] * len(self._records)
        if self._log is not None:
            addresses = [int(record["address"], 16) for record in self._records]
            known = list(await asyncio.to_thread(self._log.executed, addresses))
        return [{**record, "executed": ran} for record, ran in zip(self._records, known, strict=True)]

    async def _begin_log(self, live: Incarnation) -> None:
        """A new log of what runs, if there can be one."""
        from nooks.faults.coverage import TranslationLog

        if self._log is not None:
            self._log.close()
            self._log = None
        if self._nook.restarter.maker.plan.accelerator.name != "tcg":
            return
        log = TranslationLog()
        try:
            await live.domain.log_translations(log.descriptor)
        except BaseException:
            log.close()
            raise
        self._log = log


def _module_files(nook: Nook) -> list[Path]:
    """Of the driver, and of what carries its load, as far as these are modules of their own."""
    image = nook.image
    files = {canonical(name): Path(path) for name, path in image["module_files"].items()}
    names = [image["load_order"][-1], *drivers.find(nook.spec.driver).load_modules]
    return [files[canonical(name)] for name in names if canonical(name) in files]


def _prepared(module_files: list[Path], vmlinux: Path, type_name: str, count: int, seed: int) -> "Injection":
    from nooks.faults.injector import Injection

    return Injection(module_files, vmlinux, type_name, count, seed)


async def _apply(injection: "Injection", live: Incarnation, sections: dict[str, dict[str, int]]) -> Records:
    from nooks.faults.gdb import DebugStub

    stub = await DebugStub.open(live.domain.handles.sockets["debug"].dup())
    try:
        return await injection.apply(stub, sections)
    finally:
        await stub.close()

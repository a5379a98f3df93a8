"""One nook: joins recovery, shadow and failure to domains, endpoints and the keeper. The only place that does.

The class's own parts come from ``side``; nothing here knows which classes there are.
"""

import asyncio
import json
import os
import sys
from collections.abc import Coroutine
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from nooks.domain.domain import Domain
from nooks.domain.maker import DomainMaker
from nooks.domain.monitor import MonitorError
from nooks.failure import postmortem
from nooks.failure.report import FailureReport, Reason
from nooks.host.clock import SystemClock
from nooks.host.errors import NooksError, StateError
from nooks.host.journal import Journal
from nooks.host.pace import slowness
from nooks.host.paths import nook_dir
from nooks.host.tracker import ObjectTracker
from nooks.keeper.client import KeeperClient
from nooks.keeper.start import start_keeper
from nooks.nook import claims, jails, leftovers
from nooks.nook.incarnation import Incarnation
from nooks.nook.ledger import Ledger
from nooks.nook.plans import Plans
from nooks.nook.restarter import DomainRestarter
from nooks.nook.side import side_of
from nooks.nook.standby import register
from nooks.nook.watcher import Watcher
from nooks.recovery.episode import Counts
from nooks.recovery.manager import RecoveryManager
from nooks.recovery.policy import RestartLimits, RestartPolicy
from nooks.recovery.protocols import Means, State
from nooks.spec import Spec
from nooks.xpc.errors import XpcError
from nooks.xpc.messages import BringUpReply

if TYPE_CHECKING:
    from nooks.nook.held import Held
    from nooks.nook.model import ModelDevice

POSTMORTEM_DELAY_SECONDS = 0.1
"""The post-mortem is written when the next incarnation serves, not while applications wait for it."""

ADOPT_SECONDS = 5.0
"""How long an agent may take to answer its new supervisor."""


async def assemble(directory: Path, ledger: Ledger, *, adopting: bool) -> "Nook":
    """Put a nook together from what the launcher wrote into its run directory; nothing runs yet.

    Raises NooksError; nothing is left then, but for what was to be adopted, which is as it was.
    """
    spec = Spec.from_json((directory / claims.SPEC).read_bytes())
    image: dict[str, Any] = json.loads((directory / claims.IMAGE).read_bytes())
    nook = Nook(spec, image, ledger)
    try:
        if not adopting:
            ledger.begin()
        await nook.open(adopting=adopting)
    except BaseException:
        if not adopting:
            await nook.close()
        raise
    return nook


class Nook:
    """One nook's parts and what can be asked of it."""

    def __init__(self, spec: Spec, image: dict[str, Any], ledger: Ledger) -> None:
        self.spec = spec
        self.ended = asyncio.Event()
        self.image = image
        self._next_image = image
        self._ledger = ledger
        self._held: Held | None = None
        self.model: ModelDevice | None = None
        self._clock = SystemClock()
        self.journal = Journal(spec.name)
        self._tracker = ObjectTracker(spec.name)
        self._tracker.own("keeper", ledger.close)
        self._commanded: tuple[int, str, float] | None = None
        self._failed: dict[int, FailureReport] = {}
        self._background: set[asyncio.Task[Any]] = set()

    async def open(self, *, adopting: bool) -> None:
        """Make or take over everything but the domains."""
        spec = self.spec
        self._jail = jails.make(spec.name)
        self._tracker.own("jail", self._jail.close)
        if spec.real:
            from nooks.nook.held import Held  # costs 30 ms, which nobody else is to wait for

            self._held = Held(nook_dir(spec.name), self._jail.user_id, self._clock, self._report)
            self._tracker.own("device", self._held.give_back)
        self.side = await side_of(spec.driver_class).open(
            spec,
            self._ledger,
            adopting=adopting,
            configuration=self._held.configuration if self._held is not None else None,
            events=self._record,
            live=lambda: self.restarter.live,
            removed=self._removed,
            report=self._report,
        )
        self._tracker.own("endpoint", self.side.close)
        if spec.modelled:
            self.model = self._plug_model_in(adopting=adopting)
            self._tracker.own("model", self.model.close)
        held, made = self._held, self.model
        detectors = held.detectors if held is not None else made.detectors if made is not None else ()
        self.watcher = Watcher(self._clock, self._report, self.side, detectors)
        late = held.device if held is not None else made
        inherited = (made.path,) if made is not None else ()
        self._plans = Plans(spec, self.side, self._jail, self.watcher, late, inherited)
        maker = await self._plans.maker(self.image)
        plugging = self._plans.plugging(lambda: self._next_image, self._came_up)
        self.restarter = DomainRestarter(
            maker,
            self.side,
            self._ledger,
            connect=lambda domain, number, bay: Incarnation(domain, number, bay, self.watcher),
            rehearse=self.side.rehearse if plugging is None else self._rehearse_without_device,
            replan=self._replan,
            serving=self._serving,
            plug=plugging,
            probing=self.watcher.attend,
            quickest=Means(spec.restart.means or Means.SPARE),
        )
        self._tracker.own("domains", self.restarter.close)
        self.side.changed = self.restarter.refresh_spare
        facts = self._ledger.facts
        limits = RestartLimits(spec.restart.intensity, spec.restart.period_seconds)
        self.manager = RecoveryManager(
            spec.name,
            self.restarter,
            self.side.shadow,
            RestartPolicy(limits),
            self._clock,
            self._record,
            load=slowness,
            initial=State.ORPHANED if adopting else State.STOPPED,
            counts=Counts(**facts["counts"]) if "counts" in facts else None,
        )
        self.watcher.open()
        self._tracker.own("watcher", self.watcher.close)

    # -- its life ----------------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether there is still something to stop."""
        return self.manager.state is not State.STOPPED

    async def start(self) -> dict[str, Any]:
        """Bring up the first incarnation; returns CONTRACT's result of ``start``. Raises NooksError."""
        await self.manager.start()
        self._hold_configuration()
        self._watch_keeper()
        await self.side.serving()
        return self.result()

    async def adopt(self) -> dict[str, Any]:
        """Go on where a dead supervisor left off. Raises NooksError if that can't be."""
        await asyncio.to_thread(leftovers.fence, self.spec.name, keep=self._ledger.domain_pids())
        facts = self._ledger.facts
        number, bay = int(facts.get("incarnation", 0)), int(facts.get("bay", 1))
        await self._end_leftover(1 - bay)
        failure = await self._adopt_domain(number, bay)
        await self.manager.adopt(number, failure)
        self._hold_configuration()
        self._watch_keeper()
        await self.side.serving()
        return self.result()

    async def stop(self, *, force: bool = False) -> None:
        """End the domain. Raises FenceError if it can't be reaped; with ``force`` that is left to the kernel.

        Raises StateError if applications still use what the nook offers, unless forced.
        """
        await self.side.leave(serving=self.manager.state is State.RUNNING, force=force)
        try:
            await self.manager.stop()
        except NooksError:
            if not force:
                raise

    async def close(self) -> None:
        """Give back everything, the keeper last. Safe to call twice."""
        for task in tuple(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        asyncio.get_running_loop().remove_reader(self._ledger.fileno)
        await self._tracker.release_all()

    def result(self) -> dict[str, Any]:
        """What ``start`` prints."""
        live = self.restarter.live
        return {
            "name": self.spec.name,
            "class": self.spec.driver_class,
            "driver": self.spec.driver,
            "pid": os.getpid(),
            "domain_pid": live.domain.pid if live is not None else None,
            **self.side.result(),
        }

    def running(self) -> Incarnation:
        """The live incarnation of a nook that runs. Raises StateError otherwise."""
        live = self.restarter.live
        if live is None or self.manager.state is not State.RUNNING:
            raise StateError(f"{self.spec.name} is {self.manager.state}", "wait until it runs")
        return live

    def commanded(self, incarnation: int, how: str) -> None:
        """Somebody makes this incarnation fail now: its failure report will tell how long that went unnoticed."""
        self._commanded = (incarnation, how, self._clock.monotonic())

    async def planned(self, kernel: str | None, image: dict[str, Any] | None) -> None:
        """Replace the domain on purpose, by one of another kernel if its ``image`` is given. Raises NooksError."""
        self._next_image = image or self.image
        await self.manager.planned(kernel)
        self.image = self._next_image
        (nook_dir(self.spec.name) / claims.IMAGE).write_text(json.dumps(self.image, indent=1))

    # -- parts -------------------------------------------------------------------------------------------------

    def _plug_model_in(self, *, adopting: bool) -> "ModelDevice":
        """The card of a nook that has a model of ours."""
        from nooks.nook.model import ModelDevice, Starting

        name, directory = self.spec.name, nook_dir(self.spec.name)
        ends = self.side.model_ends()
        assert self._jail.network is not None  # a model's nook takes root
        starting = Starting(
            name,
            self.spec.parsed_device,
            directory,
            ends=ends,
            user_id=self._jail.user_id,
            network=self._jail.network,
        )
        make = ModelDevice.adopt if adopting else ModelDevice.open
        return make(name, self._ledger, self._clock, self._report, starting)

    def _came_up(self, reply: BringUpReply) -> None:
        self.restarter.maker.facts = reply.to_payload()

    async def _rehearse_without_device(self, spare: Incarnation) -> None:
        await self._plans.rehearse(spare, self._next_image)

    async def _replan(self, kernel: str) -> DomainMaker:
        del kernel  # the launcher resolved it: its image came with the request
        return await self._plans.maker(self._next_image)

    def _serving(self, live: Incarnation | None) -> None:
        if live is None:
            self.watcher.leave()
        else:
            self.watcher.follow(live)

    # -- what happens ------------------------------------------------------------------------------------------

    def _report(self, report: FailureReport) -> None:
        if self._commanded is not None and self._commanded[0] == report.incarnation:
            _, how, when = self._commanded
            detail = {"commanded": how, "detection_seconds": round(report.noticed_at - when, 6)}
            report = replace(report, detail={**report.detail, **detail})
        self.manager.report(report)

    def _record(self, event: str, *, incarnation: int, reason: str = "", detail: dict[str, Any] | None = None) -> None:
        if event == "setting" and reason:
            detail, reason = {"outcome": reason, "settings": detail}, ""
        if event == "fenced":
            detail = {**(detail or {}), **self._postmortem(incarnation)}
        if event == "restarted":
            detail = {**(detail or {}), **self.restarter.switched}
        if event == "failed":
            now = self._clock.monotonic()
            self._failed[incarnation] = FailureReport(incarnation, Reason(reason), now, "", detail or {})
        self.journal(event, incarnation=incarnation, reason=reason, detail=detail)
        self._ledger.record(counts=asdict(self.manager.counts))

    def _postmortem(self, incarnation: int) -> dict[str, Any]:
        """Write down what is known of a fenced domain, in the background."""
        fenced = self.restarter.fenced(incarnation)
        if fenced is None:
            return {}
        fenced.domain.console.drain()
        report = self._failed.pop(incarnation, None)
        if report is not None:
            self._spawn(self._write_postmortem(report, fenced.domain))
        return {"domain_pid": fenced.domain.pid}

    async def _write_postmortem(self, report: FailureReport, domain: Domain) -> None:
        await asyncio.sleep(POSTMORTEM_DELAY_SECONDS)
        record = postmortem.build(self.spec.name, report, domain.console.text())
        await asyncio.to_thread(postmortem.store, record)

    def _removed(self) -> None:
        """Somebody deleted the endpoint: there is nothing left to serve."""
        structlog.get_logger().error("the endpoint was removed", nook=self.spec.name)
        self.ended.set()

    def _hold_configuration(self) -> None:
        """From now on what is configured on the nook's interface is what the host's will get back."""
        if self._held is not None and self._held.configuration is not None:
            held, interface = self._held, str(self.side.result().get("interface", ""))
            self._tracker.own("configuration", lambda: held.renote(interface))

    def _watch_keeper(self) -> None:
        loop = asyncio.get_running_loop()
        descriptor = self._ledger.fileno

        def gone() -> None:
            loop.remove_reader(descriptor)
            keeper = _new_keeper(self.spec.name)
            self._ledger.change_keeper(keeper)
            self._watch_keeper()

        loop.add_reader(descriptor, gone)

    async def _end_leftover(self, bay: int) -> None:
        """A spare, or a domain that was to be the next: whatever it was, it ends."""
        handles = self._ledger.handles(bay)
        if handles is not None:
            await Domain(handles).destroy()
            self._ledger.drop_domain(bay)

    async def _adopt_domain(self, number: int, bay: int) -> FailureReport | None:
        """Take over the live domain; if that can't be, end it and say why."""
        handles = self._ledger.handles(bay)
        if handles is None:
            return self._lost(number, "there was no domain")
        try:
            domain = await Domain.adopt(handles)
            if (status := await domain.status()) != "running":
                raise MonitorError(f"the domain does not run: {status}")
            live = Incarnation(domain, number, bay, self.watcher, adopted=True)
            self.restarter.adopt(live)
            live.open()
            await live.resync(ADOPT_SECONDS)
        except (NooksError, XpcError) as error:
            if self.restarter.live is None:
                await Domain(handles).destroy()
                self._ledger.drop_domain(bay)
            return self._lost(number, str(error))
        self.watcher.follow(live)
        return None

    def _lost(self, number: int, why: str) -> FailureReport:
        return FailureReport(number, Reason.EXIT, self._clock.monotonic(), "adoption", {"cause": why})

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _new_keeper(name: str) -> KeeperClient:
    """The keeper died: start another, which then holds this supervisor's pidfd as well. Raises OSError."""
    _, keeper = start_keeper(nook_dir(name) / claims.KEEPER, output=sys.stderr.fileno())
    register(keeper)
    return keeper

"""Silent failure of a network driver: the domain lives and beats, but packets don't move.

Suspicion comes from the counters that heartbeats carry; a probe (does a known neighbour still answer?) settles it, for
silence alone proves nothing: a link may be idle, unplugged, one-way, or its peer gone.

- *Transmit*: the host hands packets over and the driver's counter stands still.
- *Receive*: the driver's counter stands still while the host sends, or at once after a busy time (a download whose
  receiver has nothing to send).

- *Whole frames*: while packets move, a neighbour is asked now and then to echo frames of several sizes. If one that did
  answers small questions only, the driver loses or spoils what is larger.
- *TCP*: the host's connections with a neighbour that answers have to send most segments again, look after look.

An unanswered probe must be confirmed by the counters: the domain took our question from the host, and yet nothing
moved. A neighbour that vanished looks the same, so after one restart on this evidence the next needs proof that the
link had worked since, or a pause that doubles.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import structlog

from nooks.failure.flow import Counters, Flow
from nooks.failure.report import FailureReport, Reason, ReportSink
from nooks.host.clock import Clock

_log = structlog.get_logger(__name__)


class Prober(Protocol):
    """Asks a neighbour that answered recently for a sign of life."""

    async def probe(self, timeout_seconds: float, *, again: bool = False) -> bool | None:
        """True: it answered. False: it didn't within ``timeout_seconds``. None: there is nobody to ask.

        ``again``: those that failed to answer are asked as well.
        """
        ...

    async def echo(self, timeout_seconds: float) -> bool | None:
        """Of whole frames: True: they came back. False: they don't any more. None: nobody is known to echo."""
        ...

    async def trouble(self, timeout_seconds: float) -> bool | None:
        """True: TCP sends most again, since the last look, to a neighbour that answers. False: it fares well."""
        ...

    def forget(self) -> None:
        """Echoes that were heard prove nothing any more."""
        ...


@dataclass(frozen=True)
class NetworkLimits:
    """When to suspect, and how long to trust."""

    still_seconds: float = 0.25
    """A counter that stands still this long while it shouldn't is worth a question."""
    sent_packets: int = 2
    """So many must have gone out unanswered."""
    busy_packets: int = 10
    """So many received between two samples are a busy link, and prove that it works."""
    ebb_seconds: float = 1.5
    """A few more may be received this long after a busy time, before silence."""
    probe_seconds: float = 0.5
    """How long a neighbour has for its answer on an idle machine."""
    stuck_seconds: float = 1.5
    """The domain beats and yet doesn't take the question from the host for this long."""
    lonely_seconds: float = 3.0
    """A few packets may come in without an answer for this long: a driver that sends nothing still receives."""
    unasked_seconds: float = 4.5
    """Transmission stands still this long with nobody to ask: drivers may count late, every two seconds or so."""
    unasked_packets: int = 5
    """... and at least so many packets wait."""
    echo_seconds: float = 2.5
    """So often whole frames are tried ..."""
    echo_packets: int = 20
    """... if at least so many packets moved since; the questions themselves and their answers are eight."""
    echo_patience_seconds: float = 1.5
    """The second time an echo may take so long at least: there may be much before it in queues."""
    trouble_looks: int = 2
    """TCP in trouble in so many looks in a row convicts ..."""
    trouble_retry_seconds: float = 60.0
    """... but not again so soon, and not before it fared well."""
    unplugged_seconds: float = 3.0
    """A driver may reset its card; a link that stays down for longer is believed only if there is a cable to pull."""
    settle_seconds: float = 1.0
    """After a restart, or when the cable is plugged in, the other end may need this long."""
    trust_seconds: float = 1.0
    longest_trust_seconds: float = 8.0
    """After an answer nothing is asked for a while, which doubles while nothing but answers arrives."""
    retry_seconds: float = 60.0
    longest_retry_seconds: float = 3600.0
    """The pause between restarts that didn't help."""


@dataclass(frozen=True)
class _Question:
    """What the counters said when the probe was sent."""

    asked_at: float
    before: Counters
    unanswered: bool = False


class NetworkDetector:
    """Watches the live incarnation of one network nook; lives across incarnations, for what it learnt must.

    Args:
        prober: settles suspicions.
        clock: for the times of verdicts.
        report: where they go.
        load: how many times longer an answer may take now.
        plugged: whether the cable is known to be in and the interface up, whatever the driver says of its link.
    """

    def __init__(
        self,
        prober: Prober,
        clock: Clock,
        report: ReportSink,
        *,
        limits: NetworkLimits | None = None,
        load: Callable[[], float] = lambda: 1.0,
        plugged: Callable[[], bool] = lambda: False,
    ) -> None:
        self._prober = prober
        self._clock = clock
        self._report = report
        self._limits = limits or NetworkLimits()
        self._load = load
        self._plugged = plugged
        self._incarnation: int | None = None
        self._flow: Flow | None = None
        self._question: _Question | None = None
        self._probing: asyncio.Task[None] | None = None
        self._trying: asyncio.Task[None] | None = None
        self._carrier = True
        self._carrier_since = 0.0
        self._quiet_until = 0.0
        self._trust = self._limits.trust_seconds
        self._proven = True
        self._retry = self._limits.retry_seconds
        self._next_verdict_at = 0.0
        self._echo_at = 0.0
        self._echo_before = 0
        self._troubles = 0
        self._fared_well = True
        self._trouble_at = 0.0

    def begin(self, incarnation: int, now: float) -> None:
        """``incarnation`` serves from now on."""
        self.end()
        self._incarnation = incarnation
        self._carrier_since = now
        self._quiet_until = now + self._limits.settle_seconds
        self._echo_at = self._quiet_until
        self._echo_before = 0
        self._troubles = 0

    def end(self) -> None:
        """Nothing serves: nothing is judged, and a probe under way is dropped."""
        self._incarnation = None
        self._flow = None
        self._question = None
        for task in (self._probing, self._trying):
            if task is not None:
                task.cancel()
        self._probing = self._trying = None

    async def close(self) -> None:
        """End, and wait until the probe under way has ended as well."""
        tasks = {task for task in (self._probing, self._trying) if task is not None}
        self.end()
        if tasks:
            await asyncio.wait(tasks)

    def carrier(self, up: bool, now: float) -> None:
        """What the driver says of its link; without one nothing is expected to move."""
        if up == self._carrier:
            return
        if up:
            self._quiet_until = now + self._limits.settle_seconds
        self._carrier = up
        self._carrier_since = now
        self._flow = None
        self._question = None

    def counters(self, counters: Mapping[str, int], now: float) -> None:
        """The agent's counters arrived (every 500 ms at least; the verdict's delay is up to three such times)."""
        sample = Counters.parse(counters)
        if self._incarnation is None or sample is None:
            return
        if self._flow is None or sample.went_back(self._flow.last):
            self._flow = Flow(sample, sample, now, now)
            self._question = None
            return
        if self._flow.take(sample, now, self._limits.busy_packets):
            self._works(now, quiet_seconds=0.0)
            self._trust = self._limits.trust_seconds
        elif sample.nic_rx - self._flow.first.nic_rx >= self._limits.busy_packets:
            self._proven = True  # slowly, but it receives: if that ends, it ends anew
        if not self._carrier:
            self._doubt(self._flow, now)
            return
        if self._trying is None and now >= self._echo_at and self._moved(sample) >= self._limits.echo_packets:
            self._trying = asyncio.create_task(self._try_whole_frames(_Question(now, sample)))
        if self._probing is not None:
            return
        if self._question is not None and self._question.unanswered:
            self._confirm(self._flow, self._question, now)
        elif now >= self._quiet_until and self._suspicious(self._flow, now):
            self._flow.busy_at = None
            self._question = _Question(now, sample)
            self._probing = asyncio.create_task(self._ask(self._question))

    def _suspicious(self, flow: Flow, now: float) -> bool:
        still = self._limits.still_seconds
        transmit = flow.waiting > 0 and now - flow.tx_moved_at >= still
        unanswered = flow.sent >= self._limits.sent_packets
        receive = now - flow.rx_moved_at >= still and (unanswered or flow.fell_silent(self._limits.ebb_seconds))
        return transmit or receive

    def _doubt(self, flow: Flow, now: float) -> None:
        """The driver says that there is no link."""
        if not self._plugged():
            self._carrier_since = now
        elif now - self._carrier_since >= self._limits.unplugged_seconds * min(2.0, self._load()):
            self._verdict(Reason.NO_PROGRESS, "the driver says that the link is down, and the cable is in", flow, now)

    async def _ask(self, question: _Question) -> None:
        """Probe, and note what came of it; never raises but by cancellation."""
        try:
            answered = await self._prober.probe(self._limits.probe_seconds * max(1.0, self._load()))
        except OSError as error:
            _log.warning("probe failed", error=str(error))
            answered = None
        self._probing = None
        now = self._clock.monotonic()
        if self._question is not question or self._flow is None:
            return
        if answered is False:
            self._question = _Question(question.asked_at, question.before, unanswered=True)
            return
        self._question = None
        if answered:
            self._works(now, quiet_seconds=self._trust)
            self._trust = min(2 * self._trust, self._limits.longest_trust_seconds)
        else:
            self._quiet_until = now + self._limits.trust_seconds
            self._judge_unasked(self._flow, now)

    def _moved(self, sample: Counters) -> int:
        """Packets since the last echo; all there ever were if the driver counts anew."""
        moved = sample.nic_rx + sample.nic_tx
        return moved - self._echo_before if moved >= self._echo_before else moved

    async def _try_whole_frames(self, question: _Question) -> None:
        """Ask for echoes, twice if need be; never raises but by cancellation."""
        timeout = self._limits.probe_seconds * max(1.0, self._load())
        try:
            whole = await self._prober.echo(timeout) is not False
            whole = whole or await self._prober.echo(max(timeout, self._limits.echo_patience_seconds)) is not False
            near = None if whole else await self._prober.probe(timeout, again=True)
            trouble = await self._prober.trouble(timeout) if whole else None
        except OSError as error:
            _log.warning("probe failed", error=str(error))
            whole, near, trouble = True, None, None
        self._trying = None
        now = self._clock.monotonic()
        self._echo_at = now + self._limits.echo_seconds
        if self._flow is None:
            return
        self._echo_before = self._flow.last.nic_rx + self._flow.last.nic_tx
        self._fared_well = self._fared_well or trouble is False
        self._troubles = self._troubles + 1 if trouble else 0
        if near is False and self._question is None:
            self._question = _Question(question.asked_at, question.before, unanswered=True)
        elif near:
            self._prober.forget()
            self._verdict(Reason.NO_ANSWER, "a neighbour answers, and whole frames don't get through", self._flow, now)
        elif self._troubles >= self._limits.trouble_looks and self._fared_well and now >= self._trouble_at:
            self._fared_well, self._trouble_at = False, now + self._limits.trouble_retry_seconds
            self._verdict(Reason.NO_ANSWER, "a neighbour answers, and TCP sends most of it again", self._flow, now)

    def _confirm(self, flow: Flow, question: _Question, now: float) -> None:
        """The probe wasn't answered: do the counters agree?"""
        if flow.last.host_rx == question.before.host_rx:
            if now - question.asked_at >= self._limits.stuck_seconds:
                self._verdict(Reason.NO_PROGRESS, "the domain takes nothing from the host", flow, now)
        elif flow.last.nic_tx == question.before.nic_tx:
            self._verdict(Reason.NO_PROGRESS, "the driver sends nothing", flow, now)
        elif flow.last.nic_rx == question.before.nic_rx:
            self._verdict(Reason.NO_ANSWER, "no neighbour answers and nothing is received", flow, now)
        elif flow.last.nic_rx - question.before.nic_rx >= self._limits.busy_packets:
            self._question = None
            self._quiet_until = now + self._limits.trust_seconds
        elif now - question.asked_at >= self._limits.lonely_seconds:
            self._probing = asyncio.create_task(self._ask_again(question))

    async def _ask_again(self, question: _Question) -> None:
        """Nobody answered, but something is received; never raises but by cancellation."""
        answered = await self._prober.probe(self._limits.probe_seconds * max(1.0, self._load()), again=True)
        self._probing = None
        now = self._clock.monotonic()
        if self._question is not question or self._flow is None:
            return
        self._question = None
        self._quiet_until = now + self._limits.trust_seconds
        if not answered:  # the kernel may have given those up who answered not long ago
            why = "no neighbour answers, and hardly anything is received"
            self._verdict(Reason.NO_ANSWER, why, self._flow, now)

    def _judge_unasked(self, flow: Flow, now: float) -> None:
        """Nobody can be asked: only a long standstill of a counter that is known to count convicts."""
        still = now - flow.tx_moved_at >= self._limits.unasked_seconds
        if still and flow.waiting >= self._limits.unasked_packets and flow.last.nic_tx > 0:
            self._verdict(Reason.NO_PROGRESS, "the driver sends nothing, and nobody can be asked", flow, now)

    def _works(self, now: float, *, quiet_seconds: float) -> None:
        self._proven = True
        self._retry = self._limits.retry_seconds
        self._quiet_until = now + quiet_seconds

    def _verdict(self, reason: Reason, why: str, flow: Flow, now: float) -> None:
        self._question = None
        if self._incarnation is None:
            return
        if not self._proven and now < self._next_verdict_at:
            self._quiet_until = now + self._limits.longest_trust_seconds
            _log.info("no verdict", why=why, cause="the last restart for this didn't help")
            return
        if not self._proven:
            self._retry = min(2 * self._retry, self._limits.longest_retry_seconds)
        self._proven = False
        self._next_verdict_at = now + self._retry
        detail = {
            "why": why,
            "waiting_packets": flow.waiting,
            "sent_packets": flow.sent,
            "transmit_still_seconds": round(now - flow.tx_moved_at, 3),
            "receive_still_seconds": round(now - flow.rx_moved_at, 3),
        }
        incarnation, self._incarnation = self._incarnation, None
        self._report(FailureReport(incarnation, reason, now, "network", detail))

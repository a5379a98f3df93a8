"""A device model of ours: its process, which outlives domains and supervisors, and what it has to tell.

The process listens on a socket that is the nook's, so that it may die and another takes its place: a new card then. It
ends when nobody holds the control connection any more, neither supervisor nor keeper.
"""

import asyncio
import itertools
import json
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog

from nooks.device import model, model_process
from nooks.domain.domain import Domain
from nooks.failure.presence import PresenceDetector
from nooks.failure.report import FailureReport, Reason, ReportSink
from nooks.host import processors
from nooks.host.clock import Clock
from nooks.host.errors import InputError, NooksError
from nooks.host.process import Process, has_ended, kill, spawn
from nooks.keeper.address import socket_address
from nooks.nook.ledger import Ledger
from nooks.nook.watcher import Detector
from nooks.recovery.protocols import DomainFailedError
from nooks.spec import Device

SOCKET = "model"
"""The socket's name in the nook's run directory."""

ANSWER_SECONDS = 5.0
ABSENT_SECONDS = 40.0
"""How long one attempt of a restart waits for a card that was pulled; the next attempt goes on waiting."""
END_SECONDS = 5.0

ADDRESS_SPACE_BYTES = 1 << 30
"""What a model's process may take beside the guest's memory, which it maps."""

_PROCESS, _CONTROL, _LISTENER = "model.process", "model.control", "model.listener"
_PACKET_BYTES = 4096
_POLL_SECONDS = 0.1


class ModelGone(NooksError):  # noqa: N818 - the name says what happened
    """The model's process does not answer, or is dead."""


class ModelDevice:
    """The LateDevice of a nook whose card is a model, and the detectors that it brings along."""

    def __init__(self, name: str, ledger: Ledger, clock: Clock, report: ReportSink, start: "Starting") -> None:
        self._ledger = ledger
        self._clock = clock
        self._report = report
        self._start = start
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._processor = processors.one_for(name)
        self._incarnation: int | None = None
        self._absent = False
        self._process: Process | None = None
        self._pidfd = -1
        self._control: socket.socket | None = None
        self._log = structlog.get_logger(nook=name)
        self.path = os.open(start.path, os.O_PATH | os.O_CLOEXEC)
        self.detectors: list[Detector] = [self, PresenceDetector(lambda: self.present, clock, report)]

    @classmethod
    def open(cls, name: str, ledger: Ledger, clock: Clock, report: ReportSink, start: "Starting") -> "ModelDevice":
        """Plug a new card in. Raises OSError, ProcessError; nothing is left then."""
        ledger.give(_LISTENER, start.listen())
        device = cls(name, ledger, clock, report, start)
        try:
            device._power_on()
        except BaseException:
            os.close(device.path)
            raise
        return device

    @classmethod
    def adopt(cls, name: str, ledger: Ledger, clock: Clock, report: ReportSink, start: "Starting") -> "ModelDevice":
        """Take the card over that a dead supervisor left. Raises KeeperError."""
        start.listener = socket.socket(fileno=ledger.take(_LISTENER))
        device = cls(name, ledger, clock, report, start)
        device._pidfd = ledger.take(_PROCESS)
        device._connect(socket.socket(fileno=ledger.take(_CONTROL)))
        return device

    # -- LateDevice ---------------------------------------------------------------------------------------------

    @property
    def present(self) -> bool:
        """Whether the card is in its slot, and its process alive."""
        return not self._absent and self._pidfd >= 0 and not has_ended(self._pidfd)

    async def make_ready(self) -> dict[str, Any]:
        """Wait for the card if it was pulled; a new one takes the place of one whose process died."""
        deadline = asyncio.get_running_loop().time() + ABSENT_SECONDS
        while self._absent and not has_ended(self._pidfd):
            if asyncio.get_running_loop().time() >= deadline:
                raise DomainFailedError("the card is not in its slot", "put it back", reason=Reason.UNPLUGGED)
            await asyncio.sleep(_POLL_SECONDS)
        if has_ended(self._pidfd):
            self._log.error("the device model died", fix="see this log")
            await self._power_off()
            self._power_on()
            return {"reset": "new"}
        return {"reset": await self.ask("reset") if self._start.resets else "none"}

    def properties(self) -> Mapping[str, Any]:
        """As QEMU's ``device_add`` takes it; every domain has inherited the descriptor of the socket's file."""
        return model.properties(f"/proc/self/fd/{self.path}")

    def plugged(self, domain: Domain) -> None:
        """Every access to a register is a question and an answer: who asks, who answers share a processor."""
        domain.bind_to(self._processor)

    # -- Detector -----------------------------------------------------------------------------------------------

    def begin(self, incarnation: int) -> None:
        """A new incarnation serves: what the card does is its driver's doing."""
        self._incarnation = incarnation

    def end(self) -> None:
        """Nothing serves."""
        self._incarnation = None

    # -- the process --------------------------------------------------------------------------------------------

    async def ask(self, command: str, **facts: Any) -> Any:  # noqa: ANN401 - any JSON
        """Have the model do something. Raises InputError if it refuses, ModelGone."""
        number = next(self._ids)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        try:
            if self._control is None:
                raise BrokenPipeError
            self._control.send(json.dumps({"id": number, "command": command, **facts}).encode())
            async with asyncio.timeout(ANSWER_SECONDS):
                return await answer
        except (OSError, TimeoutError):
            raise ModelGone("the device model does not answer", "see the nook's log") from None
        finally:
            del self._answers[number]

    async def close(self) -> None:
        """Unplug the card for good. Raises ReapError."""
        await self._power_off()
        self._start.listener.close()
        os.close(self.path)
        for key in (_PROCESS, _CONTROL, _LISTENER):
            self._ledger.forget(key)

    def _power_on(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._process = self._start.process(theirs)
            except BaseException:
                ours.close()
                raise
        processors.bind([self._process.pid], self._processor)
        self._pidfd = self._process.pidfd
        self._absent = False
        self._ledger.give(_PROCESS, self._pidfd)
        self._ledger.give(_CONTROL, ours.fileno())
        self._connect(ours)

    async def _power_off(self) -> None:
        if self._control is not None:
            asyncio.get_running_loop().remove_reader(self._control.fileno())
            self._control.close()
            self._control = None
        if self._process is not None:
            await self._process.kill(within_seconds=END_SECONDS)
            self._process.close()
            self._process = None
        elif self._pidfd >= 0:
            await kill(self._pidfd, within_seconds=END_SECONDS)
            os.close(self._pidfd)
        self._pidfd = -1

    def _connect(self, control: socket.socket) -> None:
        control.setblocking(False)
        self._control = control
        asyncio.get_running_loop().add_reader(control.fileno(), self._heard)

    def _heard(self) -> None:
        assert self._control is not None
        try:
            packet = self._control.recv(_PACKET_BYTES)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            asyncio.get_running_loop().remove_reader(self._control.fileno())
            return
        document: dict[str, Any] = json.loads(packet)
        if "event" in document:
            self._happened(document)
        else:
            self._answered(document)

    def _answered(self, document: dict[str, Any]) -> None:
        answer = self._answers.get(int(document["id"]))
        if answer is None or answer.done():
            return
        if "error" in document:
            answer.set_exception(InputError(f"the device model refuses: {document['error']}"))
        else:
            answer.set_result(document["result"])

    def _happened(self, event: dict[str, Any]) -> None:
        if event["event"] in ("absent", "present"):
            self._absent = event["event"] == "absent"
        elif event["event"] == "refused":
            where = {"address": hex(event["address"]), "access": event["access"], "size": event["size"]}
            self._log.warning("DMA outside the domain's memory", **where)
            if self._incarnation is not None:
                now = self._clock.monotonic()
                self._report(FailureReport(self._incarnation, Reason.DMA, now, "device model", where))


class Starting:
    """How the process of one nook's card is started: which card, what it is connected to (``ends``), as whom."""

    def __init__(
        self, name: str, card: Device, directory: Path, *, ends: Mapping[str, int], user_id: int, network: int
    ) -> None:
        self.path = directory / SOCKET
        self._name = name
        self.resets = model.may_be_reset(card)
        self._card = card
        self._ends = ends
        self._user_id = user_id
        self._network = network
        self.listener: socket.socket

    def listen(self) -> int:
        """Make the socket, which belongs to the domains' user; returns its descriptor. Raises OSError."""
        self.path.unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with socket_address(self.path) as address:
            self.listener.bind(address)
        self.path.chmod(0o600)
        os.chown(self.path, self._user_id, self._user_id)
        self.listener.listen(1)
        return self.listener.fileno()

    def process(self, control: socket.socket) -> Process:
        """Start it; ``control`` is its end of the connection to the nook. Raises ProcessError, InputError."""
        files = model.open_files(self._card)
        descriptors = {
            "listener": self.listener.fileno(),
            "control": control.fileno(),
            "network": self._network,
            **self._ends,
            **files,
        }
        try:
            return self._spawn(descriptors)
        finally:
            for descriptor in files.values():
                os.close(descriptor)

    def _spawn(self, descriptors: Mapping[str, int]) -> Process:
        words = (
            f"--serial={self._name}",
            f"--user-id={model_user(self._user_id)}",
            f"--address-space-bytes={ADDRESS_SPACE_BYTES}",
        )
        return spawn(
            model_process.command(self._card.model, descriptors, *words),
            pass_fds=list(descriptors.values()),
            stderr=sys.stderr.fileno(),
            new_session=True,
        )


def model_user(domain_user_id: int) -> int:
    """The user that a nook's model runs as: not the domains', whose processes are all ended at an adoption."""
    return domain_user_id + (1 << 25)

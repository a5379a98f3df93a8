"""A worker process as its parent has it: gives it an order, waits for the record, replaces it when it dies.

Blocking; to be used from a thread, or by a dask worker.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import threading
import time
from secrets import token_hex
from typing import Any

import msgspec

from nooks.host.errors import NooksError
from nooks.host.pace import slowness
from nooks.host.process import Process, spawn
from nooks.lab.campaign.order import Order, Record, not_run
from nooks.lab.campaign.sweep import TOKEN, sweep
from nooks.lab.workers import python

PROGRAM = "nooks.lab.campaign.worker"
TRIAL_SECONDS = 180.0
"""A trial that takes so long on an idle machine hangs (the longest takes 90)."""
END_SECONDS = 60.0
_READ_BYTES = 65536
_SAID_BYTES = 2000


class WorkerDied(Exception):  # noqa: N818 - the name says what happened
    """The worker is gone, or gives no answer."""


class Hands:
    """One worker process of the module ``program``, started when it is needed."""

    def __init__(self, program: str = PROGRAM) -> None:
        self._program = program
        self._process: Process | None = None
        self._interrupted = False
        self._changing = threading.Lock()
        self._orders = self._lines = -1
        self._token = ""
        self._buffer = b""
        self._said = b""
        self._remains: dict[str, Any] = {}

    def run(self, order: Order) -> Record:
        """Have a trial made. If the worker dies, that costs this trial alone."""
        try:
            if self._process is None:
                self._start()
            self._send(order)
            return self._record(time.monotonic() + TRIAL_SECONDS * slowness())
        except WorkerDied as died:
            self._bury()
            return not_run(order, f"the worker {died}")

    def end(self) -> None:
        """Have the worker come to an end, by force if need be. Safe to call twice."""
        if self._process is None:
            return
        self._close(self._orders)
        self._orders = -1
        gone = select.poll()
        gone.register(self._process.pidfd, select.POLLIN)
        gone.poll(END_SECONDS * slowness() * 1000)
        self._bury()

    def interrupt(self) -> None:
        """Kill the worker now, from another thread: a trial that it is making ends as not run, and no other begins."""
        with self._changing:
            self._interrupted = True
            if self._process is not None:
                self._process.send_signal(signal.SIGKILL)

    def _start(self) -> None:
        theirs, self._orders = os.pipe2(os.O_CLOEXEC)
        self._lines, output = os.pipe2(os.O_CLOEXEC)
        self._token = token_hex(16)
        try:
            with self._changing:
                if self._interrupted:
                    raise WorkerDied("was interrupted")
                self._process = self._spawned(theirs, output)
        finally:
            os.close(theirs)
            os.close(output)

    def _spawned(self, orders: int, output: int) -> Process:
        return spawn(
            python(self._program, "--orders-fd", orders),
            pass_fds=[orders],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, TOKEN: self._token},
            new_session=True,  # an interrupt from the terminal is for us to hear
        )

    def _send(self, order: Order) -> None:
        data = msgspec.json.encode(order) + b"\n"
        try:
            while data:
                data = data[os.write(self._orders, data) :]
        except OSError as error:
            raise WorkerDied(f"takes no orders: {error.strerror}") from None

    def _record(self, deadline: float) -> Record:
        while True:
            line = self._line(deadline)
            try:
                message: dict[str, Any] = json.loads(line)
            except ValueError:
                self._said = (self._said + line + b"\n")[-_SAID_BYTES:]
                continue
            self._remains = message.get("remains", self._remains)
            if "record" in message:
                return message["record"]

    def _line(self, deadline: float) -> bytes:
        assert self._process is not None
        ready = select.poll()
        ready.register(self._lines, select.POLLIN)
        ready.register(self._process.pidfd, select.POLLIN)
        while b"\n" not in self._buffer:
            events = dict(ready.poll(max(0.0, deadline - time.monotonic()) * 1000))
            if not events:
                raise WorkerDied("gave no answer in time")
            # Its end is no end of the pipe: a child of its may have that as well.
            data = os.read(self._lines, _READ_BYTES) if self._lines in events else b""
            if not data:
                last = self._said.decode(errors="replace").strip().rpartition("\n")[2]
                raise WorkerDied(f"died{': ' + last if last else ''}")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _bury(self) -> None:
        """End the process if it still runs, and remove what it leaves behind."""
        with self._changing:
            process, self._process = self._process, None
        if process is not None:
            clean = process.returncode == 0
            process.kill_now()
            if not clean:
                with contextlib.suppress(NooksError):
                    sweep(self._token, self._remains)
        for descriptor in (self._orders, self._lines):
            self._close(descriptor)
        self._orders = self._lines = -1
        self._buffer, self._said, self._remains = b"", b"", {}

    @staticmethod
    def _close(descriptor: int) -> None:
        if descriptor >= 0:
            os.close(descriptor)

"""One nook's process: takes what the launcher hands over, runs the nook, answers on its control socket.

``kill -9`` takes nothing away from applications: the keeper holds what they need, and the next supervisor adopts.
"""

import argparse
import asyncio
import contextlib
import io
import json
import os
import socket
import sys
import traceback
from typing import Any

import structlog

from nooks.host.errors import NooksError
from nooks.host.hardening import harden
from nooks.host.interrupts import INTERRUPTS
from nooks.host.paths import nook_dir
from nooks.keeper.client import KeeperClient
from nooks.nook import claims
from nooks.nook.commands import commands
from nooks.nook.control_server import Arguments, ControlServer, Handler
from nooks.nook.ledger import Ledger
from nooks.nook.nook import Nook, assemble


def main() -> int:
    """Entry point of ``python -m nooks.nook.supervisor``; returns the exit status."""
    options = _options()
    sys.stderr = io.TextIOWrapper(_Log(2, "w", closefd=False), errors="backslashreplace", write_through=True)
    structlog.configure(
        processors=[
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.add_log_level,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    for refused in harden():
        log = structlog.get_logger()
        (log.warning if os.geteuid() == 0 else log.info)("not hardened", refused=refused)
    return asyncio.run(_Supervisor(options).run())


class _Log(io.FileIO):
    """Standard error, which is the nook's log. A disk that is full costs lines of it, never a recovery."""

    def write(self, data: Any, /) -> int:  # noqa: ANN401 - any buffer
        with contextlib.suppress(OSError):
            super().write(data)
        return len(data)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="nooks.nook.supervisor")
    parser.add_argument("--name", required=True)
    for name in ("lock", "control", "keeper", "ready"):
        parser.add_argument(f"--{name}-fd", type=int, required=True)
    return parser.parse_args()


class _Supervisor:
    def __init__(self, options: argparse.Namespace) -> None:
        self._name: str = options.name
        self._control = socket.socket(fileno=options.control_fd)
        self._ready: int = options.ready_fd
        self._keeper = KeeperClient.from_fd(options.keeper_fd)
        self._stop = asyncio.Event()
        self._asked = False

    async def run(self) -> int:
        """Start or adopt, say so on the ready pipe, serve until the nook was stopped."""
        loop = asyncio.get_running_loop()
        for number in INTERRUPTS:
            loop.add_signal_handler(number, self._stop.set)
        ledger = Ledger(self._keeper)
        adopting = ledger.resume()
        try:
            nook = await assemble(nook_dir(self._name), ledger, adopting=adopting)
        except Exception as error:  # noqa: BLE001 - even a defect is told to the launcher
            return self._fail(_told(error))
        starting = asyncio.create_task(nook.adopt() if adopting else nook.start())
        try:
            result = await self._unless_stopped(starting)
        except Exception as error:  # noqa: BLE001 - even a defect is told to the launcher
            if not adopting:
                await nook.close()
            return self._fail(_told(error))
        (nook_dir(self._name) / claims.PID).write_text(f"{os.getpid()}\n")
        self._say({"result": result})
        handlers = commands(nook) | {"stop": self._handle_stop(nook)}
        async with ControlServer(self._control, handlers):
            await self._until_stopped(nook)
            if nook.alive:
                await nook.stop(force=True)
        await nook.close()
        if not self._asked:
            claims.forget(self._name)  # ended by a signal: no command is there to clear up
        return 0

    def _handle_stop(self, nook: Nook) -> Handler:
        async def stop(arguments: Arguments) -> dict[str, Any]:
            await nook.stop(force=bool(arguments.get("force")))
            self._asked = True
            self._stop.set()
            return {"name": self._name, "state": "stopped"}

        return stop

    async def _unless_stopped(self, starting: "asyncio.Task[dict[str, Any]]") -> dict[str, Any]:
        stopped = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                starting.cancel()
                await asyncio.gather(starting, return_exceptions=True)
                raise NooksError(f"the start of {self._name} was interrupted")
            return starting.result()
        finally:
            stopped.cancel()

    async def _until_stopped(self, nook: Nook) -> None:
        waits = [asyncio.create_task(event.wait()) for event in (self._stop, nook.ended)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for each in waits:
            each.cancel()

    def _fail(self, error: NooksError) -> int:
        self._say({"error": {"message": error.message, "fix": error.fix, "exit_code": error.exit_code}})
        return error.exit_code

    def _say(self, document: dict[str, Any]) -> None:
        """One line for the launcher, which may be gone by now."""
        try:
            os.write(self._ready, json.dumps(document, default=str).encode() + b"\n")
            os.close(self._ready)
        except OSError:
            structlog.get_logger().warning("the launcher is gone", document=document)


def _told(error: Exception) -> NooksError:
    if isinstance(error, NooksError):
        return error
    traceback.print_exc()
    return NooksError(f"internal error: {error!r}", "see the nook's log")


if __name__ == "__main__":
    sys.exit(main())

"""Stands in for ``nooks.nook.supervisor`` in tests of the launcher: the real process, handed-over descriptors and all.

What it does is told by the environment variable FAKE_SUPERVISOR: ready, refuse, die, slow, degraded or deaf.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
import time
from typing import Any

from nooks.host.paths import nook_dir
from nooks.keeper.client import KeeperClient
from nooks.nook.claims import SPEC, forget
from nooks.nook.control_server import Arguments, ControlServer
from nooks.spec import Spec

HELD = "endpoint"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--name")
    for name in ("lock", "control", "keeper", "ready"):
        parser.add_argument(f"--{name}-fd", type=int)
    options = parser.parse_args()
    how = os.environ.get("FAKE_SUPERVISOR", "ready")
    keeper = KeeperClient.from_fd(options.keeper_fd)
    adopted = HELD in keeper.list()
    spec = Spec.from_json((nook_dir(options.name) / SPEC).read_bytes())

    def say(document: dict[str, Any]) -> None:
        os.write(options.ready_fd, json.dumps(document).encode() + b"\n")
        os.close(options.ready_fd)

    if how == "die":
        print("no such luck", file=sys.stderr)
        return 3
    if how == "refuse":
        say({"error": {"message": "the TAP is in use", "fix": "choose another wire", "exit_code": 2}})
        return 2
    if how == "slow":
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        time.sleep(60)
    result = {"name": spec.name, "pid": os.getpid(), "adopted": adopted, "driver": spec.driver, "interface": spec.name}
    keeper.put(HELD, os.memfd_create("endpoint"))
    say({"result": result})
    if how == "deaf":
        time.sleep(60)
    asyncio.run(serve(options, keeper, result, "degraded" if how == "degraded" else "running"))
    return 0


async def serve(options: argparse.Namespace, keeper: KeeperClient, result: dict[str, Any], state: str) -> None:
    stopping = asyncio.Event()

    async def status(arguments: Arguments) -> dict[str, Any]:
        return {
            "name": options.name,
            "class": "network",
            "driver": result["driver"],
            "state": state,
            "pid": os.getpid(),
        }

    async def rearm(arguments: Arguments) -> dict[str, Any]:
        return {**result, "rearmed": True}

    async def stop(arguments: Arguments) -> dict[str, Any]:
        keeper.quit()
        stopping.set()
        return {"name": options.name, "state": "stopped"}

    handlers = {"status": status, "rearm": rearm, "stop": stop}
    async with ControlServer(socket.socket(fileno=options.control_fd), handlers):
        await stopping.wait()
    forget(options.name)

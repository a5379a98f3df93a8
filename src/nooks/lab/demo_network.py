"""``nooks demo network``: a download goes on while its network driver is made to fail in seven ways.

Nothing here is staged: curl on the host, a web server at the far end of the cable, the product between them.
"""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from random import SystemRandom
from typing import Any

from nooks.lab import bed as beds
from nooks.lab.content import Content
from nooks.lab.demo_screen import Screen
from nooks.lab.download import Download, download
from nooks.lab.gauge import Gauge
from nooks.lab.host_health import HostHealth
from nooks.lab.product import Product
from nooks.lab.running import run_lab
from nooks.lab.sockets import local_ports
from nooks.lab.ways import SUPERVISOR, TEXT, Failure, explain, fail, settle
from nooks.lab.workers import python, worker

DRIVER = "e1000"
WAYS = (TEXT, "panic", "hang", "freeze", "kill", "oops", SUPERVISOR)
SIZE_BYTES = 480 << 20
RATE_BYTES = 26_000_000
SIZE_BYTES_MIN = 200_000_000
SPARE_SECONDS = 3.0
_POLL_SECONDS = 0.02


@dataclass
class Scene:
    """All that the screen and the summary speak of."""

    bed: beds.Bed
    driver: str
    size_bytes: int = SIZE_BYTES
    seed: int = field(default_factory=lambda: SystemRandom().randrange(1 << 31))
    began: float = field(default_factory=time.time)
    doing: str = ""
    started: dict[str, Any] = field(default_factory=dict[str, Any])
    gauge: Gauge = field(default_factory=Gauge)
    failures: list[Failure] = field(default_factory=list[Failure])
    current: str = ""
    access_log: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    ports: set[int] = field(default_factory=set[int])
    expected_sha256: str = ""
    result: dict[str, Any] = field(default_factory=dict[str, Any])
    host: list[str] = field(default_factory=list[str])
    seconds: float = 0.0

    @property
    def url(self) -> str:
        """What is downloaded."""
        return f"http://{self.bed.peer}/{self.size_bytes}"


def run(driver: str = DRIVER, picture: Path | None = None, json: bool = False) -> dict[str, Any]:
    """Run the demonstration; returns its summary, in which ``ok`` says whether everything held.

    ``picture`` is a file for the last screen as SVG; with ``json`` nothing is shown.
    """
    scene = Scene(beds.plan(), driver)
    screen = Screen(scene, quiet=json, terminal=sys.stdout.isatty())
    return run_lab(_run(scene, screen, picture))


async def _run(scene: Scene, screen: Screen, picture: Path | None) -> dict[str, Any]:
    health = HostHealth.now()
    with screen:
        async with asyncio.TaskGroup() as group:
            hashing = group.create_task(asyncio.to_thread(Content(scene.seed).sha256, scene.size_bytes))
            async with stage(scene) as product:
                await _perform(scene, screen, product)
            scene.expected_sha256 = await hashing
        scene.host = health.harm()
        scene.seconds = time.time() - scene.began
        scene.doing = ""
        summary = summarize(scene)
        screen.finish(summary, picture)
    return summary


@contextlib.asynccontextmanager
async def stage(scene: Scene) -> AsyncGenerator[Product, None]:
    """The nook, the cable, and the web server at its far end."""
    bed = scene.bed
    scene.doing = f"starting a nook with {scene.driver}"
    async with beds.far_end(bed), beds.nook_on(bed, scene.driver, "--debug", "--intensity", "100") as (nook, started):
        scene.started = started | await nook.status()
        serving = python("nooks.lab.web_server", "--address", bed.peer, "--seed", scene.seed)
        serving += ["--rate-bytes", str(RATE_BYTES)]
        async with worker("web server", serving, scene.access_log.append, netns=bed.netns) as server:
            await server.until_ready()
            async with nook.following():
                yield nook
                scene.doing = "stopping the nook"


async def _perform(scene: Scene, screen: Screen, product: Product) -> None:
    scene.doing = ""
    async with download(scene.url, scene.seed) as fetching, asyncio.TaskGroup() as group:
        scene.gauge = fetching.gauge
        for number, way in enumerate(WAYS):
            await _reach(scene, fetching, (number + 0.6) / (len(WAYS) + 0.6))
            await product.wait_for_spare(SPARE_SECONDS)
            if not fetching.running:
                break
            scene.ports |= local_ports(scene.bed.peer, beds.WEB_PORT)
            scene.current = way
            failure = await fail(product, way, scene.seed)
            scene.failures.append(failure)
            scene.current = ""
            scene.ports |= local_ports(scene.bed.peer, beds.WEB_PORT)
            group.create_task(_finish(scene, screen, product, failure))
            if not failure.recovered:
                break
        scene.result = await fetching.result()


async def _reach(scene: Scene, fetching: Download, share: float) -> None:
    while fetching.running and scene.gauge.received < share * scene.size_bytes:
        await asyncio.sleep(_POLL_SECONDS)


async def _finish(scene: Scene, screen: Screen, product: Product, failure: Failure) -> None:
    await settle(failure, scene.gauge)
    await explain(product, failure)
    screen.failed(failure)


def summarize(scene: Scene) -> dict[str, Any]:
    """The summary document: what happened, and each claim with whether it held."""
    result, failures = scene.result, scene.failures
    connections = [line for line in scene.access_log if line.get("event") == "connection"]
    responses = [line for line in scene.access_log if line.get("event") == "response"]
    served = sum(int(line["bytes"]) for line in responses)
    recovered = [failure for failure in failures if failure.recovered]
    machine = [failure for failure in failures if failure.takes_the_machine]
    one_port = len(scene.ports) == 1 and result.get("curl", {}).get("local_port") in scene.ports
    checks = [
        _check(
            "SHA-256 agrees",
            bool(result.get("sha256")) and result.get("sha256") == scene.expected_sha256,
            str(result.get("sha256") or result.get("said") or "no download"),
        ),
        _check(
            "one TCP connection throughout",
            len(connections) == 1 and len(responses) == 1 and one_port and served == scene.size_bytes,
            f"{len(connections)} accepted by the web server, {len(responses)} request, "
            f"port {', '.join(map(str, sorted(scene.ports))) or 'none'} all the time",
        ),
        _check(
            "at least 200 MB downloaded",
            result.get("exit") == 0 and scene.gauge.received == scene.size_bytes >= SIZE_BYTES_MIN,
            f"{scene.gauge.received / 1e6:.0f} MB, curl's exit status {result.get('exit')}",
        ),
        _check(
            "every failure recovered",
            len(recovered) == len(WAYS) == len(failures),
            f"{len(failures)} failures of {len(WAYS)} ways, {len(recovered)} recoveries",
        ),
        _check("host unharmed", not scene.host, "; ".join(scene.host) or "same boot, no new kernel complaint"),
    ]
    return {
        "ok": all(check["ok"] for check in checks),
        "class": "network",
        "driver": scene.driver,
        "nook": scene.started,
        "bytes": scene.gauge.received,
        "sha256": result.get("sha256"),
        "failures": len(failures),
        "recoveries": len(recovered),
        "would_have_taken_the_machine": len(machine),
        "checks": checks,
        "runs": [failure.record() for failure in failures],
        "curl": result.get("curl", {}),
        "seconds": round(scene.seconds, 2),
    }


def _check(name: str, ok: bool, detail: str) -> dict[str, Any]:
    return {"name": name, "ok": ok, "detail": detail}

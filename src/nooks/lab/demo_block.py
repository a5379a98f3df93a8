"""``nooks demo block``: a database and an archiver go on working on a disk whose driver is made to fail in every way.

Nothing here is staged: an ext4 file system on the nook's block device, sqlite with every transaction on the medium
before the next, zstd packing files; and at the end they check all that they did, and e2fsck checks the file system.
"""

import asyncio
import time
from pathlib import Path
from random import SystemRandom
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from nooks.lab.demo_screen import milliseconds, verdict
from nooks.lab.disk.recovery import Load, loaded
from nooks.lab.disk.stage import Stage, stage
from nooks.lab.host_health import HostHealth
from nooks.lab.running import run_lab
from nooks.lab.ways import DESCRIPTIONS, SUPERVISOR, Failure, explain, fail, settle

DRIVER = "ide-disk"
WAYS = ("panic", "hang", "freeze", "kill", "oops", "agent", SUPERVISOR)
SPARE_SECONDS = 10.0
WORK_SECONDS = 1.5
TRANSACTIONS_MIN = 50


def run(driver: str = DRIVER, picture: Path | None = None, json: bool = False) -> dict[str, Any]:
    """Run the demonstration; returns its summary, in which ``ok`` says whether everything held.

    ``picture`` is a file for what was shown as SVG; with ``json`` nothing is shown.
    """
    console = Console(quiet=json, record=picture is not None, highlight=False)
    return run_lab(_run(driver, console, picture))


async def _run(driver: str, console: Console, picture: Path | None) -> dict[str, Any]:
    began, health = time.time(), HostHealth.now()
    failures: list[Failure] = []
    async with stage(driver, "--intensity", "100") as made, made.product.following():
        console.print(_heading(driver, made))
        async with loaded(made.place, SystemRandom().randrange(1 << 31)) as load:
            for way in WAYS:
                failures.append(await _fail(made, load, way))
                console.print(_row(failures[-1]), soft_wrap=True)
                if load.errors() or not failures[-1].recovered:
                    break
            errors = await load.finish()
    summary = summarize(driver, made, load, failures, errors + health.harm()) | {
        "seconds": round(time.time() - began, 2)
    }
    console.print(_table(load))
    console.print(verdict(summary))
    if picture is not None:
        console.save_svg(str(picture), title="nooks demo block")
    return summary


async def _fail(made: Stage, load: Load, way: str) -> Failure:
    await made.product.wait_for_spare(SPARE_SECONDS)
    await asyncio.sleep(WORK_SECONDS)
    failure = await fail(made.product, way)
    await settle(failure, *(application.gauge for application in load.applications[:2]))
    await explain(made.product, failure)
    return failure


def summarize(driver: str, made: Stage, load: Load, failures: list[Failure], errors: list[str]) -> dict[str, Any]:
    """The summary document: what happened, and each claim with whether it held."""
    recovered = sum(failure.recovered for failure in failures)
    raw, database, archiver = load.applications
    judged: dict[str, Any] = (
        database.judged if isinstance(database.judged, dict) else {"transactions": 0, "lost": 0, "integrity": "?"}
    )
    checks = [
        _check(
            "no transaction lost, the database intact",
            judged["integrity"] == "ok" and not judged["lost"] and judged["transactions"] >= TRANSACTIONS_MIN,
            f"{judged['transactions']} acknowledged, {judged['lost']} lost, integrity_check: {judged['integrity']}",
        ),
        _check(
            "every packed file is what it was",
            archiver.error is None and archiver.gauge.received > 0,
            archiver.error or f"{archiver.gauge.received} files, SHA-256 of each agrees",
        ),
        _check(
            "every block that was written past the cache reads back",
            raw.error is None and bool(raw.judged),
            raw.error or f"{raw.gauge.received} writes, each block compared at the end",
        ),
        _check("the file system is clean", not made.checked, "; ".join(made.checked) or "e2fsck -f, twice"),
        _check(
            "every failure recovered",
            recovered == len(WAYS) == len(failures),
            f"{len(failures)} failures of {len(WAYS)} ways, {recovered} recoveries",
        ),
        _check("no application saw an error, host unharmed", not errors, "; ".join(errors) or "none"),
    ]
    return {
        "ok": all(check["ok"] for check in checks),
        "class": "block",
        "driver": driver,
        "nook": made.started,
        "failures": len(failures),
        "recoveries": recovered,
        "would_have_taken_the_machine": sum(failure.takes_the_machine for failure in failures),
        "transactions": judged["transactions"],
        "checks": checks,
        "runs": [failure.record() for failure in failures],
    }


def _check(name: str, ok: bool, detail: str) -> dict[str, Any]:
    return {"name": name, "ok": ok, "detail": detail}


def _heading(driver: str, made: Stage) -> Panel:
    lines = Text.assemble(
        ("the driver        ", "dim"),
        (driver, "bold"),
        ", unmodified, from Debian's stock kernel, in a virtual machine of its own\n",
        ("the disk          ", "dim"),
        (str(made.device), "bold"),
        f", ext4, mounted on {made.place}\n",
        ("the applications  ", "dim"),
        "a database (sqlite, synchronous=FULL), an archiver (zstd), a program that writes past the page cache",
    )
    return Panel(lines, title="Nooks: a disk's driver may crash, nothing is lost", border_style="cyan")


def _row(failure: Failure) -> Text:
    times = {
        "detection": failure.detection_seconds,
        "recovery": failure.recovery_seconds,
        "outage": failure.outage_seconds,
    }
    cells = [f"{DESCRIPTIONS[failure.way]:34}", f"{failure.reason or 'not noticed':12}"]
    cells += [f"{name} {milliseconds(each):>8}  " for name, each in times.items()]
    return Text(" ".join(cells) + failure.happened, style="" if failure.recovered else "red")


def _table(load: Load) -> Table:
    table = Table(box=None, header_style="bold")
    for column in ("application", "operations", "longest pause"):
        table.add_column(column)
    for application in load.applications:
        pause = application.gauge.longest_pause(0.0, time.time())
        table.add_row(application.name, str(application.gauge.received), milliseconds(pause))
    return table

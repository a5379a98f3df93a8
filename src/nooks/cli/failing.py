"""``nooks crash`` and ``nooks inject``: failing a nook on purpose."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from nooks.cli.options import Json, Name
from nooks.cli.output import emit, table

CRASH_SECONDS = 30.0
INJECT_SECONDS = 120.0


class How(StrEnum):
    """The ways in which a domain can be made to fail (CONTRACT)."""

    PANIC = "panic"
    OOPS = "oops"
    HANG = "hang"
    HALT = "halt"
    FREEZE = "freeze"
    KILL = "kill"
    AGENT = "agent"
    LEAK = "leak"
    SILENT = "silent"
    DMA = "dma"


class FaultType(StrEnum):
    """The types of faults that can be injected now."""

    TEXT = "text"


def crash(
    name: Name,
    how: Annotated[How, typer.Option("--how", help="The way in which it fails.")],
    json: Json = False,
) -> None:
    """Fail a nook's domain on purpose.

    panic and oops are the kernel's; in a hang the CPU spins and in a halt it sleeps, with interrupts off; freeze stops
    and kill ends the domain's process; agent ends our program in it; leak uses up its memory; silent keeps the driver
    from making progress; dma makes a real card reach outside the domain's memory, which the IOMMU refuses.
    """
    from nooks.lifecycle import contact

    with contact.connect(name) as control:
        result = control.request("crash", {"how": how.value}, timeout_seconds=CRASH_SECONDS)
    emit(result, as_json=json, text=lambda: print(f"{name}: {how.value} of incarnation {result.get('incarnation')}"))


def inject(
    name: Name,
    fault_type: Annotated[FaultType, typer.Option("--type", help="The type of the faults.")] = FaultType.TEXT,
    count: Annotated[int, typer.Option("--count", metavar="N", min=1, max=1000, help="How many.")] = 1,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="The same seed makes the same faults.")] = 0,
    json: Json = False,
) -> None:
    """Change the live code of a nook's driver. The nook must have been started with --debug."""
    from nooks.lifecycle import contact

    arguments = {"type": fault_type.value, "count": count, "seed": seed}
    with contact.connect(name) as control:
        faults: list[dict[str, Any]] = control.request("inject", arguments, timeout_seconds=INJECT_SECONDS)
    columns = ("type", "function", "address", "before", "after", "text_before", "text_after")
    rows = [[fault.get(column) for column in columns] for fault in faults]
    emit(faults, as_json=json, text=lambda: table(columns, rows, empty="no fault was injected"))

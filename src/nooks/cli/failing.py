"""``nooks crash`` and ``nooks inject``: failing a nook on purpose."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from nooks.cli.options import Json, Name
from nooks.cli.output import emit, table
from nooks.faults import names
from nooks.host.errors import InputError

CRASH_SECONDS = 30.0
INJECT_SECONDS = 120.0
_TYPES = (*names.FAULTS, names.MIXED, *names.BUGS)


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


def complete_types(incomplete: str) -> list[str]:
    """The types of faults and bugs."""
    return [name for name in _TYPES if name.startswith(incomplete)]


def _known_type(name: str) -> str:
    if name not in _TYPES:
        raise InputError(f"there is no fault type {name!r}", f"choose from: {', '.join(_TYPES)}")
    return name


TypeOption = Annotated[
    str,
    typer.Option(
        "--type",
        metavar="TYPE",
        help="The type of the faults; 'nooks inject --help' explains them.",
        callback=_known_type,
        autocompletion=complete_types,
    ),
]


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
    fault_type: TypeOption = names.MIXED,
    count: Annotated[int, typer.Option("--count", metavar="N", min=1, max=1000, help="How many.")] = 1,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="The same seed makes the same faults.")] = 0,
    show: Annotated[
        bool, typer.Option("--show", help="Inject nothing; show what was injected last, and whether it has run since.")
    ] = False,
    json: Json = False,
) -> None:
    """Change the live code of a nook's driver. The nook must have been started with --debug.

    Faults change a random instruction, in code that runs under load if possible: source and destination take another
    register, pointer another address; interface loses a parameter; branch and nop lose an instruction; loop ends on
    the opposite condition; text has one bit flipped; mixed is all of these by chance.

    Bugs are a programmer's: missing-check, uninitialised, double-free, use-after-free, lock-held, endless-loop,
    endless-loop-irqs-off, stack-overflow, memory-leak, interrupt-storm.
    """
    from nooks.lifecycle import contact

    command, arguments = ("injected", {}) if show else ("inject", {"type": fault_type, "count": count, "seed": seed})
    with contact.connect(name) as control:
        faults: list[dict[str, Any]] = control.request(command, arguments, timeout_seconds=INJECT_SECONDS)
    columns = ("type", "function", "address", "text_before", "text_after", *(["executed"] if show else []))
    rows = [[fault.get(column) for column in columns] for fault in faults]
    emit(faults, as_json=json, text=lambda: table(columns, rows, empty="no fault was injected"))

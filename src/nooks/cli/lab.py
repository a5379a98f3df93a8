"""``nooks lab run``: parse, and leave the rest to ``nooks.lab.machine``."""

from pathlib import Path
from typing import Annotated

import typer

from nooks.cli.app import plain_app
from nooks.cli.options import Json
from nooks.cli.output import emit
from nooks.cli.progress import TerminalProgress

lab = plain_app("Try nooks on a whole emulated PC: IOMMU, nested virtualisation, cards of your choice.")


@lab.callback()
def _group() -> None:
    """Try nooks on a whole emulated PC: IOMMU, nested virtualisation, cards of your choice."""


@lab.command("run")
def run(
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[-- COMMAND [ARGS]...]", help="What to run; a shell without it.")
    ] = None,
    kernel: Annotated[
        str,
        typer.Option("--kernel", metavar="KERNEL", help="debian, bookworm, trixie, host, a version or a directory."),
    ] = "debian",
    device: Annotated[
        list[str] | None,
        typer.Option("--device", metavar="MODEL[,option=value...]", help="A card of the machine; may be repeated."),
    ] = None,
    memory: Annotated[str, typer.Option("--memory", metavar="SIZE", help="The machine's memory.")] = "3G",
    cpus: Annotated[int, typer.Option("--cpus", metavar="N", min=1, max=16, help="Its processors.")] = 2,
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="SECONDS", min=0.1, help="How long COMMAND may take.")
    ] = None,
    console: Annotated[
        Path | None, typer.Option("--console", metavar="FILE", help="Where its console goes, else the log directory.")
    ] = None,
    iommu: Annotated[bool, typer.Option("--iommu/--no-iommu", help="Whether the machine has an IOMMU.")] = True,
    json: Json = False,
) -> None:
    """Run COMMAND inside a lab machine, in this directory; its exit status is the command's.

    The machine has this one's file system (what is written to it is lost, but for the cache of nooks) and each
    --device as a real card: one that QEMU emulates, or a model of ours (model:3c905b; 'nooks hardware models').
    Network cards have a cable to an interface wire0, wire1 and so on. Device options of the lab's own: bridge=NAME
    (behind a PCI bridge, with others), port=yes (a PCIe root port of its own), drive=FILE (a raw image; nvme,
    ich9-ahci and usb-storage have an empty medium of 256 MiB otherwise).
    With --json all output of COMMAND goes to stderr, and stdout has one document at the end: exit_status,
    boot_seconds, seconds, kernel, console.
    """
    from nooks.lab.machine import options
    from nooks.lab.machine.run import run as run_machine

    wishes = options.Wishes(
        cards=options.parse_cards(device or []),
        kernel=kernel,
        memory_bytes=options.parse_memory(memory),
        cpus=cpus,
        iommu=iommu,
    )
    with TerminalProgress(enabled=not json) as progress:
        result = run_machine(
            wishes,
            command or [],
            timeout_seconds=timeout,
            console=console,
            stdout=2 if json else 1,
            progress=progress,
        )
    document = {
        "exit_status": result.exit_status,
        "boot_seconds": result.boot_seconds,
        "seconds": result.seconds,
        "kernel": result.kernel,
        "console": str(result.console),
    }
    emit(document, as_json=json, text=lambda: None)
    if result.exit_status:
        raise typer.Exit(result.exit_status)

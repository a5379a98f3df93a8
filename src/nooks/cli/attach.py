"""``nooks attach`` and ``nooks detach``: real devices."""

from typing import Annotated, Any

import typer

from nooks.cli.options import (
    DebugOption,
    GiveUpOption,
    IntegrityOption,
    IntensityOption,
    Json,
    LatencyOption,
    MeansOption,
    MemoryOption,
    Name,
    PeriodOption,
    PolicyOption,
)
from nooks.cli.output import emit, seconds
from nooks.cli.progress import TerminalProgress
from nooks.cli.start import age_seconds, sentence

NOT_POSSIBLE = 1


def complete_devices(incomplete: str) -> list[str]:
    """The devices of this machine that are of a class for which there are nooks: by address and by name."""
    from nooks.device.verdict import survey

    found = [word for verdict in survey() for word in (verdict.device.removeprefix("pci:"), verdict.name) if word]
    return [word for word in found if word.startswith(incomplete)]


def attach(
    device: Annotated[
        str,
        typer.Argument(
            metavar="DEVICE",
            help="A PCI address, usb:VID:PID, or the name of an interface, disk or sound card (card0).",
            autocompletion=complete_devices,
        ),
    ],
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="The nook and its interface; default: the device's.")
    ] = None,
    kernel: Annotated[
        str | None,
        typer.Option(
            "--kernel", metavar="KERNEL", help="Whose driver: host (default), debian, a version or a directory."
        ),
    ] = None,
    memory: MemoryOption = None,
    debug: DebugOption = None,
    policy: PolicyOption = None,
    latency: LatencyOption = None,
    integrity: IntegrityOption = None,
    give_up_seconds: GiveUpOption = None,
    intensity: IntensityOption = None,
    period_seconds: PeriodOption = None,
    means: MeansOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check, say what would be done, and do nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Against advice, where that can be overridden.")] = False,
    persist: Annotated[
        bool,
        typer.Option("--persist", help="Again at each start of the machine, by systemd."),
    ] = False,
    json: Json = False,
) -> None:
    """Take a real device from the host's driver and run the same driver in a nook; returns when that can be used.

    A network nook's interface gets the addresses and routes that the host's had, and its name unless another is given;
    a sound nook's sink and source are nooks-NAME. If anything fails, or on Ctrl-C, all is put back as it was.
    """
    from nooks.cli import ahead
    from nooks.lifecycle import attach as attaching

    flags = {
        "name": name,
        "kernel": kernel,
        "memory": memory,
        "debug": debug,
        "sound.policy": policy,
        "sound.latency": latency,
        "block.integrity": integrity,
        "block.give_up_seconds": give_up_seconds,
        "restart.intensity": intensity,
        "restart.period_seconds": period_seconds,
        "restart.means": means,
    }
    keys = {key: value for key, value in flags.items() if value is not None}
    if dry_run:
        plan = attaching.plan(device, keys=keys, force=force)
        emit(plan, as_json=json, text=lambda: _show(plan))
        if not plan["possible"]:
            raise typer.Exit(NOT_POSSIBLE)
        return
    with TerminalProgress(enabled=not json) as progress:
        result = attaching.attach(device, progress, keys=keys, force=force, persist=persist, standby=ahead.take())
    result["ready_seconds"] = round(age_seconds(), 3)
    emit(result, as_json=json, text=lambda: _say(result))


def detach(
    name: Name,
    force: Annotated[bool, typer.Option("--force", help="Also if its supervisor hangs or can't be adopted.")] = False,
    json: Json = False,
) -> None:
    """Stop a nook and give its real device back to the host's driver, with what is configured on its interface now."""
    from nooks.lifecycle import attach as attaching

    result = attaching.detach(name, force=force)
    result["seconds"] = round(age_seconds(), 3)
    what = f"{name} is stopped, {result['device']} is the host's again after {seconds(result['seconds'])}"
    emit(result, as_json=json, text=lambda: print(what))


def _say(result: dict[str, Any]) -> None:
    print(sentence(result))
    if "spec" in result:
        unit = f"; systemd starts it by {result['unit']}" if result["unit"] else "; no systemd here to start it"
        print(f"specification in {result['spec']}{unit}")


def _show(plan: dict[str, Any]) -> None:
    print(f"{plan['device']}: {plan['description']}")
    print(f"class {plan['class']}, driver {plan['driver']} (module {plan['module']}), reset by {plan['reset']}")
    if plan["firmware"]:
        print(f"firmware {', '.join(plan['firmware'])}")
    for problem in plan["problems"]:
        how = " (--force overrides this)" if problem["force"] else ""
        print(f"problem: {problem['message']}{how}; {problem['fix']}")
    for note in plan["notes"]:
        print(f"note: {note}")
    configuration = plan["configuration"]
    if configuration is not None:
        addresses = ", ".join(each["address"] for each in configuration["addresses"]) or "no address"
        print(f"configured on {configuration['name']}: {addresses}; {len(configuration['routes'])} routes")
    for number, step in enumerate(plan["steps"], start=1):
        print(f"{number}. {step}")
    print("nothing was done" if plan["possible"] else "it can't be put into a nook")

"""Arguments and options that several commands share, and what the shell completes them with."""

from typing import Annotated

import typer


def complete_nooks(incomplete: str) -> list[str]:
    """The names of the nooks that are there."""
    from nooks.nook.claims import names

    return [name for name in names() if name.startswith(incomplete)]


def complete_drivers(incomplete: str) -> list[str]:
    """The names of the known drivers."""
    from nooks.drivers import table

    return [name for name in table() if name.startswith(incomplete)]


def _checked(name: str | None) -> str | None:
    from nooks.host.paths import check_name

    return None if name is None else check_name(name)


Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[
    str, typer.Argument(metavar="NAME", help="The nook.", callback=_checked, autocompletion=complete_nooks)
]
OptionalName = Annotated[
    str | None,
    typer.Argument(
        metavar="[NAME]", help="The nook; all without it.", callback=_checked, autocompletion=complete_nooks
    ),
]
DriverOption = Annotated[
    str | None,
    typer.Option(
        "--driver",
        metavar="DRIVER",
        help="A known driver ('nooks drivers'), or any kernel module by its own name.",
        autocompletion=complete_drivers,
    ),
]
MemoryOption = Annotated[
    str | None, typer.Option("--memory", metavar="SIZE", help="The domain's memory, such as 128M.")
]
DebugOption = Annotated[
    bool | None, typer.Option("--debug/--no-debug", help="The debug stub that 'nooks inject' needs.")
]
IntensityOption = Annotated[
    int | None, typer.Option("--intensity", metavar="N", help="Failures in a period before it gives up.")
]
PeriodOption = Annotated[float | None, typer.Option("--period-seconds", metavar="SECONDS", help="That period.")]
PolicyOption = Annotated[
    str | None, typer.Option("--policy", metavar="POLICY", help="Sound, while a driver is away: content or clock.")
]
LatencyOption = Annotated[str | None, typer.Option("--latency", metavar="LATENCY", help="Sound: default or low.")]
IntegrityOption = Annotated[
    bool | None, typer.Option("--integrity/--no-integrity", help="Compare what a disk's driver reads.")
]
GiveUpOption = Annotated[
    float | None,
    typer.Option("--give-up-seconds", metavar="SECONDS", help="When requests to a degraded disk fail; 0: never."),
]
MeansOption = Annotated[
    str | None,
    typer.Option("--means", metavar="MEANS", help="The quickest restart to use: spare, restore, hotplug or cold."),
]

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

"""``nooks drivers``."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from nooks.cli.options import Json
from nooks.cli.output import emit, table


class Class(StrEnum):
    """The classes of drivers."""

    NETWORK = "network"
    BLOCK = "block"
    SOUND = "sound"


def drivers(
    driver_class: Annotated[Class | None, typer.Option("--class", metavar="CLASS", help="Only this class.")] = None,
    json: Json = False,
) -> None:
    """List the known drivers. Any other kernel module runs as well, by its own name and with --device."""
    from nooks.drivers import table as known

    rows: list[dict[str, Any]] = [
        {
            "driver": row.name,
            "class": row.driver_class,
            "module": row.module,
            "devices": list(row.devices),
            "verified": [{"shown": item.shown, "test": item.test} for item in row.verified],
            "summary": row.summary,
        }
        for row in known().values()
        if driver_class in (None, row.driver_class)
    ]

    def text() -> None:
        table(
            ("driver", "class", "hardware", "default device", "verified"),
            [
                (row["driver"], row["class"], row["summary"], row["devices"][0], len(row["verified"]) or "no")
                for row in rows
            ],
            empty="no such drivers",
        )

    emit(rows, as_json=json, text=text)

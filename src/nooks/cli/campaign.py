"""``nooks campaign``: parse, and leave the rest to ``nooks.lab.campaign``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from nooks.cli.failing import TypeOption
from nooks.cli.options import Json, complete_drivers
from nooks.cli.output import emit, table
from nooks.faults import names
from nooks.host.errors import InputError


def _complete_workloads(incomplete: str) -> list[str]:
    from nooks.lab.campaign.file_systems import PROGRAMS

    return [name for name in PROGRAMS if name.startswith(incomplete)]


def campaign(
    driver: Annotated[
        list[str],
        typer.Option(
            "--driver",
            metavar="DRIVER",
            help="A known driver; may be repeated, and more may be added later.",
            autocompletion=complete_drivers,
        ),
    ],
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="The same seed makes the same faults.")],
    trials: Annotated[int, typer.Option("--trials", metavar="N", help="Trials for each driver.")] = 100,
    faults: Annotated[int, typer.Option("--faults", metavar="N", help="Faults in each trial.")] = 5,
    fault_type: TypeOption = names.MIXED,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="The campaign's folder; there it goes on where it was."),
    ] = None,
    kernel: Annotated[
        str | None, typer.Option("--kernel", metavar="KERNEL", help="The kernel, as of 'nooks start'.")
    ] = None,
    controls: Annotated[
        bool, typer.Option("--controls", help="Make each trial without a nook as well, as a native control.")
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", metavar="N", min=1, max=1000, help="Trials at a time; else one a core."),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option("--scheduler", metavar="ADDRESS", help="Have a dask.distributed scheduler's workers make them."),
    ] = None,
    trial: Annotated[
        int | None, typer.Option("--trial", metavar="N", min=0, help="Make this one trial only, and print its record.")
    ] = None,
    native: Annotated[bool, typer.Option("--native", help="With --trial: its native control.")] = False,
    workload: Annotated[
        str,
        typer.Option(
            "--workload",
            metavar="NAME",
            help="With a disk's driver: sqlite, fio or compile on a file system, instead of the bare disk.",
            autocompletion=_complete_workloads,
        ),
    ] = "",
    json: Json = False,
) -> None:
    """Inject faults into a driver at work, many times over, and find out what becomes of it."""
    from nooks.lab.campaign import campaign as campaigns

    if trial is not None:
        if len(driver) != 1:
            raise InputError("--trial is of one driver", "give --driver once")
        record = campaigns.run_one(driver[0], seed, trial, faults, fault_type, kernel, native, workload)
        emit(record, as_json=json, text=lambda: _show_trial(record))
        return
    if out is None:
        raise InputError("no folder was given for the results", "give --out DIR")
    if native:
        raise InputError("--native goes with --trial", "give --controls to have native controls in a campaign")
    summary = campaigns.run(
        driver,
        seed,
        out,
        trials,
        faults,
        fault_type,
        kernel,
        controls,
        jobs,
        scheduler,
        json,
        workload,
    )
    emit(summary, as_json=json, text=lambda: _show(summary, out))


def _show(summary: dict[str, Any], out: Path) -> None:
    columns = ("driver", "trials", "dormant", *summary["verdicts"], "automatic", "95% interval")
    rows = [
        (
            name,
            of["trials"],
            of["dormant"],
            *of["verdicts"].values(),
            _percent(of["automatic"]),
            " - ".join(map(_percent, of["automatic_interval"] or ())),
        )
        for name, of in summary["drivers"].items()
    ]
    table(columns, rows, empty="no trial was made")
    pairs = summary["isolation"]
    if pairs["pairs"]:
        print(
            f"without a nook {pairs['native_crashes']} of {pairs['pairs']} took the whole system down, "
            f"with one {pairs['nook_crashes']}"
        )
    print(f"see {out / 'report.html'}")


def _show_trial(record: dict[str, Any]) -> None:
    columns = ("type", "function", "text_before", "text_after", "executed")
    table(columns, [[fault.get(column) for column in columns] for fault in record["faults"]], empty="no fault")
    for key, value in record.items():
        if key not in ("faults", "events") and value not in (None, "", [], {}):
            print(f"{key + ':':<20} {value}")


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}%"

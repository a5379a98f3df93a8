"""``nooks start``: the keys of a specification as flags."""

import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from nooks.cli.options import (
    DebugOption,
    DriverOption,
    GiveUpOption,
    IntegrityOption,
    IntensityOption,
    Json,
    LatencyOption,
    MeansOption,
    MemoryOption,
    PeriodOption,
    PolicyOption,
    complete_nooks,
)
from nooks.cli.output import emit, seconds
from nooks.cli.progress import TerminalProgress
from nooks.host.errors import InputError
from nooks.host.proc import stat_fields

_STARTED_FIELD = 19
"""``starttime`` among the fields after the command's name in /proc/PID/stat, counted from 0 (proc(5))."""


def start(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[SPEC|NAME]",
            help="A specification file (with a / or ending in .toml), or the name of a nook.",
            autocompletion=complete_nooks,
        ),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="The nook and its interface.")] = None,
    driver: DriverOption = None,
    device: Annotated[
        str | None,
        typer.Option("--device", metavar="DEVICE", help="emulated:MODEL[,option=value...]; default: the driver's own."),
    ] = None,
    driver_class: Annotated[
        str | None, typer.Option("--class", metavar="CLASS", help="The class of a driver that is not a known one.")
    ] = None,
    kernel: Annotated[
        str | None, typer.Option("--kernel", metavar="KERNEL", help="debian, host, a version or a directory.")
    ] = None,
    memory: MemoryOption = None,
    debug: DebugOption = None,
    wire: Annotated[
        str | None,
        typer.Option("--wire", metavar="WIRE", help="Where the cable ends: user or tap:IFNAME[@NETNS]."),
    ] = None,
    address: Annotated[
        list[str] | None,
        typer.Option("--address", metavar="ADDRESS", help="dhcp, or an address with its prefix; may be repeated."),
    ] = None,
    policy: PolicyOption = None,
    latency: LatencyOption = None,
    media: Annotated[
        str | None, typer.Option("--media", metavar="FILE", help="The medium of an emulated disk or drive.")
    ] = None,
    integrity: IntegrityOption = None,
    give_up_seconds: GiveUpOption = None,
    line: Annotated[
        str | None,
        typer.Option("--line", metavar="LINE", help="Where an emulated sound card's plugs lead: none or unix:PATH."),
    ] = None,
    intensity: IntensityOption = None,
    period_seconds: PeriodOption = None,
    means: MeansOption = None,
    json: Json = False,
) -> None:
    """Start a nook; returns when applications can use it.

    A driver, its device and a name make a nook; so does a specification file, whose keys the options override. With
    only the name of a nook, one whose supervisor died is adopted and a degraded one is re-armed.
    """
    flags = {
        "name": name,
        "driver": driver,
        "device": device,
        "class": driver_class,
        "kernel": kernel,
        "memory": memory,
        "debug": debug,
        "network.wire": wire,
        "network.address": "dhcp" if address == ["dhcp"] else address,
        "sound.policy": policy,
        "sound.latency": latency,
        "block.media": media,
        "block.integrity": integrity,
        "block.give_up_seconds": give_up_seconds,
        "sound.line": line,
        "restart.intensity": intensity,
        "restart.period_seconds": period_seconds,
        "restart.means": means,
    }
    given = {key: value for key, value in flags.items() if value is not None and value != []}
    with TerminalProgress(enabled=not json) as progress:
        result = _start(target, given, progress)
    result["ready_seconds"] = round(age_seconds(), 3)
    emit(result, as_json=json, text=lambda: print(sentence(result)))


def _start(target: str | None, given: dict[str, Any], progress: TerminalProgress) -> dict[str, Any]:
    from nooks import spec
    from nooks.cli import ahead
    from nooks.host.paths import check_name
    from nooks.lifecycle import launch

    if target is not None and ("/" in target or target.endswith(".toml")):
        return launch.start(spec.load(Path(target), given), progress, standby=ahead.take())
    if target is not None:
        if given.setdefault("name", target) != target:
            raise InputError(f"two names were given, {target} and {given['name']}", "give one")
        check_name(target)
        if len(given) == 1:
            return launch.resume(target, progress, standby=ahead.take())
    return launch.start(spec.from_flags(given), progress, standby=ahead.take())


def age_seconds() -> float:
    """For how long this process has run: what the user waited."""
    started = int(stat_fields(os.getpid())[_STARTED_FIELD]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


def sentence(result: dict[str, Any]) -> str:
    endpoints = ("interface", "block_device", "sink", "source")
    what = ", ".join(f"{kind.replace('_', ' ')} {result[kind]}" for kind in endpoints if result.get(kind))
    return (
        f"{result['name']} runs: {what}, driver {result['driver']}, ready after {seconds(result['ready_seconds'])} "
        f"(supervisor {result.get('pid')}, domain {result.get('domain_pid')})"
    )

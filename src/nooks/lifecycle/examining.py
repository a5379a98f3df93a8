"""May a real device be put into a nook, and what would be done? Looks, touches nothing."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import msgspec

from nooks.device.verdict import Problem, Verdict, examine
from nooks.drivers import table
from nooks.host.errors import StateError
from nooks.host.paths import is_name
from nooks.image.modules import canonical
from nooks.nook import claims
from nooks.spec import Spec, from_flags

__all__ = ["Verdict", "check", "driver_of", "examine", "plan", "spec_for"]

HOST_KERNEL = "host"
"""The driver binary that the host itself uses."""

_PREFIX = {"network": "nic", "block": "disk", "sound": "card"}


def check(device: str, *, force: bool = False) -> Verdict:
    """The verdict on a device that can be put into a nook. Raises StateError with all that is in the way."""
    verdict = examine(device)
    refuse_unless_possible(verdict, force=force)
    return verdict


def refuse_unless_possible(verdict: Verdict, *, force: bool) -> None:
    """Raises StateError with what is in the way; ``force`` overrides what is only inadvisable."""
    problems = in_the_way(verdict, force=force)
    if not problems:
        return
    fixes = list(dict.fromkeys(problem.fix for problem in problems if problem.fix))
    if all(problem.force for problem in problems):
        fixes.append("or insist with --force")
    what = "; ".join(problem.message for problem in problems)
    raise StateError(f"{verdict.device} can't be put into a nook: {what}", "; ".join(fixes))


def in_the_way(verdict: Verdict, *, force: bool) -> list[Problem]:
    """The problems that keep a device from being taken."""
    return [problem for problem in verdict.problems if not (force and problem.force)]


def driver_of(verdict: Verdict) -> str:
    """What the device's driver is called in a specification: its row's name, or its module's."""
    module = canonical(verdict.module or "")
    rows = (row for row in table().values() if canonical(row.module) == module)
    return next((row.name for row in rows if row.driver_class == verdict.driver_class), verdict.module or "")


def spec_for(verdict: Verdict, keys: Mapping[str, Any]) -> Spec:
    """The specification of a nook with this device, whose verdict is favourable; ``keys`` are the user's.

    Raises InputError.
    """
    return from_flags(
        {
            "name": default_name(verdict),
            "driver": driver_of(verdict),
            "device": verdict.device,
            "class": verdict.driver_class,
            "kernel": HOST_KERNEL,
            **keys,
        }
    )


def default_name(verdict: Verdict) -> str:
    """The interface's (or card's) own name, where that can name a nook: what is configured for it goes on working."""
    if verdict.name and is_name(verdict.name):
        return verdict.name
    taken = set(claims.names())
    prefix = _PREFIX.get(verdict.driver_class or "", "dev")
    return next(name for number in range(len(taken) + 1) if (name := f"{prefix}{number}") not in taken)


def _endpoint(spec: Spec) -> str:
    """What is made for applications."""
    if spec.driver_class == "sound":
        return f"make the sink and the source nooks-{spec.name}, as the card has them"
    return f"make the {'block device' if spec.driver_class == 'block' else 'interface'} {spec.name}"


def plan(verdict: Verdict, spec: Spec | None, *, force: bool) -> dict[str, Any]:
    """What attaching would do, as one document; ``spec`` is None if there can be none."""
    from nooks.endpoint import handover

    interface = verdict.name if verdict.driver_class == "network" and verdict.name else None
    configuration = handover.record(interface) if interface is not None else None
    steps: list[str] = []
    if spec is not None:
        bus = "vfio-pci" if spec.parsed_device.kind == "pci" else "QEMU's usb-host"
        steps = [
            f"build an image of kernel {spec.kernel} with the driver {spec.driver}",
            f"take {verdict.device} from the host's driver and give it to {bus}",
            _endpoint(spec) + (f" with what is configured on {interface}" if interface else ""),
            f"boot a domain without the device, reset the device ({verdict.reset}), plug it in",
        ]
    return {
        "device": verdict.device,
        "name": spec.name if spec is not None else None,
        "class": verdict.driver_class,
        "driver": driver_of(verdict),
        "module": verdict.module,
        "description": verdict.description,
        "reset": verdict.reset,
        "firmware": list(verdict.firmware),
        "possible": not in_the_way(verdict, force=force),
        "problems": [asdict(problem) for problem in verdict.problems],
        "notes": list(verdict.notes),
        "steps": steps,
        "configuration": msgspec.to_builtins(configuration) if configuration is not None else None,
    }

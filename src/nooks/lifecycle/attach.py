"""Taking a real device into a nook and giving it back; for now, or from each start of the machine on."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import tomli_w

from nooks.host.errors import InputError, MachineError, NooksError
from nooks.host.paths import etc_dir, nook_dir
from nooks.host.process import run
from nooks.image.progress import Progress, quiet
from nooks.lifecycle import ending, examining, launch
from nooks.nook.claims import SPEC
from nooks.nook.standby import Standby
from nooks.spec import Spec

NO_KEYS: Mapping[str, Any] = MappingProxyType({})

_SYSTEMD = Path("/run/systemd/system")


def attach(
    device: str,
    progress: Progress = quiet,
    *,
    keys: Mapping[str, Any] = NO_KEYS,
    force: bool = False,
    persist: bool = False,
    standby: Standby | None = None,
) -> dict[str, Any]:
    """Put a real device into a nook; the same result as ``launch.start``, which gets ``standby``.

    ``keys`` of the specification, dotted, are as the user wants them rather than as the device suggests.

    Everything is as before if that fails or is interrupted. Raises InputError (no such device), StateError (it can't
    be put into a nook), MachineError, or what the supervisor reports.
    """
    verdict = examining.check(device, force=force)
    spec = examining.spec_for(verdict, keys)
    if persist:
        _check_writable(etc_dir())
    result = launch.start(spec, progress, standby=standby, force=force) | {"device": spec.device}
    if persist:
        result["spec"], result["unit"] = str(_persist(spec)), _enable(spec.name)
    return result


def plan(device: str, *, keys: Mapping[str, Any] = NO_KEYS, force: bool = False) -> dict[str, Any]:
    """What ``attach`` would do, without doing anything. Raises InputError."""
    verdict = examining.examine(device)
    possible = not examining.in_the_way(verdict, force=force)
    spec = examining.spec_for(verdict, keys) if possible else None
    return examining.plan(verdict, spec, force=force)


def detach(name: str, *, force: bool = False) -> dict[str, Any]:
    """Give a nook's real device back to the host's driver, and forget what ``persist`` noted.

    Raises UnknownNook, InputError if the nook has no real device, and what ``ending.stop`` raises.
    """
    spec = _spec_of(name)
    if spec is not None and not spec.real:
        raise InputError(f"{name} has no real device, but {spec.device}", f"'nooks stop {name}' stops it")
    result = ending.stop(name, force=force)
    _forget(name)
    return result | {"device": spec.device if spec is not None else None}


def _spec_of(name: str) -> Spec | None:
    try:
        return Spec.from_json((nook_dir(name) / SPEC).read_bytes())
    except OSError:
        return None


def _persist(spec: Spec) -> Path:
    """Write the specification to where the systemd unit looks for it."""
    path = etc_dir() / f"{spec.name}.toml"
    text = tomli_w.dumps(spec.to_document())
    try:
        path.write_text(f"# Written by 'nooks attach --persist'; 'nooks detach' removes it.\n{text}")
    except OSError as error:
        raise MachineError(f"{path} can't be written: {error.strerror}", "free some space") from None
    return path


def _check_writable(folder: Path) -> None:
    """Find out before the device is taken. Raises MachineError."""
    probe = folder / ".nooks"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise MachineError(f"{folder} can't be written: {error.strerror}", "use sudo") from None


def _enable(name: str) -> str | None:
    """Have systemd start the nook with the machine; None where there is no systemd. Raises NooksError."""
    if not _SYSTEMD.is_dir() or shutil.which("systemctl") is None:
        return None
    unit = f"nooks@{name}.service"
    try:
        run(["systemctl", "enable", unit])
    except NooksError as error:
        raise NooksError(
            f"{name} runs, but systemd does not take {unit}: {error.message}",
            "install packaging/nooks@.service into /etc/systemd/system, then 'systemctl enable' it",
        ) from None
    return unit


def _forget(name: str) -> None:
    path = etc_dir() / f"{name}.toml"
    if not path.exists():
        return
    if _SYSTEMD.is_dir() and shutil.which("systemctl") is not None:
        run(["systemctl", "disable", f"nooks@{name}.service"])
    path.unlink(missing_ok=True)

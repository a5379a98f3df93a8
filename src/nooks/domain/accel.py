"""Which accelerator domains run on: KVM where a probe boot proves that it works, else TCG.

``/dev/kvm`` being there proves nothing: on some machines it opens, and stock kernels hang on it (FACTS).
"""

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nooks.host import tsc
from nooks.host.paths import cache_dir

KVM = Path("/dev/kvm")
CPUINFO = Path("/proc/cpuinfo")

_KEPT_RECORDS = 16


@dataclass(frozen=True)
class Accelerator:
    """``arguments`` and ``cpu`` are QEMU's -accel and -cpu; ``group`` the group that opens its device, if any.

    ``processor`` tells the processors apart that ``cpu`` may mean: a snapshot of one is no use on another.
    ``guest_arguments`` are for the kernel's command line.
    """

    name: str
    arguments: str
    cpu: str
    group: int | None = None
    processor: str = ""
    guest_arguments: str = ""


def tcg() -> Accelerator:
    """Emulation. A small translation buffer: the default would take a quarter of the machine's memory.

    RDRAND, for without it the kernel gathers randomness for a second before the first process may have some.
    """
    return Accelerator("tcg", "tcg,thread=multi,tb-size=32", "qemu64,+rdrand", guest_arguments=tsc.kernel_argument())


def kvm() -> Accelerator:
    """Hardware virtualisation; the domain's user needs the group of /dev/kvm."""
    group = KVM.stat().st_gid if KVM.exists() else None
    return Accelerator("kvm", "kvm", "host", group, _host_processor(CPUINFO.read_text()))


def _host_processor(cpuinfo: str) -> str:
    """What of a text of /proc/cpuinfo a guest may see: programs in it choose their code by that, once and for all."""
    first = cpuinfo.partition("\n\n")[0]
    lines = (line.partition(":") for line in first.splitlines())
    facts = {name.strip(): value.strip() for name, _, value in lines}
    return "\n".join(facts.get(name, "") for name in ("vendor_id", "cpu family", "model", "stepping", "flags"))


def remembered(image_digest: str) -> Accelerator | None:
    """The result of a probe boot of this image since the machine was started, if there was one."""
    if not KVM.exists() or not os.access(KVM, os.R_OK | os.W_OK):
        return tcg()
    own = _records().get(_boot_id())
    if own is None or own.get("image") != image_digest:
        return None
    return kvm() if own.get("works") is True else tcg()


def verdict() -> bool | None:
    """What the last probe boot since the machine was started said of KVM; None if there was none."""
    own = _records().get(_boot_id())
    return None if own is None else own.get("works") is True


def remember(image_digest: str, *, works: bool) -> None:
    """Record the result of a probe boot.

    A record for each start of a machine: several machines may share a cache (a home directory in the network, a lab
    machine and its host), and what one found out must not count for another, nor push its record out.
    """
    path = _record_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    records = _records()
    records.pop(_boot_id(), None)
    records[_boot_id()] = {"image": image_digest, "works": works}
    kept = dict(list(records.items())[-_KEPT_RECORDS:])
    partial = path.with_suffix(f".{os.getpid()}-{secrets.token_hex(4)}")
    partial.write_text(json.dumps({"machines": kept}))
    partial.replace(path)


def _records() -> dict[str, dict[str, Any]]:
    """The records by the machine's boot id, the oldest first; none if the file is missing or makes no sense."""
    try:
        machines = json.loads(_record_path().read_text())["machines"]
        return {str(boot): dict(record) for boot, record in machines.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _record_path() -> Path:
    return cache_dir() / "accelerators.json"


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()

"""Which accelerator domains run on: KVM where a probe boot proves that it works, else TCG.

``/dev/kvm`` being there proves nothing: on some machines it opens, and stock kernels hang on it (FACTS).
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from nooks.host.paths import cache_dir

KVM = Path("/dev/kvm")


@dataclass(frozen=True)
class Accelerator:
    """``arguments`` and ``cpu`` are QEMU's -accel and -cpu; ``groups`` the group that opens its device, if any."""

    name: str
    arguments: str
    cpu: str
    group: int | None = None


def tcg() -> Accelerator:
    """Emulation. A small translation buffer: the default would take a quarter of the machine's memory.

    RDRAND, for without it the kernel gathers randomness for a second before the first process may have some.
    """
    return Accelerator("tcg", "tcg,thread=multi,tb-size=32", "qemu64,+rdrand")


def kvm() -> Accelerator:
    """Hardware virtualisation; the domain's user needs the group of /dev/kvm."""
    return Accelerator("kvm", "kvm", "host", KVM.stat().st_gid if KVM.exists() else None)


def remembered(image_digest: str) -> Accelerator | None:
    """The result of a probe boot of this image since the machine was started, if there was one."""
    if not KVM.exists() or not os.access(KVM, os.R_OK | os.W_OK):
        return tcg()
    try:
        record = json.loads(_record_path().read_text())
    except (OSError, ValueError):
        return None
    if record.get("boot") != _boot_id() or record.get("image") != image_digest:
        return None
    return kvm() if record.get("works") is True else tcg()


def remember(image_digest: str, *, works: bool) -> None:
    """Record the result of a probe boot."""
    path = _record_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps({"boot": _boot_id(), "image": image_digest, "works": works}))
    partial.replace(path)


def _record_path() -> Path:
    return cache_dir() / "accelerator.json"


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()

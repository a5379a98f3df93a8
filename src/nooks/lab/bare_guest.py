"""Guests that know nothing of us: the distribution's kernel and driver, and a shell script as init.

What nooks are measured against.
"""

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from nooks.drivers import Driver
from nooks.host.errors import MachineError
from nooks.host.process import run
from nooks.image import kernel as kernels
from nooks.image.cpio import CpioWriter
from nooks.image.kernel import Kernel
from nooks.image.modules import ModuleTree

_LIBRARY = re.compile(r"(/\S+) \(0x")

Code = Sequence[tuple[str, bytes]]
"""Modules in the order in which they are to be inserted: file name and content."""


def kernel_of(row: Driver, modules: Sequence[str]) -> tuple[Path, Code]:
    """The kernel that a driver's nooks have, and these of its modules with all that they need."""
    kernel = kernels.whole(kernels.resolve("debian", row.flavour))
    return kernel.vmlinux, code_of(kernel, modules)


def code_of(kernel: Kernel, modules: Sequence[str]) -> Code:
    """These modules of a kernel, with all that they need. Raises InputError if the kernel lacks one."""
    needed = ModuleTree(kernel.modules, kernel.version).closure(modules)
    return [(module.file_name, module.read()) for module in needed]


def arguments(vmlinux: Path, initramfs: Path, taken_over: Sequence[str], domain: Mapping[str, str]) -> list[str]:
    """QEMU's arguments for a guest that is like a nook's domain in what is ``taken_over`` from that one's arguments."""
    return [
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *(part for option in taken_over for part in (option, domain[option])),
        *("-kernel", str(vmlinux), "-initrd", str(initramfs), "-serial", "stdio"),
    ]


def libraries(*programs: Path) -> list[Path]:
    """The shared libraries (and loader) that programs of the host need, each once."""
    found = dict.fromkeys(_LIBRARY.findall(run(["ldd", *map(str, programs)]).stdout))
    return [Path(library) for library in found]


def build(
    file: BinaryIO,
    init: str,
    programs: Sequence[str],
    modules: Code,
    *,
    folders: Sequence[str] = (),
    files: Sequence[Path] = (),
    named: Mapping[str, Path] = MappingProxyType({}),
    texts: Mapping[str, bytes] = MappingProxyType({}),
) -> None:
    """Write an initramfs of the shell script ``init``, programs of the host, and modules in their order.

    Of the host's ``files`` each has the place that it has there, and ``named`` ones the place that is said, as have
    ``texts``; libraries get those that they need. Raises MachineError if a program or file is missing.
    """
    found = {f"/bin/{name}": _program(name) for name in programs}
    content: dict[str, tuple[bytes, int]] = {"/init": (init.encode(), 0o755)}
    linked: list[Path] = []
    for place, path in {**found, **named, **{str(path): path for path in files}}.items():
        if not path.exists():
            raise MachineError(f"{path} is missing", "run 'make setup'")
        content[place] = (path.read_bytes(), 0o755)
        if content[place][0].startswith(b"\x7fELF"):
            linked.append(path)
    content |= {str(library): (library.read_bytes(), 0o755) for library in libraries(*linked)}
    content |= {f"/modules/{name}": (code, 0o644) for name, code in modules}
    content["/modules/order"] = ("".join(f"{name}\n" for name, _ in modules).encode(), 0o644)
    content |= {name: (text, 0o644) for name, text in texts.items()}
    writer = CpioWriter(file)
    for name in ("/dev", "/proc", "/sys", *folders):
        writer.directory(name)
    writer.character_device("/dev/console", 5, 1)
    writer.character_device("/dev/null", 1, 3, 0o666)
    for name, (data, permissions) in content.items():
        writer.regular(name, data, permissions)
    writer.finish()


def _program(name: str) -> Path:
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin:/usr/bin:/bin")
    if found is None:
        raise MachineError(f"{name} is missing", "run 'make setup'")
    return Path(found)

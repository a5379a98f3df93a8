"""How an image is made: what goes into the archive, and where.

Layout in the guest: see nooks.image.initramfs.
"""

import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nooks.agent.mover import PROGRAM
from nooks.host.errors import NooksError
from nooks.host.native import find_compiler
from nooks.host.process import ProcessError
from nooks.image import mover_program
from nooks.image.cpio import CpioWriter
from nooks.image.initramfs import ARCHIVE, FACTS, base_modules
from nooks.image.kernel import Kernel
from nooks.image.modules import Module, ModuleTree
from nooks.image.payload import Payload
from nooks.image.progress import Progress
from nooks.image.saboteur import crash_modules
from nooks.image.userland import Userland

_FIRMWARE_ROOTS = ("lib/firmware", "usr/lib/firmware")


@dataclass(frozen=True)
class Recipe:
    """All that an image is made from."""

    kernel: Kernel
    userland: Userland
    payload: Payload
    progress: Progress

    def make(self, folder: Path, names: Sequence[str], firmware: Sequence[str], *, moving: bool) -> None:
        """Write the archive and the facts about it; ``moving`` as of ``initramfs.build``."""
        self.progress(f"building an image for {', '.join(names) or 'no driver'} on kernel {self.kernel.version}")
        tree = ModuleTree(self.kernel.modules, self.kernel.version)
        base = base_modules(tree)
        driver = [module for module in tree.closure(names) if module not in base]
        archive = folder / ARCHIVE
        with archive.open("wb") as file:
            writer = CpioWriter(file)
            _add_skeleton(writer)
            self._add_python(writer)
            if moving:
                self._add_mover(writer)
            _add_modules(writer, base, driver)
            for how, module in crash_modules(tree).items():
                writer.regular(f"/crash/{how}.ko", module)
            for name in firmware:
                writer.regular(f"/lib/firmware/{name}", _firmware(name, self.kernel))
            writer.finish()
        with archive.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        digest.update(self.kernel.digest.encode())
        facts = {
            "digest": digest.hexdigest(),
            "base_order": [module.file_name for module in base],
            "load_order": [module.file_name for module in driver],
        }
        (folder / FACTS).write_text(json.dumps(facts))

    def _add_python(self, writer: CpioWriter) -> None:
        with tempfile.TemporaryDirectory(prefix="nooks-") as folder:
            parts = self.payload.parts(self.userland, Path(folder))
            for name, source in sorted(parts.files.items()):
                executable = source.stat().st_mode & 0o111
                writer.regular(name, source.read_bytes(), 0o755 if executable else 0o644)
        for folder_name in parts.directories:
            writer.directory(folder_name)
        writer.regular("/init", parts.init.encode(), 0o755)

    def _add_mover(self, writer: CpioWriter) -> None:
        """The program that moves a disk's data. It is linked with what the interpreter is linked with: libc alone."""
        compiler = find_compiler(self.userland.architecture)
        if compiler is None:
            return
        with tempfile.TemporaryDirectory(prefix="nooks-") as folder:
            program = Path(folder) / "mover"
            try:
                mover_program.compile_mover(compiler, program)
            except ProcessError as error:
                self.progress(f"data of disks will be moved by Python, which is slower: {error.message}")
                return
            writer.regular(PROGRAM, program.read_bytes(), 0o755)


def _add_skeleton(writer: CpioWriter) -> None:
    for name in ("/dev", "/proc", "/sys", "/run", "/tmp", "/modules", "/crash", "/lib/firmware"):
        writer.directory(name)
    # What is needed before anything is mounted: the kernel opens the console for init, and Python wants randomness.
    # Numbers as in Documentation/admin-guide/devices.txt.
    writer.character_device("/dev/console", 5, 1)
    writer.character_device("/dev/null", 1, 3, 0o666)
    writer.character_device("/dev/urandom", 1, 9, 0o666)


def _add_modules(writer: CpioWriter, base: Sequence[Module], driver: Sequence[Module]) -> None:
    for module in (*base, *driver):
        writer.regular(f"/modules/{module.file_name}", module.read())
    for name, modules in (("base", base), ("driver", driver)):
        text = "".join(f"{module.file_name}\n" for module in modules)
        writer.regular(f"/modules/{name}.list", text.encode())


def _firmware(name: str, kernel: Kernel) -> bytes:
    roots = [Path(kernel.origin)] if kernel.origin else []
    for root in (*roots, Path("/")):
        for folder in _FIRMWARE_ROOTS:
            path = root / folder / name
            if path.is_file():
                return path.read_bytes()
    raise NooksError(f"the firmware {name} is not in /lib/firmware", "install the package that has it")

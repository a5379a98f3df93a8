"""What a kernel module says of itself: the strings of its .modinfo section.

The section holds NUL-terminated ``key=value`` strings (include/linux/moduleinfo.h and modpost of the kernel).
"""

import gzip
import io
import lzma
from dataclasses import dataclass
from pathlib import Path

from nooks.host.errors import NooksError
from nooks.host.process import run

SUFFIXES = (".ko", ".ko.xz", ".ko.zst", ".ko.gz")
_SIGNATURE_MARK = b"~Module signature appended~\n"


@dataclass(frozen=True)
class Parameter:
    """A module parameter; ``kind`` and ``description`` are empty where the module does not say."""

    name: str
    kind: str
    description: str


@dataclass(frozen=True)
class ModuleInfo:
    """The .modinfo of a module."""

    name: str
    vermagic: str
    depends: tuple[str, ...]
    aliases: tuple[str, ...]
    firmware: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    soft_before: tuple[str, ...]
    soft_after: tuple[str, ...]


def read(path: Path) -> bytes:
    """The module in a file, decompressed. Raises NooksError if that can't be done."""
    try:
        if path.name.endswith(".xz"):
            return lzma.decompress(path.read_bytes())
        if path.name.endswith(".gz"):
            return gzip.decompress(path.read_bytes())
        if path.name.endswith(".zst"):
            return _zstd(path)
        return path.read_bytes()
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise NooksError(f"the module {path} can't be read: {error}", "restore the file") from error


def parse(module: bytes) -> ModuleInfo:
    """The information in a module. Raises NooksError if it is no module."""
    # Imported here: it takes 30 ms, and no command needs it while everything is cached.
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        section = ELFFile(io.BytesIO(module)).get_section_by_name(".modinfo")
        data = section.data() if section is not None else b""
    except ELFError as error:
        raise NooksError(f"not a kernel module: {error}", "restore the file") from error
    return from_strings(data)


def from_strings(data: bytes) -> ModuleInfo:
    """The information in the content of a .modinfo section."""
    pairs = [part.decode("utf-8", "replace").partition("=") for part in data.split(b"\0") if b"=" in part]

    def all_of(key: str) -> tuple[str, ...]:
        return tuple(value for name, _, value in pairs if name == key)

    def first(key: str) -> str:
        return next(iter(all_of(key)), "")

    before, after = soft_dependencies(" ".join(all_of("softdep")))
    return ModuleInfo(
        name=first("name"),
        vermagic=first("vermagic"),
        depends=tuple(name for name in first("depends").split(",") if name),
        aliases=all_of("alias"),
        firmware=all_of("firmware"),
        parameters=_parameters(all_of("parmtype"), all_of("parm")),
        soft_before=before,
        soft_after=after,
    )


def soft_dependencies(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The modules of "pre: a b post: c" (modprobe.d(5)): those to insert before, and those after."""
    before: list[str] = []
    after: list[str] = []
    target = before
    for word in text.split():
        if word in ("pre:", "post:"):
            target = before if word == "pre:" else after
        else:
            target.append(word)
    return tuple(before), tuple(after)


def without_signature(module: bytes) -> bytes:
    """A module without the signature that may be appended to it (kernel: Documentation/admin-guide/module-signing.rst).

    The mark is preceded by struct module_signature, whose last four bytes are the length of the signature, big-endian.
    """
    if not module.endswith(_SIGNATURE_MARK):
        return module
    descriptor_end = len(module) - len(_SIGNATURE_MARK)
    signature_bytes = int.from_bytes(module[descriptor_end - 4 : descriptor_end], "big")
    return module[: descriptor_end - 12 - signature_bytes]


def _parameters(kinds: tuple[str, ...], descriptions: tuple[str, ...]) -> tuple[Parameter, ...]:
    told = {name: text for name, _, text in (line.partition(":") for line in descriptions)}
    known = {name: kind for name, _, kind in (line.partition(":") for line in kinds)}
    names = [*known, *(name for name in told if name not in known)]
    return tuple(Parameter(name, known.get(name, ""), told.get(name, "")) for name in names)


def _zstd(path: Path) -> bytes:
    """The standard library of Python 3.11 has no zstd, and a program's output is text here: so through a file."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="nooks-") as folder:
        unpacked = Path(folder, "module")
        run(["zstd", "-d", "-q", str(path), "-o", str(unpacked)])
        return unpacked.read_bytes()

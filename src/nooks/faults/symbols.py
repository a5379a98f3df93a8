"""What a kernel module's file says of its code: sections, functions, instructions.

Where a section lies in a running kernel is not in the file but in that kernel's /sys/module/NAME/sections/.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from nooks.host.errors import InputError

_SHF_EXECINSTR = 0x4
_PADDING_PREFIX = "__pfx_"  # objtool's symbols for the padding before a function
# Words in the names of functions that a driver runs for every packet, request or period, whatever the driver,
# and words in the names of functions that it does not run then, though they speak of the same things
_BUSY = re.compile(
    r"xmit|intr|interrupt|poll|clean|(^|_)[rt]x(_|$)|alloc_rx|queuecommand|qc_issue|bmdma|pointer|trigger"
)


@dataclass(frozen=True)
class Section:
    """An executable section: its name and its bytes as they are in the file, not yet relocated."""

    name: str
    code: bytes


@dataclass(frozen=True, order=True)
class Function:
    """A function of the module: where it is in which section."""

    section: str
    offset: int
    size: int
    name: str


@dataclass(frozen=True)
class ModuleCode:
    """The code of one module file.

    ``identity`` names driver and kernel (module name and vermagic), so that what is chosen from it by a seed
    can be chosen again; ``bits`` is 32 or 64.
    """

    identity: str
    bits: int
    sections: dict[str, Section]
    functions: tuple[Function, ...]

    def bytes_of(self, function: Function) -> bytes:
        """The function's bytes as they are in the file."""
        code = self.sections[function.section].code
        return code[function.offset : function.offset + function.size]


_IDLE = re.compile(
    r"setup|free_all|timeout|cleanup|netpoll|test|config|vlan|_ring$|_mode|module|stall|list|dummy|\.cold"
)


def read_module(path: Path) -> ModuleCode:
    """Read an uncompressed .ko; raises InputError if it is no such file or has no functions."""
    try:
        with path.open("rb") as file:
            return _parse(ELFFile(file), path)
    except (OSError, ELFError) as error:
        raise InputError(f"{path} is no readable kernel module ({error})", "give an uncompressed .ko") from error


def busy_functions(module: ModuleCode) -> tuple[str, ...]:
    """Names of the functions that probably run all the time, by the words drivers use for them."""
    names = (function.name for function in module.functions)
    return tuple(name for name in names if _BUSY.search(name) and not _IDLE.search(name))


def _parse(elf: ELFFile, path: Path) -> ModuleCode:
    sections = {
        section.name: Section(section.name, section.data())
        for section in elf.iter_sections()
        if section["sh_flags"] & _SHF_EXECINSTR and section["sh_size"]
    }
    functions = _functions(elf, sections)
    if not functions:
        raise InputError(f"{path} has no function symbols", "take the distribution's own module")
    return ModuleCode(
        identity=f"{path.name.partition('.')[0]} {_vermagic(elf)}",
        bits=int(elf.elfclass),
        sections=sections,
        functions=functions,
    )


def _functions(elf: ELFFile, sections: dict[str, Section]) -> tuple[Function, ...]:
    table = elf.get_section_by_name(".symtab")
    if not isinstance(table, SymbolTableSection):
        return ()
    names: Sequence[str] = [section.name for section in elf.iter_sections()]
    found: set[Function] = set()
    for symbol in table.iter_symbols():
        index = symbol["st_shndx"]
        if symbol["st_info"]["type"] != "STT_FUNC" or not isinstance(index, int) or not symbol["st_size"]:
            continue
        if names[index] in sections and not symbol.name.startswith(_PADDING_PREFIX):
            found.add(Function(names[index], symbol["st_value"], symbol["st_size"], symbol.name))
    return tuple(sorted(found))


def _vermagic(elf: ELFFile) -> str:
    section = elf.get_section_by_name(".modinfo")
    for entry in section.data().split(b"\0") if section else ():
        if entry.startswith(b"vermagic="):
            return entry.removeprefix(b"vermagic=").decode("ascii", "replace").strip()
    return "unknown"

"""What a kernel module's file says of its code: sections, functions, what the kernel fills in and what it patches.

Where a section lies in a running kernel is not in the file but in that kernel's /sys/module/NAME/sections/.
Tables' layouts: elf(5), and the kernel's own sections as named in arch/x86/kernel/{alternative,ftrace,jump_label}.c.
"""

import io
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import Section as ElfSection

from nooks.host.errors import InputError, NooksError
from nooks.image import modinfo

_SHF_EXECINSTR = 0x4
_STT_FUNC = 2
_PADDING_PREFIX = "__pfx_"  # objtool's symbols for the padding before a function
_PATCHED_BY = frozenset(
    (  # noqa: SIM905
        ".altinstructions .parainstructions .smp_locks .retpoline_sites .return_sites .call_sites .cfi_sites "
        ".ibt_endbr_seal .static_call_sites __jump_table __mcount_loc __patchable_function_entries"
    ).split()
)
"""Tables of places in the code that the kernel changes when it loads the module, or later."""

_SYMBOL = {64: struct.Struct("<IBBHQQ"), 32: struct.Struct("<IIIBBH")}
_RELA64, _REL32 = struct.Struct("<QQq"), struct.Struct("<II")
_WIDE = {64: frozenset({1, 24}), 32: frozenset[int]()}  # R_X86_64_64, R_X86_64_PC64; all others fill four bytes


@dataclass(frozen=True)
class Section:
    """An executable section: its name and its bytes as they are in the file.

    ``filled`` are the offsets of bytes that the kernel fills in when it loads the module (relocations), ``patched`` the
    offsets of what it changes according to tables, ``references`` what the relocation at an offset refers to, by name,
    if that lies outside the module.
    """

    name: str
    code: bytes
    filled: frozenset[int] = frozenset()
    patched: frozenset[int] = frozenset()
    references: Mapping[int, str] = field(default_factory=dict[int, str])


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

    ``name`` is the module's; ``identity`` names it and the kernel (its vermagic), so that what is chosen from it by a
    seed can be chosen again; ``bits`` is 32 or 64.
    """

    name: str
    identity: str
    bits: int
    sections: dict[str, Section]
    functions: tuple[Function, ...]

    def bytes_of(self, function: Function) -> bytes:
        """The function's bytes as they are in the file."""
        code = self.sections[function.section].code
        return code[function.offset : function.offset + function.size]


@dataclass(frozen=True)
class _Symbol:
    name: str
    kind: int
    section: int
    value: int
    size: int


def read_module(path: Path) -> ModuleCode:
    """Read a module, compressed or not; raises InputError if it is no such file or has no functions."""
    try:
        return _parse(ELFFile(io.BytesIO(modinfo.read(path))), path)
    except (NooksError, ELFError, struct.error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is no readable kernel module ({error})", "give a .ko file") from error


def _parse(elf: ELFFile, path: Path) -> ModuleCode:
    sections: list[ElfSection] = list(elf.iter_sections())
    bits = int(elf.elfclass)
    symbols = _symbols(elf, bits)
    executable = {
        index: section
        for index, section in enumerate(sections)
        if section["sh_flags"] & _SHF_EXECINSTR and section["sh_size"]
    }
    filled: dict[int, set[int]] = {index: set() for index in executable}
    references: dict[int, dict[int, str]] = {index: {} for index in executable}
    patched: dict[int, set[int]] = {index: set() for index in executable}
    for table in sections:
        if table["sh_type"] not in ("SHT_RELA", "SHT_REL"):
            continue
        target = sections[table["sh_info"]]
        if table["sh_info"] in executable:
            for offset, kind, symbol, _ in _relocations(table, target, symbols, bits):
                width = 8 if kind in _WIDE[bits] else 4
                filled[table["sh_info"]].update(range(offset, offset + width))
                if symbol.section == 0:
                    references[table["sh_info"]][offset] = symbol.name
        elif target.name in _PATCHED_BY:
            for _, _, symbol, addend in _relocations(table, target, symbols, bits):
                if symbol.section in executable:
                    patched[symbol.section].add(symbol.value + addend)
    names = [section.name for section in sections]
    functions = tuple(sorted(_functions(symbols, names, executable)))
    if not functions:
        raise InputError(f"{path} has no function symbols", "take the distribution's own module")
    name = path.name.partition(".")[0]
    return ModuleCode(
        name=name.replace("-", "_"),
        identity=f"{name} {_vermagic(elf)}",
        bits=bits,
        sections={
            section.name: Section(
                section.name, section.data(), frozenset(filled[index]), frozenset(patched[index]), references[index]
            )
            for index, section in executable.items()
        },
        functions=functions,
    )


def _symbols(elf: ELFFile, bits: int) -> list[_Symbol]:
    table = elf.get_section_by_name(".symtab")
    if table is None:
        return []
    strings = elf.get_section(table["sh_link"]).data()
    found: list[_Symbol] = []
    for fields in _SYMBOL[bits].iter_unpack(table.data()):
        name, info, section, value, size = (
            (fields[0], fields[1], fields[3], fields[4], fields[5])
            if bits == 64
            else (fields[0], fields[3], fields[5], fields[1], fields[2])
        )
        text = strings[name : strings.index(b"\0", name)].decode("ascii", "replace")
        found.append(_Symbol(text, info & 0xF, section, value, size))
    return found


def _relocations(
    table: ElfSection, target: ElfSection, symbols: list[_Symbol], bits: int
) -> Iterator[tuple[int, int, _Symbol, int]]:
    """Offset in the target, type, symbol and addend of each."""
    if bits == 64:
        for offset, info, addend in _RELA64.iter_unpack(table.data()):
            yield offset, info & 0xFFFFFFFF, symbols[info >> 32], addend
        return
    content = target.data()
    for offset, info in _REL32.iter_unpack(table.data()):
        yield offset, info & 0xFF, symbols[info >> 8], struct.unpack_from("<i", content, offset)[0]


def _functions(symbols: list[_Symbol], names: list[str], executable: Mapping[int, ElfSection]) -> Iterator[Function]:
    """One for each place; some functions have two names."""
    seen: set[tuple[int, int]] = set()
    for symbol in symbols:
        place = symbol.section, symbol.value
        if symbol.kind != _STT_FUNC or not symbol.size or symbol.section not in executable or place in seen:
            continue
        if not symbol.name.startswith(_PADDING_PREFIX):
            seen.add(place)
            yield Function(names[symbol.section], symbol.value, symbol.size, symbol.name)


def _vermagic(elf: ELFFile) -> str:
    section = elf.get_section_by_name(".modinfo")
    for entry in section.data().split(b"\0") if section else ():
        if entry.startswith(b"vermagic="):
            return entry.removeprefix(b"vermagic=").decode("ascii", "replace").strip()
    return "unknown"

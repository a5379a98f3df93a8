"""Modules that fail on purpose, made from a stock one: its init function gets other code.

Distributions' kernels come without lkdtm, and a compiler is more than a machine needs for a few instructions. The
victim is the smallest module that fits, whatever it is; it is renamed, so that it clashes with nothing and an oops
names it.
"""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import Section, Symbol, SymbolTableSection

from nooks.host.errors import NooksError
from nooks.image import modinfo
from nooks.image.modules import ModuleTree

FAULTS = {
    "hang": bytes.fromhex("fa ebfe"),  # cli; jmp to itself
    "halt": bytes.fromhex("fa f4 ebfd"),  # cli; hlt; jmp to hlt
    "oops": bytes.fromhex("31c0 8b00"),  # xor eax, eax; mov eax, [eax]
}
"""The code of each, the same for 32 and 64 bits."""

_ENTRY_BYTES = 16
"""How far into the function the call for the function tracer may end; it has to stay, the kernel patches it."""
_LONGEST = max(len(code) for code in FAULTS.values())
_WORD_BYTES = 4
_R_X86_64_NONE = 0  # System V ABI for AMD64, "Relocation"
_UNWINDING = (".orc_unwind", ".debug", ".eh_frame", "__mcount_loc", "__patchable")
"""Tables about code that may describe code which is not there any more."""
_KEPT = ("license", "vermagic", "retpoline", "srcversion")
_NAME_BYTES = 56


@dataclass(frozen=True)
class Victim:
    """A module whose init function has room: at ``code_at`` (offset in the file), before any patched instruction."""

    name: str
    data: bytes
    code_at: int
    text_index: int
    code_offset: int
    """Of the same place in its section."""


def crash_modules(tree: ModuleTree) -> dict[str, bytes]:
    """The modules by what they do ("hang", "halt", "oops"). Raises NooksError if no module of the kernel fits."""
    victim = find_victim(tree)
    return {how: sabotage(victim, code, f"nooks_{how}") for how, code in FAULTS.items()}


def find_victim(tree: ModuleTree) -> Victim:
    """A small module without dependencies that can be sabotaged. Raises NooksError if there is none."""
    for module in tree.independent():
        try:
            data = modinfo.without_signature(module.read())
            elf = ELFFile(io.BytesIO(data))
            if modinfo.parse(data).depends:
                continue
            victim = _examine(module.name, data, elf)
        except ELFError:
            continue
        if victim is not None:
            return victim
    raise NooksError(f"kernel {tree.version} has no module to make crash modules from", "use another kernel")


def sabotage(victim: Victim, code: bytes, name: str) -> bytes:
    """The module with other code and another name."""
    elf = ELFFile(io.BytesIO(victim.data))
    result = bytearray(victim.data)
    result[victim.code_at : victim.code_at + len(code)] = code
    for section in _relocations(elf):
        if section["sh_info"] == victim.text_index:
            _cut(section, result, range(victim.code_offset, victim.code_offset + len(code)), elf.elfclass)
    _rename(elf, result, victim.name, name)
    _name_function(elf, result)
    return bytes(result)


def _examine(name: str, data: bytes, elf: ELFFile) -> Victim | None:
    symbols = elf.get_section_by_name(".symtab")
    if not isinstance(symbols, SymbolTableSection):
        return None
    start = next(iter(symbols.get_symbol_by_name("init_module") or []), None)
    if start is None or not isinstance(start["st_shndx"], int):
        return None
    text_index = start["st_shndx"]
    offset = _after_tracer_call(elf, symbols, start)
    span = range(offset, offset + _LONGEST)
    too_short = span.stop + _WORD_BYTES > start["st_value"] + start["st_size"]
    if too_short or _is_referred_to(elf, symbols, text_index, span):
        return None
    if _name_at(elf, name) is None:
        return None
    return Victim(name, data, elf.get_section(text_index)["sh_offset"] + offset, text_index, offset)


def _after_tracer_call(elf: ELFFile, symbols: SymbolTableSection, start: Symbol) -> int:
    """The offset in the section behind the call of __fentry__, or the function's start if there is none."""
    for section in _relocations(elf):
        if section["sh_info"] != start["st_shndx"]:
            continue
        for entry in section.iter_relocations():
            near = start["st_value"] <= entry["r_offset"] < start["st_value"] + _ENTRY_BYTES
            if near and symbols.get_symbol(entry["r_info_sym"]).name == "__fentry__":
                return entry["r_offset"] + 4
    return start["st_value"]


def _is_referred_to(elf: ELFFile, symbols: SymbolTableSection, text_index: int, span: range) -> bool:
    """Whether a table (alternatives, return thunks, jump labels ...) makes the kernel patch instructions in there."""
    for section in _relocations(elf):
        target = elf.get_section(section["sh_info"])
        if section["sh_info"] == text_index or target.name.startswith(_UNWINDING):
            continue
        for entry in section.iter_relocations():
            symbol = symbols.get_symbol(entry["r_info_sym"])
            if symbol["st_shndx"] == text_index:
                addend = entry["r_addend"] if section.is_RELA() else _addend_in_place(target, entry["r_offset"])
                if symbol["st_value"] + addend in span:
                    return True
    return False


def _addend_in_place(section: Section, offset: int) -> int:
    return int(struct.unpack_from("<i", section.data(), offset)[0])


def _relocations(elf: ELFFile) -> Iterator[RelocationSection]:
    return (section for section in elf.iter_sections() if isinstance(section, RelocationSection))


def _cut(section: RelocationSection, data: bytearray, span: range, bits: int) -> None:
    """Take the relocations off overwritten code.

    On 64 bits they become R_X86_64_NONE. The kernel's 32-bit loader knows no such type, so there they go behind the
    new code, which never gets that far. Layouts: Elf64_Rela and Elf32_Rel.
    """
    for index, entry in enumerate(section.iter_relocations()):
        if entry["r_offset"] in span:
            at = section["sh_offset"] + index * section["sh_entsize"]
            if bits == 64:
                struct.pack_into("<I", data, at + 8, _R_X86_64_NONE)
            else:
                struct.pack_into("<I", data, at, span.stop)


def _rename(elf: ELFFile, data: bytearray, old: str, new: str) -> None:
    at = _name_at(elf, old)
    if at is None:
        raise ValueError(f"{old} is not in its own struct module")
    data[at : at + _NAME_BYTES] = new.encode().ljust(_NAME_BYTES, b"\0")
    strings = _section(elf, ".modinfo").data().split(b"\0")
    kept = [text for text in strings if text.partition(b"=")[0].decode("ascii", "replace") in _KEPT]
    _replace_section(elf, data, ".modinfo", b"".join(text + b"\0" for text in [b"name=" + new.encode(), *kept]))


def _name_function(elf: ELFFile, data: bytearray) -> None:
    """Let all names of the init function be init_module, so that an oops doesn't name the victim."""
    table = _section(elf, ".symtab")
    if not isinstance(table, SymbolTableSection):
        raise ELFError("the symbol table is none")
    symbols = list(table.iter_symbols())
    start = next(symbol for symbol in symbols if symbol.name == "init_module")
    for index, symbol in enumerate(symbols):
        same_place = symbol["st_shndx"] == start["st_shndx"] and symbol["st_value"] == start["st_value"]
        if same_place and symbol["st_info"]["type"] == "STT_FUNC":
            # st_name is the first word of a symbol in both classes.
            struct.pack_into("<I", data, table["sh_offset"] + index * table["sh_entsize"], start["st_name"])


def _section(elf: ELFFile, name: str) -> Section:
    section = elf.get_section_by_name(name)
    if section is None:
        raise ELFError(f"no section {name}")
    return section


def _name_at(elf: ELFFile, name: str) -> int | None:
    """Where struct module has the name, as an offset in the file."""
    section = elf.get_section_by_name(".gnu.linkonce.this_module")
    if section is None:
        return None
    place = section.data().find(name.encode() + b"\0")
    return section["sh_offset"] + place if place >= 0 else None


def _replace_section(elf: ELFFile, data: bytearray, name: str, content: bytes) -> None:
    """Put a section's new content at the end of the file and let its header point there."""
    header = elf["e_shoff"] + elf.get_section_index(name) * elf["e_shentsize"]
    data += bytes(-len(data) % 16)
    if elf.elfclass == 64:  # sh_offset and sh_size as in Elf64_Shdr
        struct.pack_into("<QQ", data, header + 24, len(data), len(content))
    else:
        struct.pack_into("<II", data, header + 16, len(data), len(content))
    data += content

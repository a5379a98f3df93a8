"""Kernel modules for tests: relocatable ELF files of 32 or 64 bits with code, symbols and relocations."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

TEXT_INDEX = 1
_PROGBITS, _SYMTAB, _STRTAB, _RELA, _REL = 1, 2, 3, 4, 9
_PLT32, _ABSOLUTE = {64: 4, 32: 4}, {64: 1, 32: 1}
_FUNCTION = 2


@dataclass
class ModuleFile:
    """What a module has: functions as offset and size; ``references`` are calls' operands that lead to a kernel's
    function, by their offset; ``tracer_calls`` the offsets of the calls that the kernel patches."""

    code: bytes
    functions: Mapping[str, tuple[int, int]]
    bits: int = 64
    references: Mapping[int, str] = field(default_factory=dict[int, str])
    tracer_calls: Sequence[int] = ()
    vermagic: str = "6.1.0-test SMP"

    def to_bytes(self) -> bytes:
        """The file."""
        outside = list(dict.fromkeys([*self.references.values(), "__fentry__"]))
        strings = b"\0" + b"".join(name.encode() + b"\0" for name in (*self.functions, *outside))
        symbols = [self._symbol(0, 0, 0, 0, 0)]
        for name, (offset, size) in self.functions.items():
            symbols.append(self._symbol(_at(strings, name), _FUNCTION, TEXT_INDEX, offset, size))
        numbers = {name: len(symbols) + index for index, name in enumerate(outside)}
        symbols += [self._symbol(_at(strings, name), 0, 0, 0, 0) for name in outside]
        section_symbol = len(symbols)
        symbols.append(self._symbol(0, 3, TEXT_INDEX, 0, 0))
        calls = [(offset + 1, _PLT32[self.bits], numbers["__fentry__"], -4) for offset in self.tracer_calls]
        calls += [(offset, _PLT32[self.bits], numbers[name], -4) for offset, name in self.references.items()]
        word = self.bits // 8
        places = [
            (index * word, _ABSOLUTE[self.bits], section_symbol, offset)
            for index, offset in enumerate(self.tracer_calls)
        ]
        table = bytearray(word * len(self.tracer_calls))
        code = bytearray(self.code)
        if self.bits == 32:  # addends lie where they are added to
            for offset, _, _, addend in calls:
                struct.pack_into("<i", code, offset, addend)
            for offset, _, _, addend in places:
                struct.pack_into("<i", table, offset, addend)
        kind, prefix, relocation = (_RELA, ".rela", 24) if self.bits == 64 else (_REL, ".rel", 8)
        return elf(
            self.bits,
            [
                Section(".text", bytes(code), flags=6),
                Section(".modinfo", f"license=GPL\0vermagic={self.vermagic}\0".encode()),
                Section("__mcount_loc", bytes(table)),
                Section(f"{prefix}.text", self._relocations(calls), kind, 0, 0, 6, TEXT_INDEX, relocation),
                Section(f"{prefix}__mcount_loc", self._relocations(places), kind, 0, 0, 6, 3, relocation),
                Section(".symtab", b"".join(symbols), _SYMTAB, 0, 0, 7, 0, len(symbols[0])),
                Section(".strtab", strings, _STRTAB, 0),
            ],
        )

    def _symbol(self, name: int, kind: int, section: int, value: int, size: int) -> bytes:
        if self.bits == 64:
            return struct.pack("<IBBHQQ", name, kind, 0, section, value, size)
        return struct.pack("<IIIBBH", name, value, size, kind, 0, section)

    def _relocations(self, entries: Sequence[tuple[int, int, int, int]]) -> bytes:
        if self.bits == 64:
            return b"".join(struct.pack("<QQq", offset, s << 32 | kind, addend) for offset, kind, s, addend in entries)
        return b"".join(struct.pack("<II", offset, s << 8 | kind) for offset, kind, s, _ in entries)


@dataclass(frozen=True)
class Section:
    """A section of an ELF file; the fields are those of its header."""

    name: str
    data: bytes
    kind: int = _PROGBITS
    flags: int = 2
    address: int = 0
    link: int = 0
    info: int = 0
    entry_bytes: int = 0


def elf(bits: int, sections: Sequence[Section]) -> bytes:
    """An ELF file with these sections, numbered from 1, and their names."""
    names = b"\0" + b"".join(each.name.encode() + b"\0" for each in sections) + b".shstrtab\0"
    sections = [*sections, Section(".shstrtab", names, _STRTAB, 0)]
    header, row = (64, "<IIQQQQIIQQ") if bits == 64 else (52, "<IIIIIIIIII")
    body, rows = b"", bytes(struct.calcsize(row))
    for each in sections:
        place = (each.address, header + len(body), len(each.data))
        name = _at(names, each.name)
        rows += struct.pack(row, name, each.kind, each.flags, *place, each.link, each.info, 8, each.entry_bytes)
        body += each.data + bytes(-len(each.data) % 8)
    ident = b"\x7fELF" + bytes([bits // 32, 1, 1]) + bytes(9)
    words = "<HHIQQQIHHHHHH" if bits == 64 else "<HHIIIIIHHHHHH"
    sizes = (header, 0, 0, struct.calcsize(row), len(sections) + 1, len(sections))
    return ident + struct.pack(words, 1, 62 if bits == 64 else 3, 1, 0, 0, header + len(body), 0, *sizes) + body + rows


def _at(strings: bytes, name: str) -> int:
    return strings.index(b"\0" + name.encode() + b"\0") + 1

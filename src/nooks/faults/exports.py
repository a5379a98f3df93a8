"""Where a kernel's exported functions lie, from its vmlinux: for code that has to call them.

The layout is struct kernel_symbol with relative references (include/linux/export.h; x86 has
CONFIG_HAVE_ARCH_PREL32_RELOCATIONS). Holds for kernels that run where they were linked, as domains' do (``nokaslr``).
"""

import struct
from functools import lru_cache
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from nooks.host.errors import NooksError

_ENTRY = struct.Struct("<iii")  # distances of value, name and name space, each from where it stands
_TABLES = ("__ksymtab", "__ksymtab_gpl")


@lru_cache(maxsize=2)
def exported(vmlinux: Path) -> dict[str, int]:
    """Addresses by name; empty if the file has no such tables. Raises NooksError if it is no kernel."""
    try:
        with vmlinux.open("rb") as file:
            elf = ELFFile(file)
            strings = elf.get_section_by_name("__ksymtab_strings")
            tables = [table for name in _TABLES if (table := elf.get_section_by_name(name)) is not None]
            if strings is None:
                return {}
            names, names_at, top = strings.data(), int(strings["sh_addr"]), 1 << int(elf.elfclass)
            return {
                _text(names, at + 4 + name - names_at): (at + value) % top
                for table in tables
                for at, value, name in _entries(table.data(), int(table["sh_addr"]))
            }
    except (OSError, ELFError) as error:
        raise NooksError(f"{vmlinux} is no readable kernel ({error})", "remove it; it will be made again") from None


def _entries(table: bytes, address: int) -> list[tuple[int, int, int]]:
    fields = enumerate(_ENTRY.iter_unpack(table))
    return [(address + index * _ENTRY.size, value, name) for index, (value, name, _) in fields]


def _text(strings: bytes, start: int) -> str:
    return strings[start : strings.index(b"\0", start)].decode("ascii", "replace")

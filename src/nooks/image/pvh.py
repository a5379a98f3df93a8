"""A PVH entry for 32-bit kernels that lack one, so that QEMU boots their ELF image directly, too.

PVH enters a kernel in 32-bit protected mode with a pointer to hvm_start_info (Xen: docs/misc/pvh.pandoc and
public/arch-x86/hvm/start_info.h); the kernel wants boot_params instead (Linux: Documentation/x86/boot.rst, "32-bit
Boot Protocol"). Debian's 686 kernels know only the latter. A few instructions behind the kernel's own segments turn
one into the other, as arch/x86/platform/pvh/enlighten.c does for kernels that have the entry.
"""

import struct
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import NoteSegment, Segment

from nooks.host.errors import InputError

_PHYS32_ENTRY = 18  # XEN_ELFNOTE_PHYS32_ENTRY
_PAGE_BYTES = 4096
_PT_LOAD, _PT_NOTE = 1, 4
_FLAGS_ALL = 7

# boot_params: offsets as in Documentation/x86/zero-page.rst and boot.rst.
_BOOT_FLAG_AT, _BOOT_FLAG = 0x1FE, 0xAA55
_MAGIC_AT, _MAGIC = 0x202, b"HdrS"
_PROTOCOL_AT, _PROTOCOL = 0x206, 0x020C
_LOADER_AT, _LOADER = 0x210, 0xB0  # what enlighten.c says of a PVH start without Xen
_MAP_COUNT_AT, _MAP_AT = 0x1E8, 0x2D0
_ROM_ENTRY = struct.pack("<QQI", 0xA0000, 0x60000, 2)  # the ISA range is reserved
_TABLES_AT = 0xF00  # behind the memory map; the kernel copies boot_params and never looks here

# ebx: hvm_start_info. Selectors 0x10 and 0x18 are __BOOT_CS and __BOOT_DS.
_ENTRY_CODE = """
    fc                     cld
    bd {parameters}        mov  ebp, boot_params
    8b4318 898528020000    command line: cmdline_paddr -> hdr.cmd_line_ptr
    8b4320 894570          rsdp_paddr -> acpi_rsdp_addr
    837b0c00 7414          is there a module (the initramfs)?
    8b5310                 mov  edx, modlist_paddr
    8b02 898518020000      its address -> hdr.ramdisk_image
    8b4208 89851c020000    its size -> hdr.ramdisk_size
    8b7328 8b4b30          mov  esi, memmap_paddr; mov ecx, memmap_entries
    8dbde4020000           lea  edi, e820_table[1]
    837e0400 750e          next: one above 4 GiB is skipped, since a kernel without PAE would misread it
    fe85e8010000           inc  e820_entries
    a5a5a5a5a5 83ee14      copy 20 bytes of the 24
    83c618 e2e7            loop next
    0f0115 {descriptor}    lgdt
    b818000000             mov  eax, 0x18
    8ed8 8ec0 8ed0         mov  ds, es, ss
    89ee                   mov  esi, ebp
    31ed 31ff 31db         the protocol wants ebp, edi and ebx zero
    ea {entry} 1000        jmp  0x10:startup_32
"""


def ensure_entry(vmlinux: Path) -> None:
    """Give an ELF kernel a PVH entry unless it has one. Raises InputError for a 64-bit kernel without it."""
    try:
        with vmlinux.open("rb") as file:
            elf = ELFFile(file)
            segments = list(elf.iter_segments())
            if any(_has_entry(segment) for segment in segments):
                return
            if elf.elfclass != 32 or elf["e_machine"] != "EM_386":
                raise InputError(f"{vmlinux.name} can't be booted by PVH", "use a kernel with CONFIG_PVH")
            end = max(segment["p_paddr"] + segment["p_memsz"] for segment in segments)
            entry = elf["e_entry"]
            headers = _kept_headers(elf)
    except ELFError as error:
        raise InputError(f"{vmlinux.name} is not an ELF kernel: {error}", "use another kernel") from error
    data = bytearray(vmlinux.read_bytes())
    _append(data, headers, entry, -(-end // _PAGE_BYTES) * _PAGE_BYTES)
    vmlinux.write_bytes(data)


def _has_entry(segment: Segment) -> bool:
    # pyelftools gives a type that it has no name for as a number, whatever its annotations say.
    return isinstance(segment, NoteSegment) and any(
        str(note["n_type"]) == str(_PHYS32_ENTRY) for note in segment.iter_notes()
    )


def _kept_headers(elf: ELFFile) -> bytes:
    """The program headers as they are, without notes: QEMU reads the first note segment only."""
    size = elf["e_phentsize"]
    table = elf.stream
    table.seek(elf["e_phoff"])
    headers = [table.read(size) for _ in range(elf["e_phnum"])]
    return b"".join(header for header in headers if struct.unpack_from("<I", header)[0] != _PT_NOTE)


def _append(data: bytearray, headers: bytes, entry: int, address: int) -> None:
    """Add a segment at ``address`` with boot_params and the code, a note that names it, and new program headers."""
    segment = _boot_params(address) + _code(address, entry)
    note = struct.pack("<III4sQ", 4, 8, _PHYS32_ENTRY, b"Xen\0", address + _PAGE_BYTES)
    data += bytes(-len(data) % _PAGE_BYTES)
    segment_at = len(data)
    data += segment
    note_at = len(data)
    data += note
    headers += _program_header(_PT_LOAD, segment_at, address, len(segment), _PAGE_BYTES)
    headers += _program_header(_PT_NOTE, note_at, 0, len(note), 4)
    struct.pack_into("<I", data, 0x1C, len(data))  # e_phoff
    struct.pack_into("<H", data, 0x2C, len(headers) // 32)  # e_phnum
    data += headers


def _program_header(kind: int, offset: int, address: int, size_bytes: int, alignment: int) -> bytes:
    return struct.pack("<8I", kind, offset, address, address, size_bytes, size_bytes, _FLAGS_ALL, alignment)


def _boot_params(address: int) -> bytes:
    page = bytearray(_PAGE_BYTES)
    struct.pack_into("<H", page, _BOOT_FLAG_AT, _BOOT_FLAG)
    page[_MAGIC_AT : _MAGIC_AT + 4] = _MAGIC
    struct.pack_into("<H", page, _PROTOCOL_AT, _PROTOCOL)
    page[_LOADER_AT] = _LOADER
    page[_MAP_COUNT_AT] = 1
    page[_MAP_AT : _MAP_AT + len(_ROM_ENTRY)] = _ROM_ENTRY
    # Two unused descriptors, flat code, flat data; then what lgdt reads.
    table = struct.pack("<4Q", 0, 0, 0x00CF9A000000FFFF, 0x00CF92000000FFFF)
    tables = table + struct.pack("<HI", len(table) - 1, address + _TABLES_AT)
    page[_TABLES_AT : _TABLES_AT + len(tables)] = tables
    return bytes(page)


def _code(address: int, entry: int) -> bytes:
    def word(value: int) -> str:
        return struct.pack("<I", value).hex()

    text = _ENTRY_CODE.format(parameters=word(address), descriptor=word(address + _TABLES_AT + 32), entry=word(entry))
    lines = (line.strip().split("  ")[0] for line in text.strip().splitlines())
    return bytes.fromhex(" ".join(lines))

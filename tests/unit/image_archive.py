"""A package archive of our own in a directory, which apt reads as the machine's only source."""

import gzip
import hashlib
import struct
from collections.abc import Sequence
from pathlib import Path

from nooks.host.process import run


class FakeArchive:
    """Packages of one architecture; ``configuration`` is for APT_CONFIG."""

    def __init__(self, root: Path, architecture: str = "amd64") -> None:
        self.root = root
        self.pool = root / "pool"
        self.pool.mkdir(parents=True)
        self._architecture = architecture
        self._records: list[str] = []
        self.configuration = root / "apt.conf"
        (root / "parts").mkdir()
        self.configuration.write_text(
            f'Dir::Etc::sourcelist "{root}/sources.list";\nDir::Etc::sourceparts "{root}/parts";\n'
        )
        (root / "sources.list").write_text(f"deb [trusted=yes] file:{root} ./\n")
        self._write_index()

    def add(self, name: str, version: str, files: dict[str, bytes], depends: Sequence[str] = ()) -> None:
        """Build a package and list it."""
        tree = self.root / "build" / name
        (tree / "DEBIAN").mkdir(parents=True, exist_ok=True)
        fields = f"Package: {name}\nVersion: {version}\nArchitecture: {self._architecture}\nMaintainer: none\n"
        fields += f"Depends: {', '.join(depends)}\n" if depends else ""
        fields += "Installed-Size: 1\n"
        (tree / "DEBIAN/control").write_text(f"{fields}Description: for a test\n")
        for path, data in files.items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_bytes(data)
        package = self.pool / f"{name}_{version}_{self._architecture}.deb"
        run(["dpkg-deb", "--build", "--root-owner-group", "-Znone", str(tree), str(package)])
        data = package.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        self._records.append(f"{fields}Filename: ./pool/{package.name}\nSize: {len(data)}\nSHA256: {digest}\n")
        self._write_index()

    def forget(self, name: str) -> None:
        """Remove a package and its record, as mirrors do with old kernels."""
        self._records = [record for record in self._records if not record.startswith(f"Package: {name}\n")]
        for path in self.pool.glob(f"{name}_*"):
            path.unlink()
        self._write_index()

    def break_down(self) -> None:
        """Make the whole archive unreachable."""
        (self.root / "sources.list").write_text(f"deb [trusted=yes] file:{self.root}/gone ./\n")

    def _write_index(self) -> None:
        text = "\n".join(self._records).encode()
        (self.root / "Packages").write_bytes(text)
        (self.root / "Packages.gz").write_bytes(gzip.compress(text))


def elf_kernel(bits: int = 64, note_type: int = 18) -> bytes:
    """The least ELF file that passes for a kernel: a segment of code, and a note (18: the PVH entry)."""
    note = struct.pack("<III4sQ", 4, 8, note_type, b"Xen\0", 0x1000000)
    code = b"\xf4" * 64
    if bits == 64:
        headers = struct.pack("<IIQQQQQQ", 1, 7, 0x1000, 0, 0x1000000, len(code), len(code), 0x1000)
        headers += struct.pack("<IIQQQQQQ", 4, 4, 0x1100, 0, 0, len(note), len(note), 4)
        identity, sizes = b"\x7fELF\2\1\1" + bytes(9), struct.pack("<HHHHHH", 64, 56, 2, 64, 0, 0)
        header = identity + struct.pack("<HHIQQQI", 2, 62, 1, 0x1000000, 64, 0, 0) + sizes
    else:
        headers = struct.pack("<8I", 1, 0x1000, 0xC1000000, 0x1000000, len(code), len(code), 7, 0x1000)
        headers += struct.pack("<8I", 4, 0x1100, 0, 0, len(note), len(note), 4, 4)
        identity, sizes = b"\x7fELF\1\1\1" + bytes(9), struct.pack("<HHHHHH", 52, 32, 2, 40, 0, 0)
        header = identity + struct.pack("<HHIIIII", 2, 3, 1, 0x1000000, 52, 0, 0) + sizes
    return (header + headers).ljust(0x1000, b"\0") + code.ljust(0x100, b"\0") + note


def elf_module(info: bytes = b"license=GPL\0") -> bytes:
    """The least ELF file that passes for a module: an empty symbol table and the given .modinfo."""
    sections = [(".modinfo", 1, info, 0, 0), (".strtab", 3, b"\0", 0, 0), (".symtab", 2, bytes(24), 2, 24)]
    names = b"\0" + b"".join(name.encode() + b"\0" for name, *_ in sections) + b".shstrtab\0"
    sections.append((".shstrtab", 3, names, 0, 0))
    body, headers = b"", bytes(64)
    for name, kind, data, link, entry_bytes in sections:
        at = names.index(name.encode() + b"\0")
        headers += struct.pack("<IIQQQQIIQQ", at, kind, 0, 0, 64 + len(body), len(data), link, 1, 8, entry_bytes)
        body += data.ljust((len(data) + 7) // 8 * 8, b"\0")
    header = b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<HHIQQQI", 1, 62, 1, 0, 0, 64 + len(body), 0)
    return header + struct.pack("<HHHHHH", 64, 0, 0, 64, len(sections) + 1, len(sections)) + body + headers


def bzimage(payload: bytes, protocol: int = 0x20F) -> bytes:
    """A bzImage with a compressed kernel; the payload starts 16 bytes behind the set-up sectors."""
    sectors, offset = 2, 16
    header = bytearray((sectors + 1) * 512 + offset)
    header[0x1F1] = sectors
    header[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", header, 0x206, protocol)
    struct.pack_into("<II", header, 0x248, offset, len(payload))
    return bytes(header) + payload + b"trailing"

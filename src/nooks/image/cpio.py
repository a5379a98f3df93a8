"""Writes the cpio archives that the kernel unpacks as its initramfs.

Format: Documentation/driver-api/early-userspace/buffer-format.rst of the kernel ("newc", magic 070701): a header of
ASCII hexadecimal numbers, the name with a NUL, padding to four bytes, the data, padding again. Everything belongs to
root and has time zero, so that equal content gives an equal archive.
"""

import stat
from pathlib import PurePosixPath
from typing import BinaryIO

_TRAILER = "TRAILER!!!"


class CpioWriter:
    """Adds files to an archive; makes the directories above them. Names are absolute paths in the guest."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._inode = 0
        self._directories: set[PurePosixPath] = set()

    def directory(self, name: str, permissions: int = 0o755) -> None:
        """Add a directory and those above it, unless it is there."""
        self._directory(PurePosixPath(name), permissions)

    def regular(self, name: str, data: bytes, permissions: int = 0o644) -> None:
        """Add a regular file."""
        self._add(PurePosixPath(name), stat.S_IFREG | permissions, data)

    def symlink(self, name: str, target: str) -> None:
        """Add a symbolic link."""
        self._add(PurePosixPath(name), stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, name: str, major: int, minor: int, permissions: int = 0o600) -> None:
        """Add a character device."""
        self._add(PurePosixPath(name), stat.S_IFCHR | permissions, b"", device=(major, minor))

    def finish(self) -> None:
        """Write the trailer. Nothing may be added after it."""
        self._header(_TRAILER, 0, 0, (0, 0), 1)
        self._pad()

    def _directory(self, path: PurePosixPath, permissions: int) -> None:
        if path not in self._directories and path.name:
            self._directories.add(path)
            self._add(path, stat.S_IFDIR | permissions, b"", links=2)

    def _add(
        self, path: PurePosixPath, mode: int, data: bytes, device: tuple[int, int] = (0, 0), links: int = 1
    ) -> None:
        if not path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{path} is no absolute path")
        if path.parent != path:
            self._directory(path.parent, 0o755)
        self._header(str(path).lstrip("/"), mode, len(data), device, links)
        self._file.write(data)
        self._pad()

    def _header(self, name: str, mode: int, size_bytes: int, device: tuple[int, int], links: int) -> None:
        self._inode += 1
        encoded = name.encode() + b"\0"
        fields = (self._inode, mode, 0, 0, links, 0, size_bytes, 0, 0, *device, len(encoded), 0)
        self._file.write(b"070701" + b"".join(b"%08X" % field for field in fields) + encoded)
        self._pad()

    def _pad(self) -> None:
        self._file.write(b"\0" * (-self._file.tell() % 4))

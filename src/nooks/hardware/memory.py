"""The memory that a client granted to a device: what DMA may reach, and nothing else.

Each access is checked against the grants (VFIO_USER_DMA_MAP). One that lies outside is refused, counted and reported,
as an IOMMU does. Files are mapped once however many grants they have: behind an IOMMU each page is one.
"""

import bisect
import errno
import fcntl
import mmap
import os
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass

ADDRESS_MAX = 1 << 64

Refused = Callable[[int, int, str], None]
"""Is told the address, the size in bytes, and "read" or "write"."""


class DmaRefused(Exception):  # noqa: N818 - the bus's answer, not a defect
    """The device reached for memory that it was not granted, or it may not be a bus master."""


@dataclass
class _File:
    """A client's file, mapped whole. ``words`` are its 32-bit words, so that one is stored at once."""

    mapping: mmap.mmap | None
    bytes: memoryview
    words: memoryview
    grants: int = 0


@dataclass(frozen=True)
class _Grant:
    """Of ``file`` from ``offset`` on, at the addresses from ``start`` to before ``end``."""

    start: int
    end: int
    file: _File
    offset: int
    readable: bool
    writable: bool


_NO_FILE = _File(None, memoryview(b""), memoryview(b"").cast("I"))
_NOTHING = _Grant(0, 0, _NO_FILE, 0, readable=False, writable=False)

_WORDS = [struct.Struct(f"<{count}I") for count in range(5)]

_ASTRAY = 0x7F << 40
"""Where a card that goes astray reaches: no domain has so much memory."""


class GuestMemory:
    """What one client has granted. ``enabled``: the device's bus master bit; without it nothing is reached."""

    def __init__(self, refused: Refused) -> None:
        self.enabled = False
        self.refusals = 0
        self.astray = False
        """Misbehaviour: addresses are wrong."""
        self.garbled = False
        """Misbehaviour: what is written into descriptors is garbage."""
        self._refused = refused
        self._grants: list[_Grant] = []
        self._files: dict[tuple[int, int], _File] = {}
        self._last = _NOTHING

    @property
    def grants(self) -> int:
        """How many there are."""
        return len(self._grants)

    # -- the client's side --------------------------------------------------------------------------------------

    def grant(self, address: int, size: int, offset: int, descriptor: int | None, access: tuple[bool, bool]) -> None:
        """Grant ``size`` bytes of a file from ``offset`` on, at ``address``; ``access`` is (read, write).

        The descriptor stays the caller's. Without one there is nothing to map and all of it is refused. Raises OSError
        for what overlaps, is not there, or could vanish under our hands.
        """
        if size <= 0 or address + size > ADDRESS_MAX or offset < 0:
            raise OSError(errno.EINVAL, "no such range")
        at = bisect.bisect_left(self._grants, address, key=lambda grant: grant.end - 1)
        if at < len(self._grants) and self._grants[at].start < address + size:
            raise OSError(errno.EEXIST, "granted already")
        readable, writable = access
        if descriptor is None:
            self._grants.insert(at, _Grant(address, address + size, _NO_FILE, 0, readable=False, writable=False))
            return
        file = self._open(descriptor)
        if offset + size > len(file.bytes) or offset & 3 != address & 3:
            self._release(file)
            raise OSError(errno.EINVAL, "the file has no such range")
        self._grants.insert(at, _Grant(address, address + size, file, offset, readable=readable, writable=writable))
        self.recheck()

    def withdraw(self, address: int, size: int) -> None:
        """Take back what ``grant`` gave, just this range or every range inside. Raises OSError if there is none."""
        first = bisect.bisect_left(self._grants, address, key=lambda grant: grant.start)
        last = bisect.bisect_right(self._grants, address + size, lo=first, key=lambda grant: grant.end)
        gone = self._grants[first:last]  # behind an IOMMU there are tens of thousands, page by page
        if not gone:
            raise OSError(errno.ENOENT, "nothing is granted there")
        del self._grants[first:last]
        self._forget(gone)

    def withdraw_all(self) -> None:
        """Take back everything."""
        gone, self._grants = self._grants, []
        self._forget(gone)

    def _open(self, descriptor: int) -> _File:
        status = os.fstat(descriptor)
        key = status.st_dev, status.st_ino
        file = self._files.get(key)
        if file is None:
            seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)  # EINVAL for what is no memory file
            if not seals & fcntl.F_SEAL_SHRINK:
                raise OSError(errno.EPERM, "the memory could be shortened while we use it")
            whole = status.st_size // 4 * 4
            mapping = mmap.mmap(descriptor, whole, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
            view = memoryview(mapping)
            file = self._files[key] = _File(mapping, view, view.cast("I"))
        file.grants += 1
        return file

    def recheck(self) -> None:
        """Trust nothing that was found out about grants before: they, or the misbehaviour, have changed."""
        self._last = _NOTHING

    def _forget(self, gone: list[_Grant]) -> None:
        self.recheck()
        for grant in gone:
            if grant.file is not _NO_FILE:
                self._release(grant.file)

    def _release(self, file: _File) -> None:
        file.grants -= 1
        if not file.grants:
            self._files = {key: each for key, each in self._files.items() if each is not file}
            file.words.release()
            file.bytes.release()
            if file.mapping is not None:
                file.mapping.close()

    # -- the device's side --------------------------------------------------------------------------------------

    def read(self, address: int, size: int) -> memoryview:
        """What is there: a view of the memory itself, to be used at once, or a copy. Raises DmaRefused."""
        grant = self._last
        if not (self.enabled and grant.readable and grant.start <= address and address + size <= grant.end):
            pieces = self._pieces(address, size, "read")
            if len(pieces) != 1:
                return memoryview(b"".join(pieces))
            return pieces[0]
        at = grant.offset + address - grant.start
        return grant.file.bytes[at : at + size]

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Raises DmaRefused; nothing was written then."""
        size = len(data)
        grant = self._last
        if not (self.enabled and grant.writable and grant.start <= address and address + size <= grant.end):
            at = 0
            for piece in self._pieces(address, size, "write"):
                piece[:] = data[at : at + len(piece)]
                at += len(piece)
            return
        at = grant.offset + address - grant.start
        grant.file.bytes[at : at + size] = data

    def read_words(self, address: int, count: int) -> tuple[int, ...]:
        """Up to four 32-bit words. Raises DmaRefused."""
        return _WORDS[count].unpack(self.read(address, 4 * count))

    def write_word(self, address: int, value: int) -> None:
        """One 32-bit word, stored at once if it is aligned: its reader sees all of it or nothing. Raises DmaRefused."""
        if self.garbled:
            value = random.getrandbits(32)
        if address & 3:
            self.write(address, value.to_bytes(4, "little"))
            return
        grant = self._last
        if not (self.enabled and grant.writable and grant.start <= address and address + 4 <= grant.end):
            self._pieces(address, 4, "write")
            grant = self._last
        grant.file.words[(grant.offset + address - grant.start) >> 2] = value

    def _pieces(self, address: int, size: int, access: str) -> list[memoryview]:
        """Views of a range that may lie in several grants one after the other."""
        if not self.enabled:
            raise DmaRefused("the device is no bus master")
        pieces: list[memoryview] = []
        if self.astray:
            address ^= _ASTRAY
        at, end = address, address + size
        index = bisect.bisect_right(self._grants, address, key=lambda grant: grant.start) - 1
        while at < end or not pieces:
            grant = self._grants[index] if 0 <= index < len(self._grants) else _NOTHING
            allowed = grant.readable if access == "read" else grant.writable
            if not allowed or not grant.start <= at < grant.end:
                self.refusals += 1
                self._refused(address, size, access)
                raise DmaRefused(f"{access} of {size} bytes at {address:#x}")
            offset = grant.offset + at - grant.start
            length = min(end, grant.end) - at
            pieces.append(grant.file.bytes[offset : offset + length])
            at += length
            index += 1
            self._last = grant
        return pieces

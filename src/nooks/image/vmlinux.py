"""The ELF vmlinux inside a bzImage.

Booting it directly (PVH) skips the real-mode set-up and the decompression, which take seconds under emulation.
Format: Documentation/x86/boot.rst of the kernel, "The Real-Mode Kernel Header"; protocol 2.08 brought
payload_offset and payload_length.
"""

import bz2
import lzma
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

from nooks.host.errors import InputError, NooksError
from nooks.host.process import ProcessError, run

_ELF = b"\x7fELF"
_SETUP_SECTORS_AT = 0x1F1
_MAGIC_AT = 0x202
_VERSION_AT = 0x206
_PAYLOAD_AT = 0x248
_OLDEST_PROTOCOL = 0x0208
_SECTOR_BYTES = 512
_TOOL_TIMEOUT_SECONDS = 120.0


def extract(image: Path, vmlinux: Path) -> None:
    """Write the ELF kernel of ``image`` (a bzImage, or an ELF kernel already) to ``vmlinux``.

    Raises InputError if it is neither, NooksError if the tool for its compression is missing.
    """
    try:
        data = image.read_bytes()
    except OSError as error:
        raise NooksError(f"the kernel {image} can't be read: {error.strerror}", "run as root") from error
    if not data.startswith(_ELF):
        data = _decompressed(_payload(data, image), image)
    if not data.startswith(_ELF):
        raise InputError(f"{image} holds no ELF kernel", "give an x86 kernel of a distribution")
    vmlinux.write_bytes(data)


def bits(vmlinux: Path) -> int:
    """32 or 64, by the class of the ELF header (offset 4)."""
    with vmlinux.open("rb") as file:
        return 64 if file.read(5)[4] == 2 else 32


def _payload(data: bytes, image: Path) -> bytes:
    if len(data) < _PAYLOAD_AT + 8 or data[_MAGIC_AT : _MAGIC_AT + 4] != b"HdrS":
        raise InputError(f"{image} is not an x86 Linux kernel", "give a bzImage or an ELF vmlinux")
    if struct.unpack_from("<H", data, _VERSION_AT)[0] < _OLDEST_PROTOCOL:
        raise InputError(f"{image} is older than Linux 2.6.26", "give a newer kernel")
    offset, length = struct.unpack_from("<II", data, _PAYLOAD_AT)
    # Zero means four in the oldest images (boot.rst).
    start = ((data[_SETUP_SECTORS_AT] or 4) + 1) * _SECTOR_BYTES + offset
    if start + length > len(data):
        raise InputError(f"{image} is cut short", "get it again")
    return data[start : start + length]


def _decompressed(payload: bytes, image: Path) -> bytes:
    """The kernel behind the compressed payload, which ends in four bytes with the size of the result."""
    for magic, decompress in _COMPRESSIONS:
        if payload.startswith(magic):
            try:
                return decompress(payload)
            except (lzma.LZMAError, zlib.error, OSError, ProcessError) as error:
                raise NooksError(f"the kernel in {image} can't be decompressed: {error}", "get it again") from error
    raise InputError(f"the compression of {image} is unknown", "give an ELF vmlinux")


def _xz(payload: bytes) -> bytes:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(payload)


def _lzma(payload: bytes) -> bytes:
    return lzma.LZMADecompressor(lzma.FORMAT_ALONE).decompress(payload)


def _gzip(payload: bytes) -> bytes:
    return zlib.decompressobj(wbits=31).decompress(payload)


def _bzip2(payload: bytes) -> bytes:
    return bz2.BZ2Decompressor().decompress(payload)


def _tool(program: str) -> Callable[[bytes], bytes]:
    """A decompressor that the standard library lacks; the programs want the trailing size cut off."""

    def decompress(payload: bytes) -> bytes:
        with tempfile.TemporaryDirectory(prefix="nooks-") as folder:
            packed, unpacked = Path(folder, "packed"), Path(folder, "unpacked")
            packed.write_bytes(payload[:-4])
            argv = [program, "-d", "-q", "-f", str(packed), "-o", str(unpacked)]
            if program == "lz4":
                argv = [program, "-d", "-q", "-f", str(packed), str(unpacked)]
            run(argv, timeout_seconds=_TOOL_TIMEOUT_SECONDS)
            return unpacked.read_bytes()

    return decompress


_COMPRESSIONS: tuple[tuple[bytes, Callable[[bytes], bytes]], ...] = (
    (b"\xfd7zXZ\0", _xz),
    (b"\x28\xb5\x2f\xfd", _tool("zstd")),
    (b"\x1f\x8b", _gzip),
    (b"\x02\x21\x4c\x18", _tool("lz4")),
    (b"BZh", _bzip2),
    (b"\x5d\0\0", _lzma),
    (b"\x89LZO", _tool("lzop")),
)

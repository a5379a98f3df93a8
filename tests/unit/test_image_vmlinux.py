"""Taking the ELF kernel out of a bzImage, and giving 32-bit kernels a PVH entry."""

import bz2
import gzip
import io
import lzma
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import NoteSegment
from iced_x86 import Decoder, Mnemonic
from image_archive import bzimage, elf_kernel

from nooks.host.errors import InputError, NooksError
from nooks.host.process import run
from nooks.image import pvh, vmlinux

KERNEL = elf_kernel() + bytes(range(256)) * 40


def xz(data: bytes) -> bytes:
    return lzma.compress(data, lzma.FORMAT_XZ, lzma.CHECK_CRC32)


def old_lzma(data: bytes) -> bytes:
    return lzma.compress(data, lzma.FORMAT_ALONE)


def by_tool(program: str, *options: str) -> Callable[[bytes], bytes]:
    def compress(data: bytes) -> bytes:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder, "in"), Path(folder, "out")
            source.write_bytes(data)
            run([program, "-q", *options, str(source), *(["-o"] if program == "zstd" else []), str(target)])
            return target.read_bytes()

    return compress


@pytest.mark.parametrize(
    "compress",
    [gzip.compress, bz2.compress, xz, old_lzma, by_tool("zstd"), by_tool("lz4", "-l")],
    ids=["gzip", "bzip2", "xz", "lzma", "zstd", "lz4"],
)
def test_the_kernel_comes_out_of_a_bzimage(compress: Callable[[bytes], bytes], tmp_path: Path) -> None:
    payload = compress(KERNEL) + len(KERNEL).to_bytes(4, "little")
    (tmp_path / "vmlinuz").write_bytes(bzimage(payload))
    vmlinux.extract(tmp_path / "vmlinuz", tmp_path / "vmlinux")
    assert (tmp_path / "vmlinux").read_bytes() == KERNEL
    assert vmlinux.bits(tmp_path / "vmlinux") == 64


def test_an_elf_kernel_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "vmlinuz").write_bytes(elf_kernel(32))
    vmlinux.extract(tmp_path / "vmlinuz", tmp_path / "vmlinux")
    assert vmlinux.bits(tmp_path / "vmlinux") == 32


@pytest.mark.parametrize(
    ("image", "complaint"),
    [
        (b"", "not an x86 Linux kernel"),
        (b"MZ" + bytes(2000), "not an x86 Linux kernel"),
        (bzimage(b"\x1f\x8b", protocol=0x207), "older than"),
        (bzimage(gzip.compress(KERNEL))[:1700], "cut short"),
        (bzimage(b"unknown!"), "compression of .* is unknown"),
        (bzimage(gzip.compress(b"no ELF at all")), "holds no ELF kernel"),
        (bzimage(xz(KERNEL)[:40] + bytes(100)), "can't be decompressed"),
        (bzimage(b"\x1f\x8b" + bytes(50)), "can't be decompressed"),
    ],
)
def test_what_is_no_kernel_is_said_in_one_line(image: bytes, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "vmlinuz").write_bytes(image)
    with pytest.raises(NooksError, match=complaint):
        vmlinux.extract(tmp_path / "vmlinuz", tmp_path / "vmlinux")


def test_a_missing_kernel_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(NooksError, match="can't be read"):
        vmlinux.extract(tmp_path / "vmlinuz", tmp_path / "vmlinux")


def test_a_kernel_with_a_pvh_entry_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    for bits in (32, 64):
        path.write_bytes(elf_kernel(bits))
        pvh.ensure_entry(path)
        assert path.read_bytes() == elf_kernel(bits)


def test_a_64_bit_kernel_without_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(elf_kernel(64, note_type=3))
    with pytest.raises(InputError, match="PVH"):
        pvh.ensure_entry(path)


def test_a_32_bit_kernel_gets_one_behind_its_segments(tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(elf_kernel(32, note_type=3))
    pvh.ensure_entry(path)
    elf = ELFFile(io.BytesIO(path.read_bytes()))
    segments = list(elf.iter_segments())
    notes = [note for segment in segments if isinstance(segment, NoteSegment) for note in segment.iter_notes()]
    assert [note["n_type"] for note in notes] == [18]
    entry = int.from_bytes(notes[0]["n_descdata"], "little")
    stub = segments[1]
    assert segments[0]["p_paddr"] + segments[0]["p_memsz"] <= stub["p_paddr"]
    code = stub.data()[entry - stub["p_paddr"] :]
    instructions = list(Decoder(32, code, ip=entry))
    assert instructions[0].mnemonic == Mnemonic.CLD
    assert all(instruction.mnemonic != Mnemonic.INVALID for instruction in instructions)
    last = instructions[-1]
    assert last.mnemonic == Mnemonic.JMP
    assert (last.far_branch_selector, last.far_branch32) == (0x10, 0x1000000)
    assert sum(instruction.len for instruction in instructions) == len(code)
    # What loops and skips must hit the start of an instruction.
    starts = {instruction.ip for instruction in instructions}
    branches = [i for i in instructions[:-1] if i.mnemonic in (Mnemonic.JE, Mnemonic.JNE, Mnemonic.LOOP)]
    assert len(branches) == 3
    assert all(branch.near_branch32 in starts for branch in branches)


def test_something_that_is_no_elf_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match="not an ELF kernel"):
        pvh.ensure_entry(path)

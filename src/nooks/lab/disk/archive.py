"""An application that packs files on a disk: writes one, has zstd compress it, unpacks that, compares, begins anew.

Nothing that it reads is in the page cache any more. Runs as ``rounds`` says (progress in files). Standard library only.
"""

import argparse
import hashlib
import os
import subprocess
from pathlib import Path
from random import Random

from nooks.lab.disk.rounds import work

SIZE_BYTES = 6 << 20
_PIECE_BYTES = 1 << 16
_KEPT = 8


def write(path: Path, seed: int) -> str:
    """A file that compresses somewhat, on the disk; returns its SHA-256. Raises OSError."""
    random = Random(seed)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for _ in range(SIZE_BYTES // _PIECE_BYTES):
            piece = random.randbytes(_PIECE_BYTES // 4) + bytes([random.randrange(256)]) * (_PIECE_BYTES * 3 // 4)
            digest.update(piece)
            file.write(piece)
    forget(path)
    return digest.hexdigest()


def forget(path: Path) -> None:
    """Have it on the disk, and nowhere else. Raises OSError."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def pack(folder: Path, number: int, seed: int) -> bool:
    """One file, packed and unpacked; whether it is the same. Raises OSError, CalledProcessError."""
    plain, packed = folder / f"{number % _KEPT}.plain", folder / f"{number % _KEPT}.zst"
    expected = write(plain, seed + number)
    subprocess.run(["zstd", "--quiet", "--force", "-3", str(plain), "-o", str(packed)], check=True, capture_output=True)
    forget(packed)
    unpacked = subprocess.run(["zstd", "--quiet", "-dc", str(packed)], check=True, capture_output=True).stdout
    return hashlib.sha256(unpacked).hexdigest() == expected


def main() -> None:
    """Work until SIGTERM."""
    parser = argparse.ArgumentParser(prog="nooks.lab.disk.archive")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    def one(number: int) -> bool:
        options.folder.mkdir(exist_ok=True)  # here, so that a disk that does not let us is told as any other error
        return pack(options.folder, number, options.seed)

    work(one)


if __name__ == "__main__":
    main()

"""fio with verification on a file of a disk: rounds of random writes past the page cache, several at a time, checked.

Each round writes every block of its file once, in random order and sizes, with a CRC32C in each, then reads them all.
Runs as ``rounds`` says; any complaint of fio's is the end. Standard library only.
"""

import argparse
import subprocess
from pathlib import Path

from nooks.lab.disk.rounds import work

SIZE = "24M"
"""Of each round's file."""
OPTIONS = (
    *("--rw=randwrite", "--bsrange=4k-64k", "--direct=1", "--ioengine=libaio", "--iodepth=8", "--fsync=64"),
    *("--verify=crc32c", "--verify_fatal=1", "--verify_dump=0", "--do_verify=1"),
)


def verify(path: Path, seed: int, size: str = SIZE) -> bool:
    """One round; True. Raises CalledProcessError, with what fio said."""
    named = ("--name=verified", f"--filename={path}", f"--randseed={seed}", f"--size={size}", "--output-format=terse")
    argv = ["setpriv", "--pdeathsig=KILL", "fio", *named, *OPTIONS]
    subprocess.run(argv, check=True, capture_output=True, cwd="/")
    return True


def main() -> None:
    """Work until SIGTERM."""
    parser = argparse.ArgumentParser(prog="nooks.lab.disk.verified")
    parser.add_argument("--path", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--size", default=SIZE)
    options = parser.parse_args()
    work(lambda number: verify(options.path, options.seed + number, options.size))


if __name__ == "__main__":
    main()

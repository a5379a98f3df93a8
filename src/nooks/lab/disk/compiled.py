"""A compiler at work on a disk: writes a source, compiles it, compares the object with the first that came of the same.

Nothing that it reads is in the page cache any more. Runs as ``rounds`` says (progress in files). Standard library only.
"""

import argparse
import hashlib
import os
import subprocess
from pathlib import Path
from random import Random

from nooks.lab.disk.archive import forget
from nooks.lab.disk.rounds import work

FUNCTIONS = 60
SOURCES = 4
"""So many different ones; the first round with each says what is right."""


def source(seed: int) -> str:
    """Some C."""
    random = Random(seed)
    lines = [
        f"unsigned f{index}(unsigned x) {{ for (int i = 0; i < {random.randrange(2, 99)}; i++) "
        f"x = x * {random.randrange(1, 2**31)}u ^ (x >> {random.randrange(1, 31)}); return x; }}"
        for index in range(FUNCTIONS)
    ]
    return "\n".join(lines) + "\n"


class Compiler:
    """Works in ``folder``; ``expected`` are digests of objects, by source."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        self._seed = seed
        self.expected: dict[int, str] = {}

    def compile(self, number: int) -> bool:
        """One file; whether the source is still as it was written, and the object as it was the first time.

        Raises OSError, CalledProcessError.
        """
        self._folder.mkdir(exist_ok=True)
        which = number % SOURCES
        plain, built = self._folder / f"{which}.c", self._folder / f"{which}.o"
        text = source(self._seed + which)
        plain.write_text(text)
        forget(plain)
        _gcc(plain)
        forget(built)
        digest = hashlib.sha256(built.read_bytes()).hexdigest()
        return plain.read_text() == text and self.expected.setdefault(which, digest) == digest


def write_project(folder: Path, seed: int, count: int) -> list[Path]:
    """``count`` sources, on the disk and nowhere else. Raises OSError."""
    folder.mkdir()
    sources = [folder / f"{number}.c" for number in range(count)]
    for number, path in enumerate(sources):
        path.write_text(source(seed + number))
        forget(path)
    return sources


def build(sources: list[Path]) -> None:
    """Compile them one after the other, temporary files beside them, until all is on the disk.

    Raises OSError, CalledProcessError.
    """
    for path in sources:
        _gcc(path, {**os.environ, "TMPDIR": str(path.parent)})
    for path in sources:
        forget(path.with_suffix(".o"))


def _gcc(path: Path, environment: dict[str, str] | None = None) -> None:
    """Compile a source to an object beside it. Raises OSError, CalledProcessError."""
    argv = ["gcc", "-O1", "-c", path.name, "-o", path.with_suffix(".o").name]
    subprocess.run(argv, check=True, capture_output=True, cwd=path.parent, env=environment)


def main() -> None:
    """Work until SIGTERM."""
    parser = argparse.ArgumentParser(prog="nooks.lab.disk.compiled")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    work(Compiler(options.folder, options.seed).compile)


if __name__ == "__main__":
    main()

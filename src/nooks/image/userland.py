"""CPython for domains: Debian's minimal interpreter of the kernel's architecture, from the machine's own archive.

An entry holds what the packages unpack to. Which parts of it an image needs is found by importing the agent with that
very interpreter; it also compiles, so that the host's Python may be of another version.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from nooks.host import cache
from nooks.host.errors import NooksError
from nooks.image import recent
from nooks.image.progress import Progress, quiet

KIND = "userlands"
_KEEP = 4
_UNUSED_SECONDS = 14 * 24 * 3600.0

_TRACE = """
import importlib, json, sys
sys.path += json.loads(sys.argv[1])
for name in json.loads(sys.argv[2]):
    importlib.import_module(name)
specs = {name: getattr(module, "__spec__", None) for name, module in sys.modules.items()}
print(json.dumps(sorted(name for name, spec in specs.items() if spec and spec.origin not in ("built-in", "frozen"))))
"""

_COMPILE = """
import importlib.util, json, marshal, pathlib, sys
for source, target, name, level in json.loads(sys.stdin.read()):
    code = compile(pathlib.Path(source).read_bytes(), name, "exec", dont_inherit=True, optimize=level)
    # PEP 552: magic, flags (1: by hash, unchecked), eight bytes of a hash that nobody compares.
    pathlib.Path(target).write_bytes(importlib.util.MAGIC_NUMBER + b"\\1\\0\\0\\0" + bytes(8) + marshal.dumps(code))
"""


@dataclass(frozen=True)
class Compilation:
    """One source file to compile: ``name`` is what tracebacks show, ``level`` as of ``python -O``."""

    source: Path
    target: Path
    name: str
    level: int


@dataclass(frozen=True)
class Userland:
    """An unpacked CPython with its libraries."""

    root: Path
    architecture: str

    @property
    def digest(self) -> str:
        """Tells versions of all packages."""
        return self.root.name

    @cached_property
    def version(self) -> str:
        """Such as "3.11"."""
        found = sorted(self.root.glob("usr/lib/python3.*/os.py"))
        if not found:
            raise NooksError(f"{self.root} holds no Python", "remove it; it will be made again")
        return found[0].parent.name.removeprefix("python")

    @property
    def interpreter(self) -> Path:
        """The path of the interpreter on the host."""
        return self.root / f"usr/bin/python{self.version}"

    @property
    def library(self) -> Path:
        """The standard library on the host."""
        return self.root / f"usr/lib/python{self.version}"

    @cached_property
    def shared_libraries(self) -> dict[str, Path]:
        """The shared libraries by the names that programs are linked with."""
        folders = [*self.root.glob("lib/*-linux-gnu*"), *self.root.glob("usr/lib/*-linux-gnu*")]
        return {path.name: path for folder in folders for path in folder.glob("*.so*")}

    @property
    def loader(self) -> Path:
        """The dynamic loader."""
        loaders = [path for name, path in self.shared_libraries.items() if name.startswith("ld-linux")]
        if not loaders:
            raise NooksError(f"{self.root} holds no dynamic loader", "remove it; it will be made again")
        return loaders[0]

    def python(self, program: str, *arguments: str, stdin: str | None = None) -> str:
        """Run a program with this interpreter on the host, which must be able to; returns what it printed.

        Raises NooksError if it fails.
        """
        from nooks.host.process import run  # not needed while all is cached

        folders = ":".join(sorted({str(path.parent) for path in self.shared_libraries.values()}))
        start = [str(self.loader), "--library-path", folders, str(self.interpreter), "-ISE", "-X", "utf8"]
        try:
            return run([*start, "-c", program, *arguments], timeout_seconds=300.0, stdin=stdin).stdout
        except OSError as error:
            raise NooksError(f"this machine can't run {self.architecture} programs: {error}") from error

    def imported(self, source_roots: Sequence[Path], modules: Sequence[str]) -> list[str]:
        """What is in memory after importing ``modules``, without what the interpreter has built in."""
        roots = json.dumps([str(path) for path in source_roots])
        return list(json.loads(self.python(_TRACE, roots, json.dumps(list(modules)))))

    def compile(self, jobs: Sequence[Compilation]) -> None:
        """Compile source files to bytecode that needs no source beside it."""
        listed = [[str(job.source), str(job.target), job.name, job.level] for job in jobs]
        self.python(_COMPILE, stdin=json.dumps(listed))


def resolve(architecture: str, progress: Progress = quiet) -> Userland:
    """The newest CPython of the machine's suites, for a Debian architecture.

    Raises NooksError if it can't be had and none is cached.
    """
    question = f"userland-{architecture}"
    known = recent.recall(question)
    place = cache.find(KIND, known, watch=()) if known is not None else None
    if place is None:
        place = _newest(question, architecture, progress)
        cache.prune(KIND, keep=_KEEP, unused_seconds=_UNUSED_SECONDS)
    cache.touch(place)
    return Userland(place, architecture)


def whole(userland: Userland, progress: Progress = quiet) -> Userland:
    """The same userland after a look at each of its files; fetched again if one is damaged."""
    if cache.find(KIND, userland.root.name) is not None:
        return userland
    progress("the cached Python is damaged; getting it again")
    architecture = userland.architecture
    return Userland(_newest(f"userland-{architecture}", architecture, progress), architecture)


def _newest(question: str, architecture: str, progress: Progress) -> Path:
    def cached() -> str | None:
        return next((key for key in cache.keys(KIND) if f"_{architecture}_" in key and cache.find(KIND, key)), None)

    def fetch() -> str:
        from nooks.image import userland_packages  # not needed while all is cached

        return userland_packages.fetch(architecture, progress)

    key = recent.newest(question, fetch, cached, progress)
    place = cache.find(KIND, key)
    if place is None:
        raise NooksError(f"the Python {key} vanished from the cache", "try again")
    return place

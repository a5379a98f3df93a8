"""The module tree of a kernel: what depends on what, what is built in, which module serves which device.

Reads the files that depmod writes (depmod(8), modules.dep(5)). A module's name has underscores throughout; users and
files may write dashes.
"""

import difflib
import fnmatch
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from nooks.host.errors import InputError, NooksError
from nooks.image import modinfo

_NEAR_MISSES = 5
_WILDCARD = re.compile(r"[*?\[]")
_LIBRARY = "kernel/lib/"


def canonical(name: str) -> str:
    """The kernel's spelling of a module name or module file name."""
    base = name.rpartition("/")[2]
    for suffix in modinfo.SUFFIXES:
        base = base.removesuffix(suffix)
    return base.replace("-", "_")


@dataclass(frozen=True)
class Module:
    """A module that can be inserted."""

    name: str
    path: Path

    @property
    def file_name(self) -> str:
        """Its name in an image, decompressed."""
        return f"{self.name}.ko"

    def read(self) -> bytes:
        """Its decompressed content. Raises NooksError."""
        return modinfo.read(self.path)


class ModuleTree:
    """The modules of one kernel. ``directory`` is lib/modules/VERSION."""

    def __init__(self, directory: Path, version: str) -> None:
        self.directory = directory
        self.version = version

    def find(self, name: str) -> Module | None:
        """The module of that name; None if it is built in. Raises InputError if the kernel lacks it."""
        wanted = canonical(name)
        if wanted in self._dependencies:
            return Module(wanted, self.directory / self._dependencies[wanted][0])
        if wanted in self._built_in:
            return None
        known = [*self._dependencies, *self._built_in]
        near = difflib.get_close_matches(wanted, known, n=_NEAR_MISSES)
        hint = f"did you mean {', '.join(near)}?" if near else "check the name, or use another kernel"
        raise InputError(f"kernel {self.version} has no module {name}", hint)

    def has(self, name: str) -> bool:
        """Whether the kernel has a module, built in or not."""
        return canonical(name) in self._dependencies or canonical(name) in self._built_in

    def closure(self, names: Iterable[str]) -> list[Module]:
        """The modules with everything that they depend on, in the order in which to insert them.

        Soft dependencies that the kernel has are included. Raises InputError for a name that it lacks.
        """
        order: dict[str, Module] = {}
        for name in names:
            self._collect(name, order, frozenset())
        return list(order.values())

    def independent(self) -> Iterator[Module]:
        """The modules that need no other, the smallest file first; those of the kernel's own library before all others.

        Only as many files are looked at as the caller needs: a whole tree has four thousand.
        """
        alone = {name: path for name, (path, needs) in self._dependencies.items() if not needs}
        for library in (True, False):
            some = [name for name, path in alone.items() if path.startswith(_LIBRARY) is library]
            modules = [Module(name, self.directory / alone[name]) for name in some]
            yield from sorted(modules, key=lambda module: (module.path.stat().st_size, module.name))

    def for_device(self, modalias: str) -> list[str]:
        """The names of the modules that bind a device, e.g. "pci:v00008086d0000100Esv...". May be empty."""
        # Of 20,000 patterns most differ before their first wildcard; to compile them all would take seconds.
        found = (
            module
            for head, pattern, module in self._aliases
            if modalias.startswith(head) and fnmatch.fnmatchcase(modalias, pattern)
        )
        return list(dict.fromkeys(canonical(module) for module in found))

    def _collect(self, name: str, order: dict[str, Module], above: frozenset[str]) -> None:
        module = self.find(name)
        if module is None or module.name in order or module.name in above:
            return
        before, after = self._soft.get(module.name, ((), ()))
        above |= {module.name}
        for soft in self._present(before):
            self._collect(soft, order, above)
        # modules.dep lists what a module needs, the nearest first.
        for path in reversed(self._dependencies[module.name][1]):
            self._collect(path, order, above)
        order[module.name] = module
        for soft in self._present(after):
            self._collect(soft, order, above)

    def _present(self, softs: Iterable[str]) -> Iterator[str]:
        """The modules that soft dependencies name, or have as an alias: those that need no particular processor."""
        for soft in softs:
            if self.has(soft):
                yield soft
            else:
                yield from (name for name in self.for_device(soft) if name not in self._processor_bound)

    @cached_property
    def _processor_bound(self) -> frozenset[str]:
        return frozenset(canonical(module) for _, pattern, module in self._aliases if pattern.startswith("cpu:"))

    @cached_property
    def _dependencies(self) -> dict[str, tuple[str, list[str]]]:
        lines = (line.partition(":") for line in self._lines("modules.dep"))
        return {canonical(path): (path, needs.split()) for path, _, needs in lines}

    @cached_property
    def _built_in(self) -> frozenset[str]:
        return frozenset(canonical(line) for line in self._lines("modules.builtin"))

    @cached_property
    def _aliases(self) -> list[tuple[str, str, str]]:
        """The beginning of each pattern, the pattern, and the module."""
        words = (line.split() for line in self._lines("modules.alias"))
        aliases = ((word[1], word[2]) for word in words if len(word) == 3 and word[0] == "alias")
        return [(_WILDCARD.split(pattern, 1)[0], pattern, module) for pattern, module in aliases]

    @cached_property
    def _soft(self) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
        words = (line.split(maxsplit=2) for line in self._lines("modules.softdep"))
        return {canonical(w[1]): modinfo.soft_dependencies(w[2]) for w in words if len(w) == 3 and w[0] == "softdep"}

    def _lines(self, name: str) -> list[str]:
        try:
            return (self.directory / name).read_text().splitlines()
        except FileNotFoundError:
            if name == "modules.dep":
                raise NooksError(f"{self.directory} has no modules.dep", "run depmod for it") from None
            return []

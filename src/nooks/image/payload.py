"""What runs in a domain and all that it takes of Python: found by importing it with the domain's interpreter.

Only bytecode goes into the image: it starts sooner and takes less memory than source.
"""

import ast
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import nooks
from nooks.host.errors import NooksError
from nooks.image.userland import Compilation, Userland

_LAZY = ("encodings.ascii", "encodings.latin_1", "encodings.utf_8")
"""What the interpreter imports only when it needs it."""

_INIT = """\
#!{interpreter} -ISEu
from {module} import {function}
{function}()
"""

_OWN_LEVEL = 0
_LIBRARY_LEVEL = 2
"""As of ``python -O``: the standard library goes without its assertions and docstrings."""


@dataclass(frozen=True)
class Parts:
    """Files of an image: where they go, and where their content lies on the host."""

    init: str
    files: dict[str, Path]
    directories: tuple[str, ...]


@dataclass(frozen=True)
class Payload:
    """A program for domains: ``function`` of ``module``, in ``packages`` below ``root``.

    These are packages or modules, by their dotted names, with the packages that they are in.
    """

    root: Path
    packages: tuple[str, ...]
    module: str
    function: str = "main"

    def digest(self) -> str:
        """Of all source files that may go in."""
        digest = hashlib.sha256(repr((self.packages, self.module, self.function)).encode())
        for path in self._sources():
            digest.update(f"{path.relative_to(self.root)}\0".encode() + path.read_bytes())
        return digest.hexdigest()

    def parts(self, userland: Userland, folder: Path) -> Parts:
        """Everything that the program needs; compiled files are put into ``folder``.

        Raises NooksError if it can't be imported, or takes code from outside its packages.
        """
        library = PurePosixPath("/usr/lib", f"python{userland.version}")
        jobs: list[Compilation] = []
        files: dict[str, Path] = {}
        for name in self._needed(userland):
            own = self._owns(name)
            root = self.root if own else userland.library
            source = _find_source(root, name)
            if source is not None:
                inside = library / source.relative_to(root)
                target = folder / f"{name}.pyc"
                jobs.append(Compilation(source, target, str(inside), _OWN_LEVEL if own else _LIBRARY_LEVEL))
                files[str(inside.with_suffix(".pyc"))] = target
            else:
                found = userland.library.glob(f"lib-dynload/{name}.*.so")
                files |= {str(library / "lib-dynload" / path.name): path for path in found}
        userland.compile(jobs)
        files |= _linked(files, userland)
        interpreter = f"/usr/bin/python{userland.version}"
        init = _INIT.format(interpreter=interpreter, module=self.module, function=self.function)
        return Parts(init, files, directories=(str(library / "lib-dynload"),))

    def _needed(self, userland: Userland) -> list[str]:
        """The names of all modules that the program may import, without built-in ones.

        Whatever lies in the package of its main module counts as imported.
        """
        package = self.module.rpartition(".")[0]
        beside = [path for path in self._sources() if _dotted(path, self.root).startswith(f"{package}.")]
        wanted = [*(_dotted(path, self.root) for path in beside), *_LAZY, *_imports(beside)]
        names = userland.imported([self.root], list(dict.fromkeys(wanted)))
        return list(dict.fromkeys([*names, "os"]))  # os is built in, but its file marks the library's place

    def _owns(self, name: str) -> bool:
        """Whether a module is of the payload, and allowed to be."""
        top = name.partition(".")[0]
        tops = {package.partition(".")[0] for package in self.packages}
        if top not in tops:
            return False
        within = any(f"{name}.".startswith(f"{package}.") for package in self.packages)
        around = any(package.startswith(f"{name}.") for package in self.packages)
        if not within and not around:
            raise NooksError(f"{self.module} imports {name}, which is not for domains", "keep to " + str(self.packages))
        return True

    def _sources(self) -> list[Path]:
        places = [self.root.joinpath(*package.split(".")) for package in self.packages]
        inside = {path for place in places for path in place.rglob("*.py")}
        modules = {path for place in places if (path := place.with_suffix(".py")).is_file()}
        around = {folder / "__init__.py" for place in places for folder in place.parents if folder != self.root}
        within = {path for path in around if path.is_relative_to(self.root) and path.is_file()}
        return sorted(inside | modules | within)


AGENT = Payload(Path(nooks.__path__[0]).parent, ("nooks.agent", "nooks.xpc"), "nooks.agent.main")
"""Our agent."""


def _dotted(path: Path, root: Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def _imports(sources: Iterable[Path]) -> Iterator[str]:
    """The modules that the sources import anywhere at run time, also inside functions."""
    for path in sources:
        nodes: list[ast.AST] = [ast.parse(path.read_bytes(), str(path))]
        while nodes:
            node = nodes.pop()
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module
            elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                nodes += node.orelse
            else:
                nodes += ast.iter_child_nodes(node)


def _find_source(root: Path, name: str) -> Path | None:
    base = root.joinpath(*name.split("."))
    return next((path for path in (base / "__init__.py", base.with_suffix(".py")) if path.is_file()), None)


def _linked(files: dict[str, Path], userland: Userland) -> dict[str, Path]:
    """The interpreter, its loader, and the shared libraries that it and the extension modules need.

    A library that the userland lacks is left out, as the standard library goes on without the extension module.
    """
    from nooks.image.elf import needed_libraries, requested_loader  # brings pyelftools; not needed while all is cached

    programs = [userland.interpreter, *(path for path in files.values() if path.suffix == ".so")]
    found: dict[str, Path] = {f"/usr/bin/{userland.interpreter.name}": userland.interpreter}
    loader = requested_loader(userland.interpreter)
    found[loader] = userland.loader.resolve()
    while programs:
        for name in needed_libraries(programs.pop()):
            path = userland.shared_libraries.get(name)
            inside = f"/lib/{userland.loader.parent.name}/{name}"
            if path is not None and inside not in found and name != PurePosixPath(loader).name:
                found[inside] = path.resolve()
                programs.append(path)
    return found

"""Packages through the machine's own apt sources and keyrings, with state and cache directories of our own.

Nothing of the system's apt is changed: no index, no architecture, no installed package. apt verifies what it
downloads; other architectures than the machine's are a matter of configuration. This module knows no package names.
"""

import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from nooks.host import cache
from nooks.host.errors import NooksError
from nooks.host.process import ProcessError, run
from nooks.image.progress import Progress, quiet

INDEX_SECONDS = 24 * 3600.0
"""How old the index may be before it is fetched again."""

_JUST_NOW_SECONDS = 60.0
_UPDATE_TIMEOUT_SECONDS = 180.0
_INDEX_BYTES = 100 << 20
"""What an index with apt's digest of it takes. apt hangs or truncates where there is less."""
_DOWNLOAD_TIMEOUT_SECONDS = 1800.0
_UNPACK_TIMEOUT_SECONDS = 300.0

# Runs after the machine's own configuration. Hooks of other software on updates are not for us.
_CONFIGURATION = """\
#clear APT::Update;
#clear APT::Architectures;
#clear DPkg;
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Get::List-Cleanup "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "1";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
Dir::State "{root}/state";
Dir::State::lists "{root}/state/lists";
Dir::State::status "{root}/status";
Dir::Cache "{root}/cache";
Dir::Cache::pkgcache "pkgcache.bin";
Dir::Cache::srcpkgcache "";
Dir::Log "{root}";
"""

_OTHER_SUITE = """\
Dir::Etc::sourcelist "{root}/sources.list";
Dir::Etc::sourceparts "/dev/null";
APT::Default-Release "{suite}";
"""

_BACKPORTS = "-backports"

_DEBIAN = "Debian"
_DEBIAN_KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")  # of the package debian-archive-keyring
# APT::Sandbox::User: as root, apt would download as another user, who can't write below a private home directory,
# and warn about it each time. Without root the setting has no effect.

_Result = TypeVar("_Result")


class ArchiveError(NooksError):
    """The package archive can't be reached, or lacks something."""


class NotInArchiveError(ArchiveError):
    """The archive was asked, and has no such package."""


@dataclass(frozen=True)
class Package:
    """A package of the archive: the version that apt would choose."""

    name: str
    version: str
    architecture: str
    size_bytes: int
    installed_bytes: int
    depends: tuple[str, ...]
    """Names only: of alternatives the first, without versions; pre-dependencies included."""

    @property
    def exact(self) -> str:
        """How apt names this very version."""
        return f"{self.name}={self.version}"


class Archive:
    """The package archive as seen by one Debian architecture (``amd64``, ``i386``).

    It has the machine's own suites, or instead ``suite``, another release of Debian, from the machine's own mirrors.
    A suite of backports (``trixie-backports``) comes with the release that it is for, and goes before it.
    """

    def __init__(self, architecture: str, progress: Progress = quiet, suite: str = "") -> None:
        self.architecture = architecture
        self._suite = suite
        self._progress = progress
        self._root = cache.directory("apt") / (f"{architecture}-{suite}" if suite else architecture)
        self._trouble = ""

    def consult(self, question: Callable[[], _Result]) -> _Result:
        """The answer to a question that reads the index or downloads, asked again of a fresh index if it fails.

        An index that is a day old is fetched anew first; a younger one only if ``question`` raises ArchiveError,
        as it does when the archive no longer has what the index promised. Raises what ``question`` raises.
        """
        with cache.exclusive(self._root):
            self._prepare()
            age_seconds = self._index_age_seconds()
            if age_seconds > INDEX_SECONDS:
                self._update()
            try:
                return question()
            except ArchiveError:
                if age_seconds > INDEX_SECONDS or age_seconds < _JUST_NOW_SECONDS:
                    raise
            self._update()
            return question()

    def package(self, name: str) -> Package:
        """The candidate version of a package. Raises ArchiveError if there is none."""
        try:
            text = self._run("apt-cache", "show", "--no-all-versions", name)[0]
        except ProcessError as error:
            raise self._missing(name) from error
        for fields in _paragraphs(text):
            if fields.get("Package") == name:
                return _package(fields)
        raise self._missing(name)

    def names(self, prefix: str) -> list[str]:
        """The names of all packages that begin with ``prefix``. Raises ArchiveError if there are none."""
        names = sorted(self._run("apt-cache", "pkgnames", prefix)[0].split())
        if not names:
            raise self._missing(f"{prefix}*")
        return names

    def closure(self, name: str, wanted: re.Pattern[str]) -> list[Package]:
        """A package and those that it depends on, as apt would install them on an empty system.

        Only those whose names match ``wanted``, the package itself first. Raises ArchiveError.
        """
        try:
            said = self._run("apt-get", "-qq", "--simulate", "--no-install-recommends", "install", name)[0]
            names = [found for found in re.findall(r"^Inst (\S+)", said, re.MULTILINE) if wanted.fullmatch(found)]
            text = self._run("apt-cache", "show", "--no-all-versions", *names)[0]
        except ProcessError as error:
            raise self._missing(name) from error
        packages = [_package(fields) for fields in _paragraphs(text) if fields.get("Package") in names]
        return sorted(packages, key=lambda package: package.name != name)

    def unpack(self, packages: Sequence[Package], into: Path) -> None:
        """Download packages (apt verifies them) and unpack their files into a directory.

        Raises ArchiveError if one can't be had, DiskFullError, NooksError if it can't be unpacked.
        """
        into.mkdir(parents=True, exist_ok=True)
        downloads = into / ".packages"
        downloads.mkdir()
        size_bytes = sum(package.size_bytes for package in packages)
        cache.require_space(into, size_bytes + sum(package.installed_bytes for package in packages))
        what = packages[0].name if len(packages) == 1 else f"{len(packages)} packages"
        self._progress(f"downloading {what} ({size_bytes / 1e6:.0f} MB)", 0, size_bytes)
        try:
            exact = [package.exact for package in packages]
            self._run("apt-get", "-qq", "download", *exact, cwd=downloads, seconds=_DOWNLOAD_TIMEOUT_SECONDS)
        except ProcessError as error:
            raise ArchiveError(
                f"{what} can't be downloaded: {_complaint(str(error))}",
                "check the network and the sources of apt",
            ) from error
        self._progress(f"unpacking {what}")
        for archive in sorted(downloads.glob("*.deb")):
            run(["dpkg-deb", "--extract", str(archive), str(into)], timeout_seconds=_UNPACK_TIMEOUT_SECONDS)
        shutil.rmtree(downloads)

    def _prepare(self) -> None:
        for folder in ("state/lists/partial", "cache/archives/partial"):
            (self._root / folder).mkdir(parents=True, exist_ok=True)
        (self._root / "status").touch()
        text = _CONFIGURATION + (_OTHER_SUITE if self._suite else "")
        text = text.format(architecture=self.architecture, root=self._root, suite=self._suite)
        configuration = self._root / "apt.conf"
        if not configuration.exists() or configuration.read_text() != text:
            cache.write_file(configuration, text)
        if self._suite and not (self._root / "sources.list").exists():
            cache.write_file(self._root / "sources.list", _sources(self._suite))

    def _index_age_seconds(self) -> float:
        try:
            return abs(time.time() - (self._root / "updated").stat().st_mtime)
        except FileNotFoundError:
            return float("inf")

    def _update(self) -> None:
        """Fetch the index. A suite that fails is no matter as long as others bring what is wanted."""
        cache.require_space(self._root, _INDEX_BYTES)
        self._progress(f"reading the package index for {self.architecture}")
        try:
            # Without a source that works, apt only warns.
            _, said = self._run("apt-get", "-q", "update", seconds=_UPDATE_TIMEOUT_SECONDS)
        except ProcessError as error:
            said = str(error)
        self._trouble = _complaint(said)
        if not any((self._root / "state/lists").glob("*_Packages*")):
            raise ArchiveError(
                f"no package index for {self.architecture} could be read: {self._trouble or 'no source has one'}",
                "check the network and the sources of apt",
            )
        if self._trouble:
            self._progress(f"not all package indexes could be read: {self._trouble}")
        (self._root / "updated").touch()

    def _run(self, program: str, *arguments: str, cwd: Path | None = None, seconds: float = 60.0) -> tuple[str, str]:
        """What a program of apt printed, and what it complained of."""
        argv = [program, "-c", str(self._root / "apt.conf"), *arguments]
        done = run(argv, timeout_seconds=seconds, cwd=cwd, env={**os.environ, "LC_ALL": "C"})
        return done.stdout, done.stderr

    def _missing(self, name: str) -> NotInArchiveError:
        why = f" ({self._trouble})" if self._trouble else ""
        return NotInArchiveError(
            f"the package archive has no {name} for {self.architecture}{why}", "check the sources of apt"
        )


def _sources(suite: str) -> str:
    """Sources for another Debian release on the mirrors that the machine uses (sources.list(5))."""
    fields = "$(ORIGIN) $(REPO_URI) $(RELEASE) $(COMPONENT)"
    targets = run(["apt-get", "indextargets", "--format", fields, "Created-By: Packages"]).stdout.splitlines()
    known = [target.split() for target in targets if target.startswith(f"{_DEBIAN} ") and target.endswith(" main")]
    options = f"[signed-by={_DEBIAN_KEYS}] " if _DEBIAN_KEYS.exists() else ""
    base = suite.removesuffix(_BACKPORTS)
    lines: dict[str, None] = {}
    for _, uri, release, component in known:
        pocket = release[release.index("-") :] if "-" in release else ""
        if pocket != _BACKPORTS:
            lines[f"deb {options}{uri} {base}{pocket} {component}\n"] = None
        if not pocket and suite != base:
            lines[f"deb {options}{uri} {suite} {component}\n"] = None
    return "".join(lines)


def _paragraphs(text: str) -> list[dict[str, str]]:
    """Control data as apt-cache prints it: paragraphs of "Field: value" (deb-control(5)); no continuation lines."""
    matches = (re.findall(r"^([A-Za-z][\w-]*): (.*)$", part, re.MULTILINE) for part in text.split("\n\n"))
    return [dict(fields) for fields in matches]


def _package(fields: dict[str, str]) -> Package:
    relations = [*fields.get("Pre-Depends", "").split(","), *fields.get("Depends", "").split(",")]
    names = (re.match(r"\s*([a-z0-9][a-z0-9+.-]+)", relation) for relation in relations)
    return Package(
        name=fields["Package"],
        version=fields["Version"],
        architecture=fields["Architecture"],
        size_bytes=int(fields.get("Size", "0")),
        installed_bytes=int(fields.get("Installed-Size", "0")) << 10,
        depends=tuple(match[1] for match in names if match),
    )


def _complaint(text: str) -> str:
    """The most telling line of what apt said: the first that it marks as an error or a warning, else the last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for mark in ("E:", "W:"):
        for line in lines:
            if mark in line:
                return line.partition(mark)[2].strip()[:300]
    return lines[-1][:300] if lines else ""

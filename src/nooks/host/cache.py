"""Directories that are made once and then shared: kernels, userlands, images, snapshots.

An entry is a directory ``CACHE/KIND/KEY``. It is built under another name, recorded in a manifest (size, modification
time and SHA-256 of each file), written to disk, and renamed into place, so that it is there wholly or not at all. On
use the sizes and times are compared; what differs is hashed, and what is damaged is built again. A lock per entry
keeps two processes from building the same thing twice, and says which half-built directories belong to the dead.

This module must not know what is in an entry.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Collection, Generator
from dataclasses import dataclass
from pathlib import Path

from nooks.host import paths
from nooks.host.errors import NooksError

MANIFEST = ".manifest.json"
"""The name of the manifest inside an entry."""

_FORMAT = 1
_FEW_FILES = 64
"""Up to this many files are written through one by one; in larger trees the sizes tell what a power cut took."""
_LOW_BYTES = 4 << 20
"""With less than this left, a failed build is put down to the disk being full."""
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,200}")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_ABANDONED_SECONDS = 3600.0
"""Nothing takes so long to be built."""


class DiskFullError(NooksError):
    """There is no space left where the cache is."""


@dataclass(frozen=True)
class FileRecord:
    """What the manifest says of one file. A symbolic link has its target's text hashed and its own size."""

    size_bytes: int
    modified_ns: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """All files of an entry, by their names relative to it, and a digest over names and contents."""

    digest: str
    files: dict[str, FileRecord]


def entry(
    kind: str,
    key: str,
    build: Callable[[Path], None],
    *,
    watch: Collection[str] | None = None,
    thorough: bool = False,
) -> Path:
    """The directory of an entry, built by ``build(directory)`` if it is missing or damaged.

    ``kind`` and ``key`` are plain names; the key must tell everything that the content depends on. ``watch`` are the
    relative names of the files to look at on this use (None: all). ``thorough`` hashes them instead of trusting their
    sizes and times. ``build`` gets an empty directory and leaves regular files, links and directories in it; they
    become readable by everybody, since QEMU opens them under another user id.

    Raises DiskFullError, NooksError if the cache can't be written, and whatever ``build`` raises. Nothing
    half-made is left, also after an interrupt.
    """
    place = _place(kind, key)
    if is_sound(place, watch=watch, thorough=thorough):
        return place
    with _explained(place.parent), _locked(place):
        # Somebody else may have built it while we waited for the lock.
        if not is_sound(place, watch=watch, thorough=thorough):
            _sweep(place)
            _make(place, build)
    return place


def find(kind: str, key: str, *, watch: Collection[str] | None = None) -> Path | None:
    """The directory of an entry if it is there and sound, otherwise None. Never builds."""
    place = _place(kind, key)
    return place if is_sound(place, watch=watch) else None


def keys(kind: str) -> list[str]:
    """The keys of the entries of a kind, the most recently used first. They may be damaged."""
    return [place.name for _, place in _by_use(kind)]


def manifest(place: Path) -> Manifest:
    """The manifest of an entry. Raises NooksError if it is missing or unreadable."""
    found = _read_manifest(place)
    if found is None:
        raise NooksError(f"the cache entry {place} has no valid manifest", "remove it; it will be made again")
    return found


def is_sound(place: Path, *, watch: Collection[str] | None = None, thorough: bool = False) -> bool:
    """Whether an entry is there and its files (or those in ``watch``) are what they were when it was made."""
    found = _read_manifest(place)
    if found is None:
        return False
    names = found.files if watch is None else watch
    return all(name in found.files and _is_intact(place / name, found.files[name], thorough=thorough) for name in names)


def discard(kind: str, key: str) -> None:
    """Remove an entry. Who has its files open keeps them."""
    place = _place(kind, key)
    if place.exists():
        with _explained(place.parent), _locked(place):
            _remove(place)


def prune(kind: str, *, keep: int, unused_seconds: float) -> list[str]:
    """Remove entries that are neither among the ``keep`` last used nor used within ``unused_seconds``.

    Returns the removed keys. What is being built or replaced just now is left alone.
    """
    removed: list[str] = []
    for used_ns, place in _by_use(kind)[keep:]:
        if time.time_ns() - used_ns > unused_seconds * 1e9:
            with contextlib.suppress(BlockingIOError), _locked(place, wait=False):
                _remove(place)
                removed.append(place.name)
    return removed


def touch(place: Path) -> None:
    """Note that an entry is in use, for ``prune``."""
    with contextlib.suppress(OSError):
        os.utime(_lock_path(place))


def directory(kind: str) -> Path:
    """A plain directory of the cache, made if missing. Raises NooksError if that can't be."""
    place = paths.cache_dir() / kind
    with _explained(place):
        place.mkdir(mode=0o755, parents=True, exist_ok=True)
    return place


def require_space(place: Path, size_bytes: int) -> None:
    """Raise DiskFullError unless that much can still be written below ``place``, an existing directory."""
    free = shutil.disk_usage(place).free
    if free < size_bytes:
        raise DiskFullError(
            f"{size_bytes / 1e6:.0f} MB are needed in {paths.cache_dir()} and {free / 1e6:.0f} MB are free",
            "free some, or set XDG_CACHE_HOME to a larger file system",
        )


def write_file(path: Path, content: str) -> None:
    """Replace a small file atomically. Raises DiskFullError."""
    with _explained(path.parent):
        descriptor, name = tempfile.mkstemp(prefix=".new.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(content)
                file.flush()
                os.fchmod(descriptor, 0o644)
                os.fsync(descriptor)
            Path(name).rename(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def exclusive(path: Path) -> Generator[None]:
    """Hold an advisory lock named by ``path`` (a file beside it is locked) for the length of a block."""
    with _explained(path.parent), _locked(path):
        yield


def _place(kind: str, key: str) -> Path:
    if not _KEY.fullmatch(key):
        raise ValueError(f"{key!r} can't be the key of a cache entry")
    return paths.cache_dir() / kind / key


def _by_use(kind: str) -> list[tuple[int, Path]]:
    root = paths.cache_dir() / kind
    if not root.is_dir():
        return []
    entries = (path for path in root.iterdir() if not path.name.startswith(".") and path.is_dir())
    return sorted(((_used_ns(path), path) for path in entries), reverse=True)


def _used_ns(place: Path) -> int:
    try:
        return _lock_path(place).stat().st_mtime_ns
    except OSError:
        return 0


# --- building ---------------------------------------------------------------------------------------------------


def _make(place: Path, build: Callable[[Path], None]) -> None:
    temporary = Path(tempfile.mkdtemp(prefix=f".new.{place.name}.", dir=place.parent))
    try:
        content = temporary / "content"
        content.mkdir(mode=0o755)
        build(content)
        _seal(content)
        if place.exists():
            place.rename(temporary / "damaged")
        content.rename(place)
        _sync(place.parent)
    except (OSError, NooksError) as error:
        if not _is_full(error, temporary):
            raise
        raise _full_error(place.parent) from error
    finally:
        _remove(temporary)


def _seal(content: Path) -> None:
    """Make everything readable, write the manifest and get it all to disk."""
    records: dict[str, FileRecord] = {}
    directories = [content]
    for parent, folder_names, file_names in os.walk(content):
        directories += [Path(parent, name) for name in folder_names if not Path(parent, name).is_symlink()]
        links = [name for name in folder_names if Path(parent, name).is_symlink()]
        for name in sorted(file_names + links):
            path = Path(parent, name)
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)
            records[str(path.relative_to(content))] = _record(path)
    few = len(records) <= _FEW_FILES
    for folder in directories:
        folder.chmod(0o755)
    if few:
        for path in [content / name for name in records] + directories:
            if not path.is_symlink():
                _sync(path)
    _write_manifest(content, records)


def _write_manifest(content: Path, records: dict[str, FileRecord]) -> None:
    ordered = {name: records[name] for name in sorted(records)}
    digest = hashlib.sha256("".join(f"{n}\0{r.sha256}\n" for n, r in ordered.items()).encode()).hexdigest()
    files = {name: [r.size_bytes, r.modified_ns, r.sha256] for name, r in ordered.items()}
    path = content / MANIFEST
    path.write_text(json.dumps({"format": _FORMAT, "digest": digest, "files": files}))
    path.chmod(0o644)
    _sync(path)
    _sync(content)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(place: Path) -> None:
    """Remove a tree. It goes out of sight first, so that a half-removed one is never taken for an entry."""
    if not place.name.startswith("."):
        hidden = Path(tempfile.mkdtemp(prefix=f".new.{place.name}.", dir=place.parent))
        with contextlib.suppress(FileNotFoundError):
            place.rename(hidden / "removed")
        place = hidden
    shutil.rmtree(place, ignore_errors=True)


def _sweep(locked: Path) -> None:
    """Remove what dead processes left: old directories under construction whose entry nobody has locked.

    Old, because locks of other machines that share the cache (lab machines do, by 9p) can't be seen. The caller
    holds the lock of ``locked``, the entry that it is about to build, so what is there of it is dead.
    """
    for path in locked.parent.glob(".new.*"):
        if not path.is_dir():
            continue
        place = locked.parent / path.name.removeprefix(".new.").rpartition(".")[0]
        if place == locked:
            _remove(path)
            continue
        if time.time() - path.stat().st_mtime < _ABANDONED_SECONDS:
            continue
        with contextlib.suppress(BlockingIOError), _locked(place, wait=False):
            _remove(path)


# --- locks ------------------------------------------------------------------------------------------------------


def _lock_path(place: Path) -> Path:
    return place.parent / f".lock.{place.name}"


@contextlib.contextmanager
def _locked(place: Path, *, wait: bool = True) -> Generator[None]:
    path = _lock_path(place)
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


# --- checking ---------------------------------------------------------------------------------------------------


def _read_manifest(place: Path) -> Manifest | None:
    try:
        document = json.loads((place / MANIFEST).read_bytes())
        if document["format"] != _FORMAT:
            return None
        files = {str(name): FileRecord(int(r[0]), int(r[1]), str(r[2])) for name, r in document["files"].items()}
        return Manifest(str(document["digest"]), files)
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        return None


def _is_intact(path: Path, record: FileRecord, *, thorough: bool) -> bool:
    try:
        status = path.lstat()
        if status.st_size != record.size_bytes:
            return False
        if status.st_mtime_ns == record.modified_ns and not thorough:
            return True
        return _record(path).sha256 == record.sha256
    except OSError:
        return False


def _record(path: Path) -> FileRecord:
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        digest = hashlib.sha256(os.fsencode(path.readlink())).hexdigest()
    else:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileRecord(status.st_size, status.st_mtime_ns, digest)


# --- errors -----------------------------------------------------------------------------------------------------


def _is_full(error: OSError | NooksError, place: Path) -> bool:
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    if "No space left on device" in str(error):  # said by a program that ran for us
        return True
    return isinstance(error, NooksError) and shutil.disk_usage(place).free < _LOW_BYTES


def _full_error(place: Path) -> DiskFullError:
    return DiskFullError(f"no space left in {place}", "free some, or set XDG_CACHE_HOME to a larger file system")


@contextlib.contextmanager
def _explained(place: Path) -> Generator[None]:
    """Turn what the system says about the cache directory into errors for users."""
    try:
        yield
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno in _FULL:
            raise _full_error(place) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOENT):
            raise NooksError(
                f"the cache directory {place} can't be written: {error.strerror}",
                "mend its permissions, or set XDG_CACHE_HOME to another directory",
            ) from error
        raise

"""Network namespaces: named ones as ``ip netns`` makes them, anonymous ones as descriptors, and entering one.

A namespace belongs to a thread. Making one happens on a thread of its own, which then dies, so that nothing has to
be switched back; entering one is for a ``with`` block without ``await`` in it.
"""

import contextlib
import ctypes
import os
import threading
from collections.abc import Callable, Generator
from pathlib import Path

from nooks.host.errors import InputError, MachineError, NooksError

NETNS_DIRECTORY = Path("/run/netns")
"""Where ``ip netns`` keeps its bind mounts (ip-netns(8))."""

_OWN = "/proc/thread-self/ns/net"
_CLONE_NEWNET = 0x40000000
_MS_BIND = 0x1000
_MS_REC = 0x4000
_MS_SHARED = 0x100000
_MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


def exists(name: str) -> bool:
    """Whether there is a namespace of this name."""
    return _path(name).exists()


def make(name: str) -> None:
    """Make a named namespace, visible to ``ip netns``.

    Raises InputError if the name is taken or no file name, MachineError if the kernel refuses (not root, say).
    """
    path = _path(name)
    try:
        _share_directory()
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o444))
    except FileExistsError:
        raise InputError(f"the network namespace {name} exists already", "choose another name") from None
    except OSError as error:
        raise _refused(f"make the network namespace {name}", error) from None

    def bind() -> None:
        _unshare()
        _mount(_OWN, path, _MS_BIND)

    try:
        _on_own_thread(bind)
    except OSError as error:
        path.unlink()
        raise _refused(f"make the network namespace {name}", error) from None


def remove(name: str) -> None:
    """Remove a named namespace; it goes when its last process and interface go. Nothing happens if it is gone.

    Raises MachineError if the kernel refuses.
    """
    path = _path(name)
    if not path.exists():
        return
    try:
        with contextlib.suppress(OSError):  # no mount: a make() that was killed half-way
            _call(_libc.umount2, os.fsencode(path), _MNT_DETACH)
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _refused(f"remove the network namespace {name}", error) from None


def open_named(name: str) -> int:
    """A descriptor of a named namespace; the caller closes it. Raises InputError if there is none."""
    try:
        return os.open(_path(name), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise InputError(f"there is no network namespace {name}", f"make it: ip netns add {name}") from None


def open_current() -> int:
    """A descriptor of the calling thread's namespace; the caller closes it."""
    return os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)


def empty_netns() -> int:
    """A descriptor of a new, empty, anonymous namespace, which lives until the last holder closes it.

    Raises MachineError if the kernel refuses.
    """
    made: list[int] = []

    def make_it() -> None:
        _unshare()
        made.append(open_current())

    try:
        _on_own_thread(make_it)
    except OSError as error:
        raise _refused("make a network namespace", error) from None
    return made[0]


@contextlib.contextmanager
def entered(netns: int | None) -> Generator[None]:
    """The calling thread is in the namespace with this descriptor for the block (None: stays where it is).

    No ``await`` in the block: other coroutines of this thread would be there too; and no new threads, which would
    stay there. Raises MachineError.
    """
    if netns is None:
        yield
        return
    home = open_current()
    try:
        try:
            _setns(netns)
        except OSError as error:
            raise _refused("enter a network namespace", error) from None
        try:
            yield
        finally:
            _setns(home)
    finally:
        os.close(home)


def _path(name: str) -> Path:
    if not name or "/" in name or name in (".", "..") or len(name) > 255:
        raise InputError(f"{name!r} cannot name a network namespace", "use letters, digits and dashes")
    return NETNS_DIRECTORY / name


def _share_directory() -> None:
    """As ip-netns(8): make the directory a shared mount, so that an unmount reaches every mount namespace."""
    NETNS_DIRECTORY.mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        _mount(None, NETNS_DIRECTORY, _MS_SHARED | _MS_REC)
    except OSError:  # it is no mount point yet
        _mount(str(NETNS_DIRECTORY), NETNS_DIRECTORY, _MS_BIND | _MS_REC)
        _mount(None, NETNS_DIRECTORY, _MS_SHARED | _MS_REC)


def _on_own_thread(function: Callable[[], None]) -> None:
    failure: list[OSError] = []

    def body() -> None:
        try:
            function()
        except OSError as error:
            failure.append(error)

    thread = threading.Thread(target=body, name="netns")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]


def _unshare() -> None:
    _call(_libc.unshare, _CLONE_NEWNET)


def _setns(netns: int) -> None:
    _call(_libc.setns, netns, _CLONE_NEWNET)


def _mount(source: str | None, target: Path, flags: int) -> None:
    origin = b"none" if source is None else os.fsencode(source)
    _call(_libc.mount, origin, os.fsencode(target), b"none", ctypes.c_ulong(flags), None)


def _call(function: Callable[..., int], *arguments: object) -> None:
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _refused(what: str, error: OSError) -> NooksError:
    return MachineError(f"cannot {what}: {error.strerror}", "run as root, with network namespaces in the kernel")

"""The domain's own system: file systems, modules, fail-stop settings, real time, clock, randomness.

Knows nothing of drivers' classes.
"""

import ctypes
import fcntl
import os
import struct
import time

_POINTER_BYTES = struct.calcsize("P")
_FINIT_MODULE = 313 if _POINTER_BYTES == 8 else 350  # arch/x86/entry/syscalls/syscall_{64,32}.tbl
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_EEXIST = 17
# include/uapi/linux/random.h; _IOW of int[2], and _IO
_RNDADDENTROPY = 0x40085203
_RNDRESEEDCRNG = 0x5207

# Everything that a healthy system would survive somehow ends the domain: the supervisor has a better cure.
# Times in seconds. hung_task: a task that a driver never wakes; the watchdogs: a CPU that schedules no more.
FAIL_STOP = (
    ("kernel/panic", "-1"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/softlockup_panic", "1"),
    ("kernel/hardlockup_panic", "1"),
    ("kernel/hung_task_panic", "1"),
    ("kernel/hung_task_timeout_secs", "10"),
    ("kernel/panic_on_rcu_stall", "1"),
    ("vm/panic_on_oom", "1"),
    ("kernel/sysrq", "1"),
)

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def mount_all() -> None:
    """Mount proc, sysfs, devtmpfs and a /run of 1 MiB. Raises OSError."""
    for kind, place, options in (
        (b"proc", b"/proc", None),
        (b"sysfs", b"/sys", None),
        (b"devtmpfs", b"/dev", None),
        (b"tmpfs", b"/run", b"size=1m"),
    ):
        os.makedirs(place, exist_ok=True)  # noqa: PTH103 - pathlib costs too much here
        _checked(_libc.mount(kind, place, kind, 0, options), place.decode())


def write(path: str, text: str) -> None:
    """Write ``text`` to a file of /proc or /sys. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def read(path: str) -> str:
    """The text of a file of /proc or /sys. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        pieces: list[bytes] = []
        while piece := os.read(descriptor, 65536):
            pieces.append(piece)
    finally:
        os.close(descriptor)
    return b"".join(pieces).decode("ascii", "replace")


def set_fail_stop() -> list[str]:
    """Apply FAIL_STOP; returns what this kernel does not have."""
    missing: list[str] = []
    for name, value in FAIL_STOP:
        try:
            write(f"/proc/sys/{name}", value)
        except OSError:
            missing.append(name)
    return missing


def insert_module(path: str, parameters: str = "") -> bool:
    """Insert the module in the file ``path``; False if the kernel has it already. Raises OSError naming the file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _checked(_libc.syscall(_FINIT_MODULE, descriptor, parameters.encode(), 0), path)
    except OSError as error:
        if error.errno != _EEXIST:
            raise
        return False
    finally:
        os.close(descriptor)
    return True


def make_real_time(priority: int) -> None:
    """Run this process under SCHED_FIFO and keep its memory. Raises OSError.

    Pages are locked once touched (MCL_ONFAULT): locking all at once would touch the whole interpreter.
    """
    _checked(_libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT), "mlockall")
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))


def set_clock(time_ns: int) -> None:
    """Set the time of day, in nanoseconds since 1970."""
    time.clock_settime_ns(time.CLOCK_REALTIME, time_ns)


def add_entropy(seed: bytes) -> None:
    """Mix ``seed`` into the kernel's randomness at once: two domains of one snapshot must not be twins.

    Source: random(4), RNDADDENTROPY and RNDRESEEDCRNG.
    """
    descriptor = os.open("/dev/urandom", os.O_WRONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _RNDADDENTROPY, struct.pack("@ii", 8 * len(seed), len(seed)) + seed)
        fcntl.ioctl(descriptor, _RNDRESEEDCRNG)
    finally:
        os.close(descriptor)


def uptime_seconds() -> float:
    """Seconds since the domain's kernel started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Unable(Exception):  # noqa: N818 - an answer for people, not a defect
    """What was asked for can't be done; the text says why, in words that the host shows to its user as they are."""


def wait_for_device(files: "list[str]", seconds: float) -> None:
    """Return once a driver of these modules has claimed a device, or if none of them registered with a bus.

    A PCI driver has claimed its cards when its module is in. Raises Unable if none did within ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while True:
        drivers = [driver for file in files for driver in _drivers_of(file)]
        if not drivers or any(_devices_of(driver) for driver in drivers):
            return
        if time.monotonic() > deadline:
            raise Unable("it found no device that it knows")
        time.sleep(0.01)


def _drivers_of(file: str) -> "list[str]":
    """The folders of the drivers that a module registered, from /sys/module/NAME/drivers."""
    folder = f"/sys/module/{_module_name(file)}/drivers"
    try:
        return [f"{folder}/{each}" for each in os.listdir(folder)]  # noqa: PTH208
    except OSError:
        return []


def _devices_of(driver: str) -> "list[str]":
    links = (each for each in os.listdir(driver) if each != "module")  # noqa: PTH208
    return [each for each in links if os.path.islink(f"{driver}/{each}")]  # noqa: PTH114


def _module_name(file: str) -> str:
    return file.removesuffix(".ko").replace("-", "_")


def code_sections(files: "list[str]") -> "dict[str, dict[str, int]]":
    """Where the code of loaded modules lies: section to address by module, from /sys/module/NAME/sections."""
    found: dict[str, dict[str, int]] = {}
    for file in files:
        name = _module_name(file)
        folder = f"/sys/module/{name}/sections"
        try:
            names = [each for each in os.listdir(folder) if each.startswith(".text")]  # noqa: PTH208
        except OSError:
            continue
        found[name] = {}
        for each in names:
            with open(f"{folder}/{each}") as section:
                found[name][each] = int(section.read(), 16)
    return found

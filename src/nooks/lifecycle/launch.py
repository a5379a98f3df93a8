"""Starting, adopting and re-arming nooks: names, daemons, images, and cleaning up after what went wrong.

It knows how a nook's processes are started and told apart, not what they do. ``nooks start`` prepares the image here,
in the foreground, while the supervisor's process (``standby``) imports.
"""

import json
import os
import select
import shutil
import signal
import time
from collections.abc import Generator, Iterable
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from nooks.drivers import Driver, complete, suggestion
from nooks.host.errors import InputError, MachineError, NooksError, StateError
from nooks.host.paths import cache_dir, log_dir, nook_dir
from nooks.image.progress import Progress, quiet
from nooks.keeper.client import KeeperClient, KeeperGone
from nooks.keeper.start import reap_daemons, start_keeper
from nooks.lifecycle.contact import connect
from nooks.nook.claims import IMAGE, NAMESPACE, SPEC, Claim, NameTaken, claim
from nooks.nook.control import ControlGone, listen, result_of
from nooks.nook.standby import SUPERVISOR_KEY, Standby
from nooks.spec import Spec, absolute_kernel

if TYPE_CHECKING:
    from nooks.image.kernel import Kernel

READY_SECONDS = 300.0
CANCEL_SECONDS = 15.0
QUIT_SECONDS = 2.0
CLAIM_SECONDS = 0.05
"""Long enough to outlast another command's glance at the lock."""

DEVICES_REMEMBERED = 64

LOG_BYTES_MAX = 1 << 20
_LOG_TAIL_BYTES = 4096


def start(spec: Spec, progress: Progress = quiet, *, standby: Standby | None = None) -> dict[str, Any]:
    """Start the nook ``spec``, or adopt or re-arm the one of that name; returns when applications can use it.

    Takes ``standby`` over. Interrupted or failed, it leaves nothing behind (an adoption leaves the orphan as it was).
    Raises InputError, MachineError, StateError, or what the supervisor reports.
    """
    with ExitStack() as stack:
        if standby is not None:
            stack.enter_context(standby)
        spec, driver = complete(spec)
        check_machine(spec)
        waiting = standby or stack.enter_context(Standby())
        try:
            claimed = claim(spec.name, within_seconds=CLAIM_SECONDS)
        except NameTaken:
            return _rearm(spec.name)
        with claimed:
            keeper = _living_keeper(claimed)
            if keeper is None:
                return _start_fresh(claimed, spec, driver, progress, waiting)
            with keeper:
                recorded = _recorded_spec(claimed)
                if recorded != spec:
                    raise StateError(
                        f"an orphaned nook {spec.name} with another specification is there",
                        f"adopt it with 'nooks start {spec.name}', or end it with 'nooks stop {spec.name}'",
                    )
                return _adopt(claimed, keeper, waiting)


def resume(name: str, progress: Progress = quiet, *, standby: Standby | None = None) -> dict[str, Any]:
    """``nooks start NAME``: adopt the nook whose supervisor died, re-arm a degraded one, or start it over.

    Raises InputError if there is no such nook, StateError if it runs, and whatever ``start`` raises.
    """
    with ExitStack() as stack:
        if standby is not None:
            stack.enter_context(standby)
        directory = nook_dir(name)
        if not (directory / SPEC).exists():
            raise InputError(
                f"there is no nook {name}",
                f"start one with 'nooks start --name {name} --driver DRIVER', or name a specification file",
            )
        try:
            claimed = claim(name, within_seconds=CLAIM_SECONDS)
        except NameTaken:
            return _rearm(name)
        with claimed:
            spec = _recorded_spec(claimed)
            check_machine(spec)
            waiting = standby or stack.enter_context(Standby())
            keeper = _living_keeper(claimed)
            if keeper is not None:
                with keeper:
                    return _adopt(claimed, keeper, waiting)
            spec, driver = complete(spec)
            return _start_fresh(claimed, spec, driver, progress, waiting)


def restart(name: str, kernel: str | None = None, progress: Progress = quiet) -> dict[str, Any]:
    """``nooks restart``: planned failover, with the image of another ``kernel`` made ready first; the same result.

    Raises UnknownNook, ControlGone, what ``prepare_image`` raises, or what the supervisor says.
    """
    arguments: dict[str, Any] = {"kernel": kernel}
    with connect(name) as control:
        if kernel is not None:
            spec = Spec.from_json((nook_dir(name) / SPEC).read_bytes())
            spec, driver = complete(msgspec.structs.replace(spec, kernel=absolute_kernel(kernel)))
            arguments = {"kernel": spec.kernel, "image": prepare_image(spec, driver, progress)}
        return control.request("restart", arguments, timeout_seconds=READY_SECONDS)


def prepare_image(spec: Spec, driver: Driver, progress: Progress = quiet) -> dict[str, Any]:
    """Resolve the kernel and build the image of a driver; returns what goes into ``image.json``.

    Raises InputError if the kernel or the module does not exist, NooksError if they can't be had.
    """
    from nooks.image import initramfs, kernel

    resolved = kernel.resolve(spec.kernel, driver.flavour, progress)
    try:
        image = initramfs.build(resolved, [driver.module], firmware=driver.firmware, progress=progress)
    except InputError as error:
        if driver.known:
            raise
        raise InputError(error.message, error.fix or suggestion(driver.name)) from None
    return {
        "kernel": resolved.version,
        "flavour": resolved.flavour,
        "vmlinux": str(resolved.vmlinux),
        "initramfs": str(image.initramfs),
        "digest": image.digest,
        "base_order": list(image.base_order),
        "load_order": list(image.load_order),
        "parameters": {driver.module: driver.parameters},
        "module_files": _module_files(resolved, image.load_order) if spec.debug else {},
    }


def _module_files(kernel: "Kernel", names: Iterable[str]) -> dict[str, str]:
    """Where the modules of an image are on the host, for the injector, which reads their code."""
    from nooks.image.modules import ModuleTree

    tree = ModuleTree(kernel.modules, kernel.version)
    found = {name: tree.find(name) for name in names}
    return {name: str(module.path) for name, module in found.items() if module is not None}


def check_machine(spec: Spec) -> None:
    """Quick checks of what a nook needs, so that the commonest lacks are told in one line. Raises MachineError."""
    if os.geteuid() != 0:
        raise MachineError(f"a {spec.driver_class} nook needs root", "run the command with sudo")
    if not Path("/dev/net/tun").exists():
        raise MachineError("/dev/net/tun is missing", "load it with 'modprobe tun', or grant it to this container")
    if shutil.which("qemu-system-x86_64") is None:
        raise MachineError("QEMU is not installed", "apt-get install qemu-system-x86")


def check_emulator(spec: Spec) -> None:
    """Whether QEMU is new enough and takes the device; asked once for each build of QEMU, since that takes 50 ms.

    Raises MachineError or InputError.
    """
    from nooks.device.emulated import network_trial
    from nooks.domain import qemu
    from nooks.host import cache

    path, build, device = cache_dir() / "qemu.json", qemu.version_text(), spec.parsed_device
    record: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        record = json.loads(path.read_bytes())
    if record.get("build") != build:
        qemu.check_version()
        record = {"build": build}
    elif device.kind != "emulated" or spec.device in record.get("taken", ()):
        return
    if device.kind == "emulated":
        qemu.check_device(device.model, network_trial(device.model, device.options))
        record["taken"] = [*record.get("taken", ()), spec.device][-DEVICES_REMEMBERED:]
    path.parent.mkdir(parents=True, exist_ok=True)
    cache.write_file(path, json.dumps(record))


def _rearm(name: str) -> dict[str, Any]:
    """What ``start`` does when somebody holds the name: re-arm a degraded nook, refuse otherwise."""
    try:
        with connect(name) as control:
            state = control.request("status", timeout_seconds=2.0)["state"]
            if state == "degraded":
                return control.request("rearm", timeout_seconds=READY_SECONDS)
    except ControlGone:
        raise StateError(f"another command is starting or stopping {name}", "wait for it to finish") from None
    if state == "starting":
        raise StateError(f"another command is starting {name}", "wait for it to finish")
    raise StateError(f"{name} runs already ({state})", f"'nooks stop {name}' stops it; or choose another name")


def _recorded_spec(claimed: Claim) -> Spec:
    try:
        return Spec.from_json((claimed.directory / SPEC).read_bytes())
    except OSError:
        raise StateError(
            f"{claimed.name} has lost its specification", f"end it with 'nooks stop {claimed.name} --force'"
        ) from None


def _living_keeper(claimed: Claim) -> KeeperClient | None:
    """The keeper of a nook that was left behind, if it is there and holds something."""
    try:
        keeper = KeeperClient.connect(claimed.keeper)
    except KeeperGone:
        return None
    if any(key != SUPERVISOR_KEY for key in keeper.list()):
        return keeper
    keeper.quit()
    keeper.close()
    return None


def _start_fresh(claimed: Claim, spec: Spec, driver: Driver, progress: Progress, standby: Standby) -> dict[str, Any]:
    keeper: KeeperClient | None = None
    try:
        if (claimed.directory / SPEC).exists():  # its keeper is dead, or we would adopt
            _bury(claimed)
        claimed.clear()
        if Path("/sys/class/net", spec.name).exists():
            raise InputError(f"an interface {spec.name} exists already", "choose another --name")
        with _log(spec.name) as log:
            _, keeper = start_keeper(claimed.keeper, output=log)
            check_emulator(spec)
            image = prepare_image(spec, driver, progress)
            _write(claimed.directory / SPEC, spec.to_json())
            _write(claimed.directory / IMAGE, json.dumps(image, indent=1).encode())
            _note_namespace(claimed, spec)
            return _become_ready(claimed, keeper, standby, log)
    except BaseException:
        _abandon(claimed, keeper, standby)
        raise
    finally:
        if keeper is not None:
            keeper.close()


def _adopt(claimed: Claim, keeper: KeeperClient, standby: Standby) -> dict[str, Any]:
    try:
        with _log(claimed.name) as log:
            return _become_ready(claimed, keeper, standby, log)
    except BaseException:
        with _uninterrupted():
            standby.end(grace_seconds=CANCEL_SECONDS)
        raise


def _bury(claimed: Claim) -> None:
    """End what is left of a nook whose keeper and supervisor both died; its interface goes with its domains."""
    from nooks.nook import leftovers

    leftovers.remove_namespace(claimed.name)
    if leftovers.fence(claimed.name):
        deadline = time.monotonic() + QUIT_SECONDS
        while Path("/sys/class/net", claimed.name).exists() and time.monotonic() < deadline:
            time.sleep(0.01)


def _note_namespace(claimed: Claim, spec: Spec) -> None:
    """Note the namespace that the supervisor is about to make, should it be killed before it can remove it."""
    from nooks.endpoint import netns

    tap = spec.network.tap()
    if tap is not None and tap[1] is not None and not netns.exists(tap[1]):
        _write(claimed.directory / NAMESPACE, tap[1].encode())


def _abandon(claimed: Claim, keeper: KeeperClient | None, standby: Standby) -> None:
    """Undo a start: the supervisor first, since it knows what it made."""
    with _uninterrupted():
        standby.end(grace_seconds=CANCEL_SECONDS)
        if keeper is not None:
            keeper.quit()
            keeper.wait_for_end(QUIT_SECONDS)
            reap_daemons()
        _bury(claimed)  # in case that the supervisor hung, or was killed
        claimed.remove()


@contextmanager
def _uninterrupted() -> Generator[None]:
    """In the block interrupts wait: somebody who presses Ctrl-C twice must not make us leave half a nook behind."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _become_ready(claimed: Claim, keeper: KeeperClient, standby: Standby, log: int) -> dict[str, Any]:
    """Give the supervisor its orders and wait for its word. Raises what it reports, or that it died."""
    readable, writable = os.pipe2(os.O_CLOEXEC)
    try:
        with listen(claimed.control) as control:
            try:
                standby.hand_over(
                    claimed.name,
                    lock=claimed.lock,
                    control=control.fileno(),
                    keeper=keeper.fileno(),
                    ready=writable,
                    log=log,
                )
            except OSError:
                raise _died(claimed.name) from None
            finally:
                os.close(writable)  # the supervisor alone holds it now: its death reads as end of file
        line = _read_line(readable, READY_SECONDS)
    finally:
        os.close(readable)
    if line is None:
        raise NooksError(f"{claimed.name} was not ready in {READY_SECONDS:.0f} s", f"see {_log_path(claimed.name)}")
    try:
        return result_of(json.loads(line))
    except ValueError:
        raise _died(claimed.name) from None


def _read_line(fd: int, seconds: float) -> bytes | None:
    """One line, or what came before the end of file; None after ``seconds``."""
    deadline = time.monotonic() + seconds
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    data = b""
    while not data.endswith(b"\n"):
        remaining = deadline - time.monotonic()
        if remaining <= 0 or not poll.poll(remaining * 1000):
            return None
        chunk = os.read(fd, 65536)
        if not chunk:
            break
        data += chunk
    return data


def _died(name: str) -> NooksError:
    path = _log_path(name)
    lines: list[str] = []
    with suppress(OSError):
        lines = path.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace").strip().splitlines()
    last = f": {lines[-1].strip()}" if lines else ""
    return NooksError(f"the supervisor of {name} ended before it was ready{last}", f"see {path}")


def _log_path(name: str) -> Path:
    return log_dir() / f"{name}.log"


@contextmanager
def _log(name: str) -> Generator[int]:
    """The descriptor of a nook's log, for its daemons' stderr; one old file is kept. Raises MachineError."""
    path = _log_path(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > LOG_BYTES_MAX:
            path.replace(path.with_suffix(".log.1"))
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise MachineError(
            f"the log {path} can't be written: {error.strerror}", "free some space, or set NOOKS_LOG_DIR"
        ) from None
    try:
        yield fd
    finally:
        os.close(fd)


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise MachineError(f"{path} can't be written: {error.strerror}", "free some space") from None

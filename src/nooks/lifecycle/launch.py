"""Starting, adopting and re-arming nooks: names, daemons, images, and cleaning up after what went wrong.

It knows how a nook's processes are started and told apart, not what they do. ``nooks start`` prepares the image here,
in the foreground, while the supervisor's process (``standby``) imports.
"""

import json
import os
import select
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from nooks.drivers import Driver, complete
from nooks.host import interrupts
from nooks.host.errors import InputError, MachineError, NooksError, StateError
from nooks.host.paths import log_dir, nook_dir
from nooks.image.progress import Progress, quiet
from nooks.keeper.client import KeeperClient, KeeperGone
from nooks.keeper.start import reap_daemons, start_keeper
from nooks.lifecycle.contact import connect
from nooks.lifecycle.preparing import check_emulator, check_machine, prepare_image
from nooks.nook import leftovers
from nooks.nook.claims import IMAGE, NAMESPACE, SPEC, Claim, NameTaken, claim
from nooks.nook.control import ControlGone, listen, result_of
from nooks.nook.standby import SUPERVISOR_KEY, Standby
from nooks.spec import Spec, absolute_kernel

if TYPE_CHECKING:
    from nooks.nook.possession import Possession

READY_SECONDS = 300.0
CANCEL_SECONDS = 15.0
QUIT_SECONDS = 2.0
CLAIM_SECONDS = 0.05
"""Long enough to outlast another command's glance at the lock."""

LOG_BYTES_MAX = 1 << 20
_LOG_TAIL_BYTES = 4096


def start(
    spec: Spec, progress: Progress = quiet, *, standby: Standby | None = None, force: bool = False
) -> dict[str, Any]:
    """Start the nook ``spec``, or adopt or re-arm the one of that name; returns when applications can use it.

    Takes ``standby`` over. Interrupted or failed, it leaves nothing behind (an adoption leaves the orphan as it was),
    and a real device is the host's as before; ``force`` takes one against advice. Raises InputError, MachineError,
    StateError, or what the supervisor reports.
    """
    with ExitStack() as stack:
        if standby is not None:
            stack.enter_context(standby)
        spec, driver = complete(spec)
        check_machine(spec)
        waiting = standby or stack.enter_context(Standby())
        claimed = _claim(spec.name, stack)
        if claimed is None:
            return _rearm(spec.name)
        keeper = _living_keeper(claimed)
        if keeper is None:
            return _start_fresh(claimed, spec, driver, progress, waiting, force=force)
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
        claimed = _claim(name, stack)
        if claimed is None:
            return _rearm(name)
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


def _claim(name: str, stack: ExitStack) -> Claim | None:
    """Claim a name until ``stack`` is closed; None if somebody else holds it."""
    with interrupts.Held():  # else one could come between the folder and who removes it
        try:
            return stack.enter_context(claim(name, within_seconds=CLAIM_SECONDS))
        except NameTaken:
            return None


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
    with suppress(KeeperGone):  # it may be dying just now
        if any(key != SUPERVISOR_KEY for key in keeper.list()):
            return keeper
        keeper.quit()
    keeper.close()
    return None


def _start_fresh(
    claimed: Claim, spec: Spec, driver: Driver, progress: Progress, standby: Standby, *, force: bool = False
) -> dict[str, Any]:
    keeper: KeeperClient | None = None
    try:
        if (claimed.directory / SPEC).exists():  # its keeper is dead, or we would adopt
            leftovers.clear(claimed.name)
        claimed.clear()
        possessed = _planned_possession(spec, force=force)
        with _log(spec.name) as log:
            _, keeper = start_keeper(claimed.keeper, output=log)
            check_emulator(spec)
            image = prepare_image(spec, driver, progress)
            _write(claimed.directory / SPEC, spec.to_json())
            _write(claimed.directory / IMAGE, json.dumps(image, indent=1).encode())
            _note_namespace(claimed, spec)
            if possessed is not None:  # last: from here on the host is without its device until the nook serves
                progress(f"taking {spec.device} from the host's driver")
                _take(claimed, possessed)
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
        with interrupts.Held():
            standby.end(grace_seconds=CANCEL_SECONDS)
        raise


def _planned_possession(spec: Spec, *, force: bool) -> "Possession | None":
    """What is to be taken from the host for a nook with a real device. Raises InputError, StateError if it can't be."""
    possessed: Possession | None = None
    if spec.real:
        from nooks.lifecycle import examining
        from nooks.nook import possession

        examining.check(spec.device or "", force=force)
        possessed = possession.plan(spec)
    own = possessed.taken.interfaces if possessed is not None else ()
    if spec.driver_class == "network" and Path("/sys/class/net", spec.name).exists() and spec.name not in own:
        raise InputError(f"an interface {spec.name} exists already", "choose another --name")
    return possessed


def _take(claimed: Claim, possessed: "Possession") -> None:
    from nooks.nook import possession

    possession.take(claimed.directory, possessed)


def _note_namespace(claimed: Claim, spec: Spec) -> None:
    """Note the namespace that the supervisor is about to make, should it be killed before it can remove it."""
    if spec.driver_class != "network":
        return
    from nooks.endpoint import netns

    tap = spec.network.tap()
    if tap is not None and tap[1] is not None and not netns.exists(tap[1]):
        _write(claimed.directory / NAMESPACE, tap[1].encode())


def _abandon(claimed: Claim, keeper: KeeperClient | None, standby: Standby) -> None:
    """Undo a start: the supervisor first, since it knows what it made."""
    with interrupts.Held():
        standby.end(grace_seconds=CANCEL_SECONDS)
        if keeper is not None:
            keeper.quit()
            keeper.wait_for_end(QUIT_SECONDS)
            reap_daemons()
        leftovers.clear(claimed.name)  # in case that the supervisor hung, or was killed
        claimed.remove()


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

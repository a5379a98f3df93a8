"""Launching: names, keeper and supervisor processes, adoption, and that nothing is left behind.

The supervisor's process is a stand-in (``fake_supervisor``), everything else is real.
"""

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from nooks.drivers import Driver
from nooks.host import cgroup
from nooks.host.errors import InputError, MachineError, NooksError, StateError
from nooks.host.proc import all_pids, stat_fields
from nooks.image.progress import Progress
from nooks.keeper.start import reap_daemons
from nooks.lifecycle import contact, ending, launch
from nooks.nook import claims, standby
from nooks.spec import Spec, from_flags

SUBSTITUTE = """
import sys
sys.path.insert(0, {directory!r})
import fake_supervisor, nooks
sys.modules["nooks.nook.supervisor"] = nooks.nook.supervisor = fake_supervisor
from nooks.nook import standby
sys.exit(standby.main())
"""


def children() -> set[int]:
    """The live processes that descend from this one (daemons stay our children)."""
    fields = {pid: stat_fields(pid) for pid in all_pids()}
    return {pid for pid, each in fields.items() if each and int(each[1]) == os.getpid() and each[0] != "Z"}


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """A run directory of our own; afterwards no process, descriptor or folder is left."""
    run = tmp_path / "run"
    monkeypatch.setenv("NOOKS_RUN_DIR", str(run))
    monkeypatch.setenv("NOOKS_LOG_DIR", str(tmp_path / "log"))
    monkeypatch.setenv("FAKE_SUPERVISOR", "ready")
    command = ("-I", "-c", SUBSTITUTE.format(directory=str(Path(__file__).parent)))
    monkeypatch.setattr(standby, "COMMAND", command)
    monkeypatch.setattr(launch, "prepare_image", fake_image)
    monkeypatch.setattr(launch, "check_machine", lambda spec: None)  # type: ignore[reportUnknownLambdaType]
    monkeypatch.setattr(launch, "check_emulator", lambda spec: None)  # type: ignore[reportUnknownLambdaType]
    before, descriptors = children(), len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    yield run
    monkeypatch.setenv("NOOKS_RUN_DIR", str(run))  # whatever the test did to it: never touch the machine's own nooks
    for name in list(claims.names()):
        ending.stop(name, force=True)
    eventually(lambda: children() <= before)
    assert len(os.listdir("/proc/self/fd")) == descriptors  # noqa: PTH208
    assert not run.exists() or list(run.iterdir()) == []


def fake_image(spec: Spec, driver: Driver, progress: Progress) -> dict[str, Any]:
    return {"kernel": "6.1"}


def eventually(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        reap_daemons()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def spec(name: str = "nic0", driver: str = "e1000") -> Spec:
    return from_flags({"name": name, "driver": driver})


def has_keeper(name: str) -> bool:
    keeper = contact.living(name)
    if keeper is not None:
        keeper.close()
    return keeper is not None


def kill(pid: int) -> None:
    pidfd = os.pidfd_open(pid)
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
    os.close(pidfd)
    reap_daemons()


def test_start_status_stop(surroundings: Path) -> None:
    result = launch.start(spec())
    assert (result["name"], result["adopted"]) == ("nic0", False)
    assert {path.name for path in (surroundings / "nic0").iterdir()} == {
        "lock",
        "control",
        "keeper",
        "spec.json",
        "image.json",
    }
    assert json.loads((surroundings / "nic0/image.json").read_text())["kernel"] == "6.1"
    assert os.getsid(result["pid"]) == result["pid"]
    assert contact.status("nic0")["state"] == "running"
    assert [row["name"] for row in contact.all_status()] == ["nic0"]
    assert ending.stop("nic0") == {"name": "nic0", "state": "stopped"}
    assert not (surroundings / "nic0").exists()
    assert contact.all_status() == []
    with pytest.raises(InputError, match="no nook nic0"):
        ending.stop("nic0")


def test_a_running_nook_is_not_started_again() -> None:
    launch.start(spec())
    with pytest.raises(StateError, match="nic0 runs already"):
        launch.start(spec())
    with pytest.raises(StateError, match="nic0 runs already"):
        launch.resume("nic0")
    assert contact.status("nic0")["state"] == "running"


def test_two_starts_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def slow_image(*_: object) -> dict[str, Any]:
        inside.set()
        assert go_on.wait(20)
        return {}

    monkeypatch.setattr(launch, "prepare_image", slow_image)
    results: list[dict[str, Any]] = []
    first = threading.Thread(target=lambda: results.append(launch.start(spec())))
    first.start()
    assert inside.wait(20)
    assert contact.status("nic0")["state"] == "starting"
    with pytest.raises(StateError, match="another command is starting"):
        launch.start(spec())
    go_on.set()
    first.join(20)
    assert results[0]["name"] == "nic0"


def test_an_orphan_is_adopted() -> None:
    kill(launch.start(spec())["pid"])
    assert contact.status("nic0")["state"] == "orphaned"
    assert contact.status("nic0")["driver"] == "e1000"
    result = launch.resume("nic0")
    assert result["adopted"] is True
    assert contact.status("nic0")["state"] == "running"


def test_an_orphan_is_adopted_by_the_same_specification_only() -> None:
    kill(launch.start(spec())["pid"])
    with pytest.raises(StateError, match="another specification"):
        launch.start(spec(driver="e100"))
    assert launch.start(spec())["adopted"] is True


@pytest.mark.parametrize("how", ["die", "refuse"])
def test_an_adoption_that_fails_leaves_the_orphan(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    kill(launch.start(spec())["pid"])
    monkeypatch.setenv("FAKE_SUPERVISOR", how)
    with pytest.raises(NooksError):
        launch.resume("nic0")
    assert contact.status("nic0")["state"] == "orphaned"
    monkeypatch.setenv("FAKE_SUPERVISOR", "ready")
    assert launch.resume("nic0")["adopted"] is True


def test_an_orphan_can_be_stopped(surroundings: Path) -> None:
    kill(launch.start(spec())["pid"])
    ending.stop("nic0")
    assert not (surroundings / "nic0").exists()


def test_force_stops_an_orphan_that_nobody_can_adopt(monkeypatch: pytest.MonkeyPatch, surroundings: Path) -> None:
    kill(launch.start(spec())["pid"])
    monkeypatch.setenv("FAKE_SUPERVISOR", "die")
    with pytest.raises(NooksError):
        ending.stop("nic0")
    ending.stop("nic0", force=True)
    assert not (surroundings / "nic0").exists()


def test_force_ends_a_supervisor_that_hangs(monkeypatch: pytest.MonkeyPatch, surroundings: Path) -> None:
    monkeypatch.setattr(ending, "STOP_SECONDS", 0.3)
    monkeypatch.setattr(ending, "KILL_SECONDS", 2.0)
    monkeypatch.setenv("FAKE_SUPERVISOR", "deaf")
    launch.start(spec())
    with pytest.raises(StateError, match="--force"):
        ending.stop("nic0")
    monkeypatch.setenv("FAKE_SUPERVISOR", "ready")
    ending.stop("nic0", force=True)
    assert not (surroundings / "nic0").exists()


def test_a_degraded_nook_is_rearmed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_SUPERVISOR", "degraded")
    launch.start(spec())
    assert launch.resume("nic0")["rearmed"] is True


def test_keeper_and_supervisor_both_dead(surroundings: Path) -> None:
    result = launch.start(spec())
    keeper = contact.living("nic0")
    assert keeper is not None
    kill(result["pid"])
    keeper.quit()
    keeper.wait_for_end(5)
    keeper.close()
    assert contact.status("nic0")["state"] == "stopped"
    assert launch.resume("nic0")["adopted"] is False
    assert (surroundings / "nic0/spec.json").exists()


@pytest.mark.skipif(cgroup.parent_directory() is None, reason="needs cgroup2")
@pytest.mark.parametrize("how", ["stop", "start"])
def test_domains_that_nobody_serves_are_ended_by_their_cgroup(how: str) -> None:
    launch.start(spec("nkgone"))
    domain = subprocess.Popen(["sleep", "1000"])
    other = subprocess.Popen(["sleep", "1000"])
    groups = [cgroup.Cgroup.create(name, 1 << 30) for name in ("nooks-nkgone-77-1", "nooks-nkgone-7-77-1")]
    if groups[0].path is None or groups[1].path is None:
        pytest.skip("no control group can be made here")
    groups[0].add(domain.pid)
    groups[1].add(other.pid)
    try:
        keeper = contact.living("nkgone")
        assert keeper is not None
        kill(contact.status("nkgone")["pid"])
        keeper.quit()
        keeper.close()
        if how == "stop":
            ending.stop("nkgone")
        else:
            launch.resume("nkgone")
        assert domain.wait(5) == -signal.SIGKILL
        assert other.poll() is None
        assert not groups[0].path.exists()
    finally:
        for process in (domain, other):
            process.kill()
            process.wait()
        eventually(groups[1].is_empty)
        groups[0].remove()
        groups[1].remove()


def test_the_supervisors_error_is_the_users(monkeypatch: pytest.MonkeyPatch, surroundings: Path) -> None:
    monkeypatch.setenv("FAKE_SUPERVISOR", "refuse")
    with pytest.raises(NooksError, match="the TAP is in use; choose another wire") as caught:
        launch.start(spec())
    assert caught.value.exit_code == 2
    assert not (surroundings / "nic0").exists()


def test_a_supervisor_that_dies_is_told_with_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_SUPERVISOR", "die")
    with pytest.raises(NooksError, match=r"ended before it was ready: no such luck; see .*nic0\.log"):
        launch.start(spec())


def test_an_image_that_fails(monkeypatch: pytest.MonkeyPatch, surroundings: Path) -> None:
    def fail(*_: object) -> dict[str, Any]:
        raise InputError("the kernel has no module e1000")

    monkeypatch.setattr(launch, "prepare_image", fail)
    with pytest.raises(InputError):
        launch.start(spec())
    assert not (surroundings / "nic0").exists()


@pytest.mark.parametrize("moment", ["image", "supervisor"])
def test_interrupts_leave_nothing(monkeypatch: pytest.MonkeyPatch, surroundings: Path, moment: str) -> None:
    monkeypatch.setenv("FAKE_SUPERVISOR", "slow")

    def interrupt_later() -> None:
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGINT)

    def interrupted_image(*_: object) -> dict[str, Any]:
        raise KeyboardInterrupt

    if moment == "image":
        monkeypatch.setattr(launch, "prepare_image", interrupted_image)
    else:
        threading.Thread(target=interrupt_later).start()
    with pytest.raises(KeyboardInterrupt):
        launch.start(spec())
    assert not (surroundings / "nic0").exists()


@pytest.mark.parametrize("moment", ["claiming", "abandoning", "failing"])
def test_an_interrupt_in_the_worst_moment(
    monkeypatch: pytest.MonkeyPatch, surroundings: Path, interruptible: None, moment: str
) -> None:
    """When there is a folder and nobody is to remove it yet, and while what was made is being removed."""

    def interrupted(step: Callable[..., Any]) -> Callable[..., Any]:
        numbers = [signal.SIGINT]

        def stand_in(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - whatever the step takes
            done = step(*arguments, **named)
            if numbers:
                signal.raise_signal(numbers.pop())
            return done

        return stand_in

    def fail(*_: object) -> dict[str, Any]:
        raise KeyboardInterrupt if moment == "abandoning" else InputError("the kernel has no module e1000")

    expected: type[BaseException] = KeyboardInterrupt
    if moment == "claiming":
        monkeypatch.setattr(launch, "claim", interrupted(launch.claim))
    else:
        monkeypatch.setattr(launch, "prepare_image", fail)
        monkeypatch.setattr(standby.Standby, "end", interrupted(standby.Standby.end))
        expected = KeyboardInterrupt if moment == "abandoning" else InputError
    with pytest.raises(expected):
        launch.start(spec())
    assert not (surroundings / "nic0").exists()


def test_a_launcher_that_is_killed_leaves_no_process(surroundings: Path) -> None:
    program = (
        "import os, signal\nfrom nooks.lifecycle import launch\nfrom nooks.spec import from_flags\n"
        "launch.check_machine = launch.check_emulator = lambda spec: None\n"
        "launch.prepare_image = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "launch.start(from_flags({'name': 'nic0', 'driver': 'e1000'}))\n"
    )
    subprocess.run([sys.executable, "-c", program], check=False, timeout=30)
    eventually(lambda: not has_keeper("nic0"))
    eventually(lambda: not claims.is_claimed("nic0"))
    assert contact.status("nic0")["state"] == "stopped"
    assert launch.start(spec())["adopted"] is False


def test_an_interface_of_that_name(surroundings: Path) -> None:
    with pytest.raises(InputError, match="an interface lo exists already"):
        launch.start(spec(name="lo"))
    assert not (surroundings / "lo").exists()


def test_resume_of_nothing(surroundings: Path) -> None:
    with pytest.raises(InputError, match="there is no nook nic7"):
        launch.resume("nic7")
    assert not surroundings.exists()


def test_an_unwritable_run_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOOKS_RUN_DIR", "/proc/nooks")
    with pytest.raises(MachineError, match="can't be used"):
        launch.start(spec())


def test_no_descriptor_of_the_caller_is_kept() -> None:
    readable, writable = os.pipe()
    os.set_inheritable(writable, True)
    launch.start(spec())
    os.close(writable)
    ended, _, _ = select.select([readable], [], [], 5)
    assert ended
    assert os.read(readable, 1) == b""
    os.close(readable)

"""The command line as a user meets it: one-line errors, exit statuses, help, what is imported when."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nooks.cli.registry import COMMANDS
from nooks.host.journal import Journal

NOOKS = [sys.executable, "-m", "nooks.cli.main"]


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOOKS_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("NOOKS_LOG_DIR", str(tmp_path / "log"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def nooks(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*NOOKS, *arguments], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["bogus"], 2, "No such command 'bogus'"),
        (["--bogus"], 2, "No such option: --bogus"),
        (["stop"], 2, "Missing argument 'NAME'"),
        (["stop", "nic0", "nic1"], 2, "unexpected extra argument"),
        (["start", "--bogus"], 2, "No such option: --bogus; see 'nooks start --help'"),
        (["start"], 2, "--name is missing"),
        (["start", "--name", "nic0"], 2, "--driver is missing"),
        (["start", "--name", "NIC", "--driver", "e1000"], 2, "'NIC' can't name a nook"),
        (["start", "UPPER"], 2, "can't name a nook"),
        (["start", "nic0"], 2, "there is no nook nic0"),
        (["start", "a", "--name", "b", "--driver", "e1000"], 2, "two names were given"),
        (["start", "--name", "nic0", "--driver", "e1001"], 2, "not a known driver"),
        (["start", "--name", "a", "--driver", "e1000", "--memory", "1M"], 2, "--memory is wrong"),
        (["start", "--name", "a", "--driver", "e1000", "--intensity", "x"], 2, "--intensity"),
        (["start", "--name", "a", "--driver", "e1000", "--class", "sound"], 2, "network driver, not a sound"),
        (["start", "./absent.toml"], 2, "No such file"),
        (["crash", "nic0", "--how", "softly"], 2, "'softly' is not one of"),
        (["crash", "nic0"], 2, "--how"),
        (["crash", "nic0", "--how", "panic"], 2, "there is no nook nic0"),
        (["inject", "nic0", "--count", "0"], 2, "--count"),
        (["set", "nic0", "ring.rx"], 2, "is not a setting"),
        (["set", "nic0", "ring.rx=1"], 2, "there is no nook nic0"),
        (["status", "nic0"], 2, "there is no nook nic0"),
        (["restart", "nic0"], 2, "there is no nook nic0"),
        (["stop", "nic0"], 2, "there is no nook nic0"),
        (["stop", ""], 2, "'' can't name a nook"),
        (["stop", ".."], 2, "'..' can't name a nook"),
        (["stop", "--force", "../run"], 2, "can't name a nook"),
        (["postmortem", ".."], 2, "can't name a nook"),
        (["events", "nic0"], 2, "nothing is recorded"),
        (["events", "--event", "party"], 2, "'party' is not an event"),
        (["bench"], 2, "Missing command"),
        (["bench", "recovery"], 2, "--driver"),
        (["bench", "transfer", "--bytes", "0"], 2, "--bytes"),
        (["bench", "block", "--erase"], 2, "--attach"),
        (["bench", "block", "--attach", "sda", "--movers"], 2, "--movers"),
        (["bench", "block", "--endpoints", "--movers"], 2, "--rounds"),
        (["bench", "block", "--endpoints", "--no-integrity"], 2, "--rounds"),
        (["demo", "opera"], 2, "'opera'"),
        (["drivers", "--class", "video"], 2, "'video'"),
    ],
)
def test_errors_are_one_line(arguments: list[str], status: int, said: str) -> None:
    done = nooks(*arguments)
    assert done.returncode == status
    assert said in done.stderr
    assert done.stderr.startswith("nooks: error: ")
    assert "; " in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_specification_errors_name_the_line(tmp_path: Path) -> None:
    path = tmp_path / "nook.toml"
    path.write_text('name = "nic0"\ndriver = "e1000"\n[network]\nwier = "user"\n')
    done = nooks("start", str(path))
    assert done.returncode == 2
    assert "line 4: network.wier is not a key; did you mean wire?" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_not_root(tmp_path: Path) -> None:
    prefix = ["setpriv", "--reuid=65534", "--clear-groups"]
    probe = subprocess.run([*prefix, *NOOKS, "--version"], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        pytest.skip("an ordinary user can't read this interpreter")
    done = subprocess.run(
        [*prefix, *NOOKS, "start", "--name", "a", "--driver", "e1000"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("nooks: error: a network nook needs root; ")


def test_help_lists_every_command_with_examples() -> None:
    listing = nooks("--help")
    assert listing.returncode == 0
    for name, entry in COMMANDS.items():
        assert name in listing.stdout
        said = nooks(name, "--help").stdout
        assert "Examples:" in said
        assert entry.examples[0] in said
    assert nooks().stdout == listing.stdout


def test_version() -> None:
    assert nooks("--version").stdout.startswith("nooks 0.")


@pytest.mark.parametrize("name", ["doctor", "drivers", "status", "events"])
def test_json(name: str) -> None:
    done = nooks(name, "--json")
    assert done.stderr == ""
    if name != "events":
        json.loads(done.stdout)


def test_drivers_as_the_contract_says() -> None:
    rows = json.loads(nooks("drivers", "--json").stdout)
    assert {"driver", "class", "module", "devices", "verified"} <= set(rows[0])
    assert "e1000" in nooks("drivers").stdout


def test_what_is_slow_to_import_is_imported_late() -> None:
    def imported(code: str) -> set[str]:
        report = "import sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
        program = f"import sys\n{code}\n{report}"
        return set(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.split())

    slow = {"rich", "pyroute2", "asyncio", "msgspec", "prometheus_client", "structlog"}
    assert not imported("import nooks.cli.app; nooks.cli.app.root()") & slow
    hot = imported("import nooks.cli.app, nooks.lifecycle.launch; nooks.cli.app.root(); nooks.cli.app.build('start')")
    assert not hot & {"rich", "pyroute2", "asyncio", "prometheus_client"}


def test_completion() -> None:
    environment = {
        **os.environ,
        "_NOOKS_COMPLETE": "complete_bash",
        "COMP_WORDS": "nooks start --driver e10",
        "COMP_CWORD": "3",
    }
    done = subprocess.run(NOOKS, capture_output=True, text=True, env=environment, check=False, timeout=60)
    assert done.stdout.split() == ["e1000", "e100", "e1000e"]


def test_a_defect_is_one_line_that_names_the_traceback(tmp_path: Path) -> None:
    program = (
        "import sys, nooks.cli.drivers as drivers, nooks.cli.main as main\n"
        "def broken(json: bool = False) -> None: raise ZeroDivisionError('oh')\n"
        "drivers.drivers = broken\nsys.argv = ['nooks', 'drivers']\nsys.exit(main.main())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("nooks: error: internal error: ZeroDivisionError: oh; ")
    assert done.stderr.count("\n") == 1
    log = tmp_path / "log/cli.log"
    assert str(log) in done.stderr
    assert "Traceback" in log.read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_following(number: signal.Signals) -> None:
    Journal("nic0")("started", incarnation=1)
    with subprocess.Popen(
        [*NOOKS, "events", "--follow", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["event"] == "started"
        process.send_signal(number)
        assert process.communicate(timeout=60) == ("", "")
        assert process.returncode == 0


def test_an_interrupted_command_says_so() -> None:
    program = (
        "import os, signal, sys, nooks.cli.drivers as drivers, nooks.cli.main as main\n"
        "def slow(json: bool = False) -> None: os.kill(os.getpid(), signal.SIGINT)\n"
        "drivers.drivers = slow\nsys.argv = ['nooks', 'drivers']\nsys.exit(main.main())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert done.stderr == "nooks: error: interrupted; run it again\n"


def test_a_closed_pipe() -> None:
    done = subprocess.run(["sh", "-c", f"{' '.join(NOOKS)} drivers | true"], capture_output=True, text=True)
    assert done.stderr == ""

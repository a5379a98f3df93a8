"""``nooks campaign``: what it refuses, in one line each, before anything is begun."""

import sys
from pathlib import Path

import pytest

from nooks.cli import main as cli
from nooks.lab.campaign import campaign as campaigns
from nooks.lab.campaign import report


@pytest.fixture(autouse=True)
def a_root(monkeypatch: pytest.MonkeyPatch, signals: None) -> None:
    """Root, in a process that hears signals afterwards as before: a command ignores them when it ends."""
    monkeypatch.setattr("os.geteuid", lambda: 0)


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["nooks", "campaign", *words])
    return cli.main()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--driver", "e1000", "--seed", "1"), "no folder was given for the results; give --out DIR"),
        (("--driver", "e1000", "--seed", "x", "--out", "o"), "Invalid value for '--seed'"),
        (("--driver", "e1000", "--seed", "-1", "--out", "o"), "Invalid value for '--seed'"),
        (("--driver", "e1000", "--out", "o"), "Missing option '--seed'"),
        (("--seed", "1", "--out", "o"), "Missing option '--driver'"),
        (("--driver", "e1001", "--seed", "1", "--out", "o"), "e1001 is not a known driver; perhaps e100 or e1000"),
        (("--driver", "e1000", "--seed", "1", "--out", "o", "--type", "foo"), "there is no fault type 'foo'"),
        (("--driver", "e1000", "--seed", "1", "--out", "o", "--trials", "0"), "0 trials can't be made"),
        (("--driver", "e1000", "--seed", "1", "--out", "o", "--trials", "9999999"), "give a number from 1 to 100000"),
        (("--driver", "e1000", "--seed", "1", "--out", "o", "--faults", "0"), "0 faults can't be injected in a trial"),
        (("--driver", "e1000", "--seed", "1", "--out", "o", "--native"), "--native goes with --trial"),
        (("--driver", "e1000", "--seed", "1", "--out", "o", "--jobs", "0"), "Invalid value for '--jobs'"),
    ],
)
def test_bad_input_is_told_in_one_line(
    words: tuple[str, ...],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("nooks: error: ")
    assert len(captured.err.splitlines()) == 1
    assert said in captured.err
    assert not list(tmp_path.iterdir())


def test_without_root(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert run(monkeypatch, "--driver", "e1000", "--seed", "1", "--out", str(tmp_path / "o")) == 1
    assert "a campaign needs root; run the command with sudo" in capsys.readouterr().err


def test_what_the_report_needs_is_missed_before_the_campaign(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(report.importlib.util, "find_spec", _nothing)
    assert run(monkeypatch, "--driver", "e1000", "--seed", "1", "--out", str(tmp_path / "o")) == 1
    assert "matplotlib is not installed" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def _nothing(name: str) -> None:
    del name


def _kernels(*_: object) -> dict[str, str]:
    return {"amd64": "6.1.0-test"}


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense", "tcp://nowhere.invalid:8786"])
def test_a_scheduler_that_is_not_there(
    address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("nooks.lab.campaign.pools.CONNECT_SECONDS", 1.0)
    monkeypatch.setattr(campaigns, "_kernels", _kernels)
    words = ("--driver", "e1000", "--seed", "1", "--out", str(tmp_path / "o"), "--scheduler", address)
    assert run(monkeypatch, *words) == 2
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == 1
    assert f"the scheduler {address} can't be reached" in captured.err
    assert "start one with 'dask scheduler'" in captured.err

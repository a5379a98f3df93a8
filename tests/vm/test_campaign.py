"""Campaigns as their users make them: a few trials, gone on with, interrupted, over a scheduler."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import Bench

pytestmark = pytest.mark.vm

SEED = "1"
VERDICTS = {"no-effect", "recovered", "recovered-with-error", "undetected", "not-recovered"}
RECORD = {
    *("trial", "driver", "kernel", "seed", "faults", "workload", "domain", "reason", "host", "verdict"),
    *("detection_seconds", "recovery_seconds", "outage_seconds", "repeat"),
}
FAULTS = 5


def campaign(bench: Bench, out: Path, trials: int, *flags: str) -> dict[str, Any]:
    words = ("--driver", "e1000", "--seed", SEED, "--trials", str(trials), "--out", str(out), *flags)
    return bench.ok("campaign", *words)


def lines(out: Path, name: str = "trials.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / name).read_text().splitlines()]


def test_a_campaign_is_made_gone_on_with_and_interrupted(bench: Bench, tmp_path: Path) -> None:
    out = tmp_path / "campaign"
    summary = campaign(bench, out, 1, "--controls", "--jobs", "1")
    (record,) = lines(out)
    (control,) = lines(out, "controls.jsonl")
    assert set(record) >= RECORD
    assert record["verdict"] in VERDICTS
    assert len(record["faults"]) == FAULTS
    assert all(fault["executed"] in (True, False) for fault in record["faults"])
    assert [fault["offset"] for fault in control["faults"]] == [fault["offset"] for fault in record["faults"]]
    assert control["outcome"] in ("no-effect", "panic", "hang", "driver-failed")
    assert summary["isolation"]["pairs"] == 1
    assert summary == json.loads((out / "summary.json").read_text())
    assert "<h2>Isolation works</h2>" in (out / "report.html").read_text()
    assert (out / "isolation.png").read_bytes().startswith(b"\x89PNG")

    command = bench.argv("campaign", "--driver", "e1000", "--seed", SEED, "--trials", "40", "--out", str(out))
    with subprocess.Popen([*command, "--jobs", "1"], stderr=subprocess.PIPE, text=True) as running:
        until(lambda: len(lines(out)) >= 2)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=120)
    assert running.returncode == 130
    kept = lines(out)
    assert kept[0] == record
    assert f"interrupted: {len(kept)} of 40 trials are kept; the same command goes on" in said

    again = campaign(bench, out, len(kept))
    assert again["trials"] == len(kept)
    assert lines(out) == kept  # all of them are there: nothing was made

    other = bench.nooks("campaign", "--driver", "e1000", "--seed", "2", "--trials", "1", "--out", str(out))
    assert other.status == 2
    assert "holds a campaign with seed 1, not 2" in other.stderr


def test_one_trial_again(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("campaign", "--driver", "e100", "--seed", SEED, "--trial", "3", "--faults", "2", "--type", "nop")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("NOOKS_LOG_DIR")  # the lab's own
    record = bench.ok(*words)
    assert list(tmp_path.glob("nooks-*")) == []  # the worker was let come to its end
    assert (record["trial"], record["seed"]) == (3, 100003)
    assert [fault["type"] for fault in record["faults"]] == ["nop", "nop"]
    control = bench.ok(*words, "--native")
    assert [fault["offset"] for fault in control["faults"]] == [fault["offset"] for fault in record["faults"]]
    said = bench.nooks("campaign", "--driver", "e100", "--seed", SEED, "--trial", "3", "--driver", "e1000")
    assert (said.status, "--trial is of one driver" in said.stderr) == (2, True)


def test_one_trial_of_a_disk_driver(bench: Bench) -> None:
    words = ("campaign", "--driver", "ide-disk", "--seed", SEED, "--trial", "0", "--faults", "4", "--type", "nop")
    record = bench.ok(*words)
    assert record["verdict"] in VERDICTS
    assert record["workload"].startswith("four threads that write")
    assert {fault["module"] for fault in record["faults"]} <= {"ata_piix", "libata", "scsi_mod", "sd_mod"}
    control = bench.ok(*words, "--native")
    assert control["outcome"] in ("no-effect", "panic", "hang", "driver-failed")
    places = [[(fault["module"], fault["offset"]) for fault in each["faults"]] for each in (record, control)]
    assert places[0] == places[1]


def mounts() -> set[str]:
    """Those of campaigns."""
    return {line for line in Path("/proc/mounts").read_text().splitlines() if "nooks-campaign-" in line}


def test_one_trial_with_a_database(bench: Bench) -> None:
    words = (
        "campaign",
        "--driver",
        "ide-disk",
        "--workload",
        "sqlite",
        "--seed",
        SEED,
        "--trial",
        "0",
        "--type",
        "nop",
    )
    before = mounts()
    record = bench.ok(*words)
    assert record["verdict"] in VERDICTS
    assert record["workload"].startswith("a database")
    assert record["repeat"].endswith("--workload sqlite --trial 0")
    assert mounts() <= before  # another campaign on this machine may have its own
    said = bench.nooks("campaign", "--driver", "e100", "--workload", "sqlite", "--seed", SEED, "--trial", "0")
    assert (said.status, "there is no workload 'sqlite' for e100" in said.stderr) == (2, True)


@pytest.mark.parametrize("driver", ["intel8x0", "sb16"])
def test_one_trial_of_a_sound_driver(bench: Bench, driver: str) -> None:
    """The one on PCI, the other on ISA: that one's module finds no card unless it is told where it is."""
    words = ("campaign", "--driver", driver, "--seed", SEED, "--trial", "0", "--faults", "4", "--type", "nop")
    record = bench.ok(*words)
    assert record["verdict"] in VERDICTS
    control = bench.ok(*words, "--native")
    assert control["outcome"] in ("no-effect", "panic", "hang", "driver-failed")
    assert control["workload"] == "a player in the same kernel"
    places = [[(fault["module"], fault["offset"]) for fault in each["faults"]] for each in (record, control)]
    assert places[0] == places[1]


def beside(words: list[str]) -> subprocess.Popen[bytes]:
    """A dask command that goes on beside the test."""
    argv = [sys.executable, "-m", "dask", *words]
    return subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A dask scheduler with two workers on this machine: its address, and the workers."""
    where = tmp_path / "scheduler.json"
    flags = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(where)]
    head = beside(["scheduler", *flags])
    until(where.exists)
    serve = ["worker", "--scheduler-file", str(where), "--nthreads", "1", "--no-dashboard", "--no-nanny"]
    workers = [beside([*serve, "--local-directory", str(tmp_path / str(number))]) for number in range(2)]
    try:
        yield json.loads(where.read_text())["address"], workers
    finally:
        for process in (*workers, head):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
            process.kill()
            process.wait()


@pytest.mark.slow
def test_a_scheduler_has_trials_made_and_a_dead_worker_costs_its_trial_alone(
    bench: Bench, tmp_path: Path, scheduler: tuple[str, list[subprocess.Popen[bytes]]]
) -> None:
    address, workers = scheduler
    out = tmp_path / "campaign"
    words = ("--driver", "e1000", "--seed", SEED, "--trials", "10", "--out", str(out), "--scheduler", address)
    with subprocess.Popen(bench.argv("campaign", *words), stderr=subprocess.PIPE, text=True) as running:
        until(lambda: (out / "trials.jsonl").exists() and len(lines(out)) >= 1)
        os.kill(workers[0].pid, signal.SIGKILL)
        _, said = running.communicate(timeout=600)
    assert running.returncode == 0, said
    records = {record["trial"]: record for record in lines(out)}
    assert sorted(records) == list(range(10))
    assert sum(record["verdict"] == "not-run" for record in records.values()) <= 1


def until(holds: Any, within_seconds: float = 240.0) -> None:  # noqa: ANN401 - any callable
    deadline = time.monotonic() + within_seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)

"""``nooks events`` and ``nooks metrics``."""

import json
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from nooks.cli.metrics import render
from nooks.cli.records import events
from nooks.host.journal import Journal
from nooks.lifecycle import contact

STATUS = {"name": "nic0", "class": "network", "driver": "e1000", "state": "running", "incarnation": 4}


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Journal:
    monkeypatch.setenv("NOOKS_LOG_DIR", str(tmp_path / "log"))
    monkeypatch.setenv("NOOKS_RUN_DIR", str(tmp_path / "run"))
    written = Journal("nic0")
    written("started", incarnation=1)
    written("failed", incarnation=1, reason="panic")
    written("resumed", incarnation=2, detail={"recovery_seconds": 0.021, "means": "spare"})
    written("failed", incarnation=2, reason="planned")
    written("resumed", incarnation=3, detail={"recovery_seconds": 0.015})
    return written


def test_events_as_json_lines(journal: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    events("nic0", json=True)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == ["started", "failed", "resumed", "failed", "resumed"]
    assert set(lines[0]) == {"time", "nook", "incarnation", "event", "reason", "detail"}


def test_events_can_be_chosen(journal: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    events(None, only=["failed"], last=1, json=True)
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["reason"] == "planned"


def test_events_for_people(journal: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    events("nic0")
    assert "recovery_seconds=0.021 means=spare" in capsys.readouterr().out


def test_what_the_journal_tells_of_an_orphan(journal: Journal, tmp_path: Path) -> None:
    (tmp_path / "run/nic0").mkdir(parents=True)
    row = contact.status("nic0")
    assert (row["incarnation"], row["failures"], row["recoveries"]) == (3, 1, 1)
    assert row["last_recovery_seconds"] == 0.015
    assert row["state"] == "stopped"


def test_metrics() -> None:
    text = render(
        [
            {"status": {**STATUS, "failures": 3, "recoveries": 2}, "up": True, "dropped_total": {"receive": 7}},
            {"status": {**STATUS, "name": "nic1", "state": "orphaned"}, "up": False, "note": "no number"},
        ]
    )
    samples = {
        (sample.name, sample.labels["nook"], sample.labels.get("state") or sample.labels.get("kind")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["nooks_up", "nic0", None] == 1
    assert samples["nooks_up", "nic1", None] == 0
    assert samples["nooks_failures_total", "nic0", None] == 3
    assert samples["nooks_dropped_total", "nic0", "receive"] == 7
    assert samples["nooks_state", "nic1", "orphaned"] == 1
    assert samples["nooks_state", "nic1", "running"] == 0
    assert not any("note" in name for name, _, _ in samples)


def test_metrics_of_nothing() -> None:
    assert render([]) == ""

"""The report: a page that stands by itself and says all that it has to."""

from pathlib import Path

import pytest
from tests.unit.campaign_records import control, fault, order, trial

from nooks.lab.campaign.campaign import conclude
from nooks.lab.campaign.order import Outcome, Verdict, not_run
from nooks.lab.campaign.store import Identity, Store

IDENTITY = Identity(seed=7, faults=5, type="mixed")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with Store(tmp_path, IDENTITY) as store:
        for number in range(12):
            store.append("nook", trial(number))
            store.append("native", control(number, Outcome.PANIC if number % 3 else Outcome.HANG))
        wrong = [fault("loop"), fault("text", executed=False)]
        store.append(
            "nook", trial(12, Verdict.UNDETECTED, faults=wrong, errors=["a file <came> wrong"], repeat="again & again")
        )
        store.append("nook", trial(13, Verdict.NO_EFFECT, dormant=True))
        store.append("nook", not_run(order(14), "no memory"))
        store.append("nook", trial(0, Verdict.NOT_RECOVERED, driver="e100", reason="heartbeat"))
        conclude(store)
    return tmp_path


def test_page_and_charts_are_there(folder: Path) -> None:
    charts = {path.name for path in folder.glob("*.png")}
    assert charts == {"isolation.png", "recovery.png", "times.png"}
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in charts)
    page = (folder / "report.html").read_text()
    assert page.count("src='data:image/png;base64,") == len(charts)
    assert "http" not in page  # it needs nobody else


def test_every_trial_that_was_not_recovered_is_listed_with_its_command(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert "<h3>e1000, trial 12: undetected</h3>" in page
    assert "a file &lt;came&gt; wrong" in page
    assert "<code>again &amp; again</code>" in page
    listed = page.partition("trial 12: undetected")[2].partition("</pre>")[0]
    assert "loop" in listed
    assert "text" not in listed.partition("<pre>")[2]  # it never ran
    assert "<h3>e100, trial 0: not-recovered</h3>" in page
    assert page.count("<h3>") == 2


def test_counts_and_intervals_are_said(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert "12 of the trials were made a second time without a nook" in page
    assert "12 of them took the whole system down; with a nook 0 did." in page
    assert "In 14 trials the domain failed or the application erred. 12 of them were recovered from" in page
    assert "60.1 - 96.0" in page
    assert "no memory" in page


def test_a_campaign_that_has_just_begun_has_a_report_too(tmp_path: Path) -> None:
    with Store(tmp_path, IDENTITY) as store:
        summary = conclude(store)
    assert summary["trials"] == 0
    assert "None." in (tmp_path / "report.html").read_text()
    assert not list(tmp_path.glob("*.png"))

"""A campaign's folder: resumed, refused, damaged, full."""

import errno
import json
import os
from pathlib import Path

import pytest
from tests.unit.campaign_records import control, order, trial

from nooks.host.errors import InputError, MachineError, StateError
from nooks.lab.campaign import store as stores
from nooks.lab.campaign.order import Verdict, not_run
from nooks.lab.campaign.store import Identity, Store, recorded_kernels

IDENTITY = Identity(seed=7, faults=5, type="mixed", kernels={"amd64": "6.1.0-test"})


def test_a_campaign_goes_on_where_it_was(tmp_path: Path) -> None:
    orders = [order(number) for number in range(4)] + [order(number, side="native") for number in range(2)]
    with Store(tmp_path / "c", IDENTITY) as store:
        assert store.open_orders(orders) == orders
        store.append("nook", trial(2))
        store.append("nook", trial(0))
        store.append("native", control(1))
    with Store(tmp_path / "c", IDENTITY) as store:
        assert [each.key for each in store.open_orders(orders)] == [
            ("nook", "e1000", 1),
            ("nook", "e1000", 3),
            ("native", "e1000", 0),
        ]
        assert [record["trial"] for record in store.records("nook")] == [0, 2]


def test_what_could_not_be_run_is_tried_again_and_the_last_line_counts(tmp_path: Path) -> None:
    with Store(tmp_path, IDENTITY) as store:
        store.append("nook", not_run(order(0), "the worker died"))
        assert store.open_orders([order(0)]) == [order(0)]
        store.append("nook", trial(0, Verdict.RECOVERED))
        assert store.open_orders([order(0)]) == []
    with Store(tmp_path, IDENTITY) as store:
        assert [record["verdict"] for record in store.records("nook")] == ["recovered"]
    assert len((tmp_path / "trials.jsonl").read_text().splitlines()) == 2


def test_a_half_written_line_is_forgotten(tmp_path: Path) -> None:
    with Store(tmp_path, IDENTITY) as store:
        store.append("nook", trial(0))
    with (tmp_path / "trials.jsonl").open("a") as file:
        file.write('{"trial": 1, "driver": "e1')
    with Store(tmp_path, IDENTITY) as store:
        assert [record["trial"] for record in store.records("nook")] == [0]
        store.append("nook", trial(1))
    assert [json.loads(line)["trial"] for line in (tmp_path / "trials.jsonl").read_text().splitlines()] == [0, 1]


def test_a_line_that_is_no_record_is_told(tmp_path: Path) -> None:
    with Store(tmp_path, IDENTITY) as store:
        store.append("nook", trial(0))
    with (tmp_path / "trials.jsonl").open("a") as file:
        file.write("junk\n")
    with pytest.raises(InputError, match=r"line 2 of .*trials.jsonl is no record"):
        Store(tmp_path, IDENTITY)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (Identity(seed=8, faults=5, type="mixed"), "with seed 7, not 8; choose another --out, or --seed 7"),
        (Identity(seed=7, faults=6, type="mixed"), "with faults 5, not 6"),
        (Identity(seed=7, faults=5, type="nop"), "with type mixed, not nop"),
        (
            Identity(seed=7, faults=5, type="mixed", workload="fio"),
            "with workload as usual, not fio; choose another --out, or leave --workload out",
        ),
        (Identity(seed=7, faults=5, type="mixed", kernels={"amd64": "6.12"}), "on kernel 6.1.0-test, not 6.12"),
    ],
)
def test_another_campaigns_folder_is_refused(tmp_path: Path, changed: Identity, said: str) -> None:
    Store(tmp_path, IDENTITY).close()
    with pytest.raises(InputError, match=said):
        Store(tmp_path, changed)


def test_folders_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is no folder"):
        Store(tmp_path / "file", IDENTITY)
    with pytest.raises(InputError, match="is no folder"):
        Store(tmp_path / "file" / "deeper", IDENTITY)
    with pytest.raises(InputError, match="holds something that is no campaign"):
        Store(tmp_path, IDENTITY)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "campaign.json").write_text("{}")
    with pytest.raises(InputError, match="is no campaign's"):
        Store(tmp_path / "broken", IDENTITY)


def test_a_kernel_of_another_flavour_may_be_added_and_stays(tmp_path: Path) -> None:
    Store(tmp_path, IDENTITY).close()
    with Store(tmp_path, Identity(seed=7, faults=5, type="mixed", kernels={"686": "6.1.0-686"})) as store:
        assert store.identity.kernels == {"amd64": "6.1.0-test", "686": "6.1.0-686"}
    assert recorded_kernels(tmp_path) == {"amd64": "6.1.0-test", "686": "6.1.0-686"}
    assert recorded_kernels(tmp_path / "none") == {}


def test_one_campaign_at_a_time(tmp_path: Path) -> None:
    with Store(tmp_path, IDENTITY), pytest.raises(StateError, match="a campaign is at work in"):
        Store(tmp_path, IDENTITY)
    Store(tmp_path, IDENTITY).close()


def test_a_full_disk_costs_no_trial_that_was_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(tmp_path, IDENTITY) as store:
        store.append("nook", trial(0))
        kept = (tmp_path / "trials.jsonl").read_bytes()

        def full(descriptor: int, data: bytes) -> None:
            os.write(descriptor, data[:10])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(stores, "_write_all", full)
        with pytest.raises(MachineError, match=r"trials.jsonl can't be written: No space left.*the same command then"):
            store.append("nook", trial(1))
        assert (tmp_path / "trials.jsonl").read_bytes() == kept
        assert store.open_orders([order(0), order(1)]) == [order(1)]


def test_results_are_written_whole(tmp_path: Path) -> None:
    with Store(tmp_path, IDENTITY) as store:
        store.write("summary.json", b"{}\n")
        (tmp_path / "report.html").mkdir()
        with pytest.raises(MachineError, match=r"report\.html can't be written"):
            store.write("report.html", b"<p>")
    assert {path.name for path in tmp_path.iterdir()} == {"campaign.json", "summary.json", "report.html"}

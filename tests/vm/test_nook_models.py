"""Nooks whose cards are device models of ours: they outlive their drivers, and may break themselves."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from .conftest import Bench
from .test_nook_network import NOTICED_AS

pytestmark = pytest.mark.vm

CARDS = [("epic100", "model:epic100"), ("3c59x", "model:3c905b")]
RESET = {"epic100": "none", "3c59x": "pm"}
WAYS = NOTICED_AS | {"dma": {"dma"}, "leak": {"memory", "oops"}}
SETTLE_SECONDS = 0.5


@contextmanager
def talking(bench: Bench) -> Generator[None]:
    """Pings all the while: a card at rest breaks unnoticed."""
    talk = subprocess.Popen(["ping", "-q", "-i", "0.05", bench.peer_address], stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        talk.kill()
        talk.wait()


def failures_of(bench: Bench) -> list[dict[str, Any]]:
    """The journal's ``failed`` events."""
    return [event for event in bench.events() if event["event"] == "failed"]


def ready(bench: Bench) -> None:
    """Wait until the nook serves and its spare is booted."""
    bench.until(lambda status: status["state"] == "running" and status["spare_ready"], 60)
    time.sleep(SETTLE_SECONDS)


def model_process(bench: Bench) -> int:
    """The process of the nook's card."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"nooks.hardware.card" in words and f"--serial={bench.name}".encode() in words:
            return int(process.name)
    raise AssertionError("the card has no process")


@pytest.mark.parametrize(("driver", "device"), CARDS)
def test_a_driver_fails_in_every_way_and_is_recovered(bench: Bench, driver: str, device: str) -> None:
    assert bench.start(driver, device, "--intensity", "100")["interface"] == bench.name
    assert bench.reaches_peer()
    card = model_process(bench)
    with talking(bench):
        for failures, (how, reasons) in enumerate(WAYS.items(), start=1):
            ready(bench)
            bench.ok("crash", bench.name, "--how", how)
            bench.until(lambda status, count=failures: status["recoveries"] >= count, 60)
            assert failures_of(bench)[-1]["reason"] in reasons
    assert bench.reaches_peer()
    restarts = [event["detail"] for event in bench.events() if event["event"] == "restarted"]
    assert {detail["reset"] for detail in restarts} == {RESET[driver]}
    assert model_process(bench) == card
    assert bench.status()["failures"] == len(WAYS), failures_of(bench)
    bench.ok("stop", bench.name)


@pytest.mark.parametrize("size_bytes", [20_000_000, pytest.param(1_000_000_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("driver", [driver for driver, _ in CARDS])
def test_every_byte_arrives(bench: Bench, driver: str, size_bytes: int) -> None:
    result = bench.ok("bench", "transfer", "--driver", driver, "--bytes", str(size_bytes))
    assert result["errors"] == []
    assert [transfer["received_bytes"] for transfer in result["transfers"]] == [size_bytes, size_bytes]
    assert [transfer["way"] for transfer in result["transfers"]] == ["receive", "send"]


@pytest.mark.parametrize("means", ["hotplug", "cold"])
def test_a_card_that_no_snapshot_holds(bench: Bench, means: str) -> None:
    bench.start("epic100", "model:epic100", "--means", means)
    bench.until(lambda status: status["state"] == "running" and (means == "cold" or status["spare_ready"]), 60)
    bench.ok("crash", bench.name, "--how", "kill")
    bench.until(lambda status: status["recoveries"] == 1, 60)
    assert bench.status()["last_means"] == means
    assert bench.reaches_peer()


def test_a_dead_supervisor_leaves_the_card_to_the_next(bench: Bench) -> None:
    started = bench.start("epic100", "model:epic100")
    card = model_process(bench)
    assert "/messages.so" in Path(f"/proc/{card}/maps").read_text(), "it takes messages in Python, which is slower"
    os.kill(started["pid"], signal.SIGKILL)
    time.sleep(0.3)
    assert bench.reaches_peer()
    assert bench.ok("start", bench.name)["domain_pid"] == started["domain_pid"]
    assert model_process(bench) == card
    bench.ok("crash", bench.name, "--how", "kill")
    bench.until(lambda status: status["recoveries"] == 1, 60)
    assert bench.reaches_peer()
    assert model_process(bench) == card


def test_a_model_that_dies_is_a_card_that_is_replaced(bench: Bench) -> None:
    bench.start("epic100", "model:epic100")
    ready(bench)
    os.kill(model_process(bench), signal.SIGKILL)
    bench.until(lambda status: status["recoveries"] == 1, 60)
    assert failures_of(bench)[-1]["reason"] == "unplugged"
    assert bench.reaches_peer()


def interrupts_of(card: int) -> set[str]:
    """The card's event descriptors, by the kernel's numbers for them: another domain brings others."""
    numbers: set[str] = set()
    for descriptor in Path(f"/proc/{card}/fdinfo").iterdir():
        with suppress(FileNotFoundError):
            numbers.update(re.findall(r"^eventfd-id:\s*(\d+)$", descriptor.read_text(), re.MULTILINE))
    return numbers


def test_a_card_that_hangs_while_the_next_driver_looks_for_it(bench: Bench) -> None:
    """A register is read and nothing answers: the heartbeat ends the attempt long before its time is over."""
    bench.start("epic100", "model:epic100", "--intensity", "50")
    ready(bench)
    card = model_process(bench)
    before = interrupts_of(card)
    assert before
    bench.ok("crash", bench.name, "--how", "kill")
    deadline = time.monotonic() + 30
    while not interrupts_of(card) - before:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.kill(card, signal.SIGSTOP)
    try:
        bench.until(lambda _: len(failures_of(bench)) >= 2, 30)
    finally:
        os.kill(card, signal.SIGCONT)
    bench.until(lambda status: status["state"] == "running", 60)
    assert failures_of(bench)[1]["detail"]["detector"] == "heartbeat", bench.events()
    assert bench.reaches_peer()


def test_a_card_that_is_pulled_is_waited_for(bench: Bench) -> None:
    bench.start("epic100", "model:epic100")
    ready(bench)
    bench.ok("hardware", "misbehave", bench.name, "pulled")
    bench.until(lambda status: status["state"] == "recovering", 30)
    assert Path(f"/sys/class/net/{bench.name}/carrier").read_text().strip() == "1"
    assert not bench.reaches_peer()
    assert failures_of(bench)[0]["reason"] == "unplugged"
    bench.ok("hardware", "misbehave", bench.name, "none")
    bench.until(lambda status: status["state"] == "running", 60)
    assert bench.reaches_peer()


@pytest.mark.parametrize(
    ("kind", "reasons"),
    [
        ("wrong-dma", {"dma"}),
        ("lost-interrupt", {"no-answer", "no-progress"}),
        ("all-ones", {"no-answer", "no-progress", "heartbeat", "halted", "panic", "oops"}),
    ],
)
@pytest.mark.parametrize(("driver", "device"), CARDS)
def test_a_card_that_breaks_until_it_is_reset(
    bench: Bench, driver: str, device: str, kind: str, reasons: set[str]
) -> None:
    """The next driver resets the card, which cures it."""
    bench.start(driver, device)
    assert bench.reaches_peer()
    with talking(bench):
        ready(bench)
        bench.ok("hardware", "misbehave", bench.name, kind)
        bench.until(lambda status: status["recoveries"] >= 1, 60)
        ready(bench)
    assert failures_of(bench)[0]["reason"] in reasons, failures_of(bench)
    assert bench.reaches_peer()


@pytest.mark.parametrize(("driver", "device"), CARDS)
def test_an_interrupt_that_is_stuck_is_noticed(bench: Bench, driver: str, device: str) -> None:
    bench.start(driver, device)
    ready(bench)
    bench.ok("hardware", "misbehave", bench.name, "stuck-interrupt")
    bench.until(lambda status: status["recoveries"] >= 1, 60)
    failed = failures_of(bench)[0]
    assert (failed["reason"], failed["detail"]["detector"]) == ("no-progress", "interrupts"), failed
    assert bench.reaches_peer()


def test_garbage_in_descriptors_is_survived(bench: Bench) -> None:
    """What a driver makes of it is the driver's affair: it drops frames, or fails and is replaced."""
    bench.start("epic100", "model:epic100")
    with talking(bench):
        ready(bench)
        bench.ok("hardware", "misbehave", bench.name, "garbage", "--lasting")
        time.sleep(3)
        bench.ok("hardware", "misbehave", bench.name, "none")
        bench.until(lambda status: status["state"] == "running" and bench.reaches_peer(), 60)


def test_a_card_that_stays_broken_is_given_up(bench: Bench) -> None:
    bench.start("epic100", "model:epic100", "--intensity", "2")
    with talking(bench):
        ready(bench)
        bench.ok("hardware", "misbehave", bench.name, "wrong-dma", "--lasting")
        bench.until(lambda status: status["state"] == "degraded", 90)
        bench.ok("hardware", "misbehave", bench.name, "none")
        bench.ok("start", bench.name)
    assert bench.status()["state"] == "running"
    assert bench.reaches_peer()


def test_bad_input(bench: Bench) -> None:
    bench.start("epic100", "model:epic100")
    wrong = bench.nooks("hardware", "misbehave", bench.name, "sulk")
    assert wrong.status == 2
    assert "no misbehaviour is called 'sulk'; one of none, stuck-interrupt" in wrong.stderr
    other = bench.nooks(*bench.flags(name=f"{bench.name[:-1]}x", device="model:epic"))
    assert other.status == 2
    assert "perhaps model:epic100 was meant" in other.stderr

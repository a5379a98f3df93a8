"""Who carries a mark is found even while being started or handed on; nobody else is."""

import subprocess
from collections.abc import Iterator
from secrets import token_hex

import pytest

from nooks.host import marks, proc
from nooks.host.marks import Look, carriers, look

VARIABLE = "NOOKS_TEST_MARK"


@pytest.fixture
def mark() -> str:
    return f"{VARIABLE}={token_hex(16)}"


@pytest.fixture
def carrier(mark: str) -> Iterator[subprocess.Popen[bytes]]:
    yield from started(dict([mark.split("=")]))


@pytest.fixture
def bare() -> Iterator[subprocess.Popen[bytes]]:
    """A process with no environment at all."""
    yield from started({})


def started(environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "300"], env=environment)
    while not proc.command_line(process.pid):
        pass
    yield process
    process.kill()
    process.wait()


def test_carriers_alone_are_found(carrier: subprocess.Popen[bytes], mark: str) -> None:
    assert carriers(mark) == [carrier.pid]
    assert carriers(mark[:-1]) == carriers(f"{mark}0") == []
    carrier.kill()
    carrier.wait()
    assert carriers(mark) == []


@pytest.mark.parametrize("seen_at", [2, 3])
@pytest.mark.parametrize("words_ahead", [0, 1])
def test_a_process_that_is_just_being_started_is_not_overlooked(
    carrier: subprocess.Popen[bytes], mark: str, monkeypatch: pytest.MonkeyPatch, seen_at: int, words_ahead: int
) -> None:
    """While execve(2) lays out a program's memory nobody sees its environment; that may end between any two looks."""
    looks = 0

    def environment(pid: int) -> bytes:
        nonlocal looks
        looks += pid == carrier.pid
        return b"" if pid == carrier.pid and looks < seen_at else proc.environment(pid)

    def words(pid: int) -> list[str]:
        return [] if pid == carrier.pid and looks + words_ahead < seen_at else proc.command_line(pid)

    monkeypatch.setattr(marks, "environment", environment)
    monkeypatch.setattr(marks, "command_line", words)
    assert carriers(mark) == [carrier.pid]


def test_one_that_never_shows_an_environment_is_not_waited_for_long(
    carrier: subprocess.Popen[bytes], mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(pid: int) -> list[str]:
        return [] if pid == carrier.pid else proc.command_line(pid)

    def no_environment(pid: int) -> bytes:
        return b"" if pid == carrier.pid else proc.environment(pid)

    monkeypatch.setattr(marks, "command_line", nothing)
    monkeypatch.setattr(marks, "environment", no_environment)
    monkeypatch.setattr(marks, "_START_SECONDS", 0.01)
    assert carriers(mark) == []


def test_a_process_without_an_environment_is_not_being_started(bare: subprocess.Popen[bytes], mark: str) -> None:
    assert look(bare.pid, mark) is Look.OTHER

"""The control socket: server and client."""

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from nooks.host.errors import InputError, StateError
from nooks.nook.control import ControlClient, ControlGone, RemoteError, listen, result_of
from nooks.nook.control_server import Arguments, ControlServer


async def echo(arguments: Arguments) -> Any:  # noqa: ANN401
    return arguments


async def refuse(arguments: Arguments) -> None:
    raise InputError("ring.rx is too large", "use at most 4096")


async def conflict(arguments: Arguments) -> None:
    raise StateError("degraded")


async def crash(arguments: Arguments) -> None:
    raise ZeroDivisionError("a defect")


async def count(arguments: Arguments) -> AsyncIterator[int]:
    for number in range(arguments["to"]):
        yield number


async def sleep(arguments: Arguments) -> str:
    await asyncio.sleep(arguments["seconds"])
    return "slept"


T = TypeVar("T")

HANDLERS = {
    "echo": echo,
    "refuse": refuse,
    "conflict": conflict,
    "crash": crash,
    "count": count,
    "sleep": sleep,
}


def served(directory: Path, use: Callable[[ControlClient], T]) -> T:
    """What ``use`` returns, called with a client in a thread while a server runs."""

    async def run() -> T:
        path = directory / "control"

        def talk() -> T:
            with ControlClient.connect(path, "nic0") as client:
                return use(client)

        with listen(path) as listener:
            async with ControlServer(listener, HANDLERS):
                return await asyncio.to_thread(talk)

    return asyncio.run(run())


def test_requests_one_after_the_other(tmp_path: Path) -> None:
    def use(client: ControlClient) -> list[Any]:
        return [client.request("echo", {"n": n, "text": "ä\n"}) for n in range(3)]

    assert served(tmp_path, use) == [{"n": n, "text": "ä\n"} for n in range(3)]


def test_errors_keep_message_fix_and_exit_code(tmp_path: Path) -> None:
    def use(client: ControlClient) -> list[tuple[str, str, int]]:
        found: list[tuple[str, str, int]] = []
        for command in ("refuse", "conflict"):
            with pytest.raises(RemoteError) as caught:
                client.request(command)
            found.append((caught.value.message, caught.value.fix, caught.value.exit_code))
        return found

    assert served(tmp_path, use) == [("ring.rx is too large", "use at most 4096", 2), ("degraded", "", 1)]


def test_a_defect_is_told_and_logged_and_does_not_end_the_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def use(client: ControlClient) -> Any:  # noqa: ANN401
        with pytest.raises(RemoteError, match="internal error: ZeroDivisionError"):
            client.request("crash")
        return client.request("echo", {})

    assert served(tmp_path, use) == {}
    assert "Traceback" in capsys.readouterr().err


def test_streams(tmp_path: Path) -> None:
    assert served(tmp_path, lambda client: list(client.stream("count", {"to": 4}))) == [0, 1, 2, 3]
    assert served(tmp_path, lambda client: client.request("count", {"to": 4})) is None


def test_unknown_commands(tmp_path: Path) -> None:
    def use(client: ControlClient) -> None:
        with pytest.raises(RemoteError, match="no command dance"):
            client.request("dance")

    served(tmp_path, use)


def test_a_slow_answer(tmp_path: Path) -> None:
    def use(client: ControlClient) -> None:
        with pytest.raises(ControlGone, match="did not answer"):
            client.request("sleep", {"seconds": 0.4}, timeout_seconds=0.05)

    served(tmp_path, use)


@pytest.mark.parametrize(
    "line", [b"what\n", b"[]\n", b"{}\n", b'{"command": 3}\n', b'{"command": "echo", "arguments": [1]}\n', b"\xff\n"]
)
def test_nonsense_gets_an_error_and_the_connection_goes_on(tmp_path: Path, line: bytes) -> None:
    def use(_: ControlClient) -> None:
        with socket.socket(socket.AF_UNIX) as raw, raw.makefile("rb") as lines:
            raw.connect(str(tmp_path / "control"))
            raw.sendall(line)
            assert json.loads(lines.readline())["error"]["exit_code"] == 2
            raw.sendall(b'{"command": "echo"}\n')
            assert json.loads(lines.readline()) == {"result": {}}

    served(tmp_path, use)


def test_a_client_that_leaves_does_not_cancel_its_command(tmp_path: Path) -> None:
    finished: list[bool] = []

    async def failover(arguments: Arguments) -> None:
        await asyncio.sleep(0.1)
        finished.append(True)

    async def run() -> None:
        with listen(tmp_path / "control") as listener:
            async with ControlServer(listener, {"failover": failover}):
                reader, writer = await asyncio.open_unix_connection(tmp_path / "control")
                writer.write(b'{"command": "failover"}\n')
                await writer.drain()
                writer.close()
                await asyncio.sleep(0.3)
                assert reader.at_eof() is not None

    asyncio.run(run())
    assert finished == [True]


def test_the_last_answer_gets_out_before_the_server_ends(tmp_path: Path) -> None:
    async def run() -> Any:  # noqa: ANN401
        stopping = asyncio.Event()

        async def stop(arguments: Arguments) -> str:
            stopping.set()
            await asyncio.sleep(0.05)
            return "stopped"

        def ask() -> Any:  # noqa: ANN401
            with ControlClient.connect(tmp_path / "control", "nic0") as client:
                return client.request("stop")

        with listen(tmp_path / "control") as listener:
            async with ControlServer(listener, {"stop": stop}):
                asking = asyncio.create_task(asyncio.to_thread(ask))
                await stopping.wait()
            return await asking

    assert asyncio.run(run()) == "stopped"


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(ControlGone, match="'nooks start nic0' adopts it"):
        ControlClient.connect(tmp_path / "control", "nic0")
    listen(tmp_path / "control").close()
    with pytest.raises(ControlGone, match="supervisor of nic0 is dead"):
        ControlClient.connect(tmp_path / "control", "nic0")


def test_the_supervisor_dies_while_it_works(tmp_path: Path) -> None:
    with listen(tmp_path / "control") as listener, ControlClient.connect(tmp_path / "control", "nic0") as client:
        connection, _ = listener.accept()
        connection.close()
        with pytest.raises(ControlGone, match="is dead"):
            client.request("status")


def test_listen_replaces_what_is_there_and_keeps_others_out(tmp_path: Path) -> None:
    path = tmp_path / "control"
    listen(path).close()
    with listen(path):
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.stat().st_uid == os.geteuid()


@pytest.mark.parametrize("document", [{}, {"error": 3}])
def test_senseless_answers(document: dict[str, Any]) -> None:
    with pytest.raises(ControlGone):
        result_of(document)

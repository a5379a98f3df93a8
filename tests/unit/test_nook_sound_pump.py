"""When a domain lets go of its port: what it says while it is being ended counts no more, that it has gone does."""

import asyncio
import socket

import pytest

from nooks.nook.sound_ports import Port
from nooks.nook.sound_pump import Pump
from nooks.xpc import audio
from nooks.xpc.errors import ProtocolError


class Silent:
    """A flow and an endpoint that want nothing."""

    played = recorded = capture = None
    open = busy = False

    def __init__(self) -> None:
        self.said: list[str] = []

    def heard(self, packet: audio.Packet) -> None:
        self.said.append(f"kind {packet.kind}")

    def ended(self) -> None:
        self.said.append("ended")


@pytest.mark.parametrize(
    "last_words", [b"", audio.header(audio.PLAYED, 1), b"\xff" * 64], ids=["none", "a report", "noise"]
)
def test_a_port_that_is_closed_while_its_domain_is_ended(last_words: bytes) -> None:
    asyncio.run(_end_a_domain(last_words))


async def _end_a_domain(last_words: bytes) -> None:
    said: list[ProtocolError] = []
    flow = Silent()
    ours, theirs = socket.socketpair()
    with ours:
        pump = Pump(flow, flow, said.append)  # type: ignore[arg-type]
        pump.follow(Port(ours))
        pump.await_end()
        theirs.send(last_words)
        await asyncio.sleep(0.01)
        assert flow.said == []
        theirs.close()
        async with asyncio.timeout(5):
            while not flow.said:
                await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        pump.close()
    assert (flow.said, said) == (["ended"], [])

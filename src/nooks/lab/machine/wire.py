"""What both ends of the lab machine's ports agree on. Standard library only: half of it runs inside.

Four virtio-serial ports: ``control`` carries JSON lines both ways, ``stdin`` frames (a length, then as many bytes; a
length of zero is the end of the input), ``stdout`` and ``stderr`` plain bytes. How many of these there were is told at
the end on ``control``, so that nothing is lost and nothing waited for in vain.

Guest to host: ``{"event": "ready"}`` when the command starts, ``{"event": "exit", "status", "stdout", "stderr"}`` with
the status as a shell has it (128 + number for a signal) and the bytes written, ``{"event": "failed", "message"}``
if the command could not be started. Host to guest: ``{"event": "size", "rows", "columns"}``.
"""

import json
import struct
from typing import Any

PORTS = ("control", "stdin", "stdout", "stderr")
"""In the order of their numbers, from 1."""

JOB = "/nooks-lab/job.json"
"""Where the initramfs has the job; and after the change of the root, where it lies below /run."""

DEVICES = "/run/nooks-lab/devices.json"

CHUNK_BYTES = 1 << 16

_LENGTH = struct.Struct("<I")


def port_name(kind: str) -> str:
    """The name of a port as the guest's kernel shows it."""
    return f"nooks.lab.{kind}"


def frame(data: bytes) -> bytes:
    """A piece of the input; an empty one is its end."""
    return _LENGTH.pack(len(data)) + data


class Frames:
    """Takes frames apart as bytes come in."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.ended = False

    def feed(self, data: bytes) -> bytes:
        """All of the input that is complete now; ``ended`` says whether it was the last."""
        self._buffer += data
        out = bytearray()
        while len(self._buffer) >= _LENGTH.size and not self.ended:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if len(self._buffer) < _LENGTH.size + length:
                break
            out += self._buffer[_LENGTH.size : _LENGTH.size + length]
            del self._buffer[: _LENGTH.size + length]
            self.ended = length == 0
        return bytes(out)


class Lines:
    """Takes JSON lines apart as bytes come in."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The documents that are complete now. Raises ValueError for what is no JSON object."""
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        documents = [json.loads(line) for line in lines if line.strip()]
        if not all(isinstance(document, dict) for document in documents):
            raise ValueError("not a JSON object")
        return documents


def line(**fields: Any) -> bytes:  # noqa: ANN401 - any JSON value
    """One JSON document as a line."""
    return json.dumps(fields).encode() + b"\n"

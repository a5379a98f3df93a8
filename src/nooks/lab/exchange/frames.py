"""How files travel in an exchange: blocks of known content, each with its length in front, and a digest at the end."""

import hashlib
import socket
import struct

from nooks.lab.content import BLOCK_BYTES, Content

REQUEST = struct.Struct("!4sI")  # what is wanted of the server, and the seed of the content
GET, PUT, ASK = b"GET ", b"PUT ", b"ASK "
RIGHT, WRONG = b"+", b"-"
_LENGTH = struct.Struct("!I")  # of a block; 0: no more come, a digest follows
_DIGEST_BYTES = hashlib.sha256().digest_size
SO_MAX_PACING_RATE = 47
_BUFFER_BYTES = 128 << 10


class Sender:
    """Sends the blocks that belong to a seed, at ``rate_bytes`` per second (the kernel paces them: socket(7))."""

    def __init__(self, connection: socket.socket, seed: int, rate_bytes: int) -> None:
        connection.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, rate_bytes)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)  # the end shall not be far off
        self._connection = connection
        self._content = Content(seed)
        self._digest = hashlib.sha256()
        self._index = 0

    def send_block(self) -> None:
        """The next block. Raises OSError."""
        block = self._content.block(self._index)
        self._connection.sendall(_LENGTH.pack(len(block)) + block)
        self._digest.update(block)
        self._index += 1

    def finish(self) -> None:
        """That was all. Raises OSError."""
        self._connection.sendall(_LENGTH.pack(0) + self._digest.digest())


class Receiver:
    """Receives the blocks that belong to a seed and compares every byte."""

    def __init__(self, connection: socket.socket, seed: int) -> None:
        self._connection = connection
        self._content = Content(seed)
        self._digest = hashlib.sha256()
        self.blocks = 0
        self.wrong_blocks = 0

    def receive(self) -> bool:
        """The next block; False at the end. Raises EOFError if the connection ends before, OSError, ValueError."""
        (length,) = _LENGTH.unpack(exactly(self._connection, _LENGTH.size))
        if not length:
            if exactly(self._connection, _DIGEST_BYTES) != self._digest.digest():
                raise ValueError("the checksum of the file is wrong")
            return False
        if length != BLOCK_BYTES:
            raise ValueError("a block has a wrong length")
        block = exactly(self._connection, length)
        self._digest.update(block)
        self.wrong_blocks += block != self._content.block(self.blocks)
        self.blocks += 1
        return True


def exactly(connection: socket.socket, size_bytes: int) -> bytes:
    """So many bytes. Raises EOFError if the connection ends before, OSError."""
    data = bytearray(size_bytes)
    view = memoryview(data)
    while view:
        received = connection.recv_into(view)
        if not received:
            raise EOFError("the connection was closed")
        view = view[received:]
    return bytes(data)

"""Netlink's framing, and what generic netlink says of its families; standard library only, as rtnl.py explains.

Formats: netlink(7), include/uapi/linux/{netlink,genetlink}.h.
"""

import os
import socket
import struct
import sys
from collections.abc import Iterator

NLMSG_ERROR, NLMSG_DONE = 2, 3
REQUEST, ACK, DUMP, CREATE, EXCLUSIVE = 0x1, 0x4, 0x300, 0x400, 0x200
_NETLINK_GENERIC = 16
_GENL_CONTROL, _GETFAMILY = 16, 3
_CTRL_FAMILY_ID, _CTRL_FAMILY_NAME, _CTRL_GROUPS = 1, 2, 7
_HEADER = struct.Struct("=IHHII")
_GENERIC = struct.Struct("=BBH")
_ATTRIBUTE = struct.Struct("=HH")
_TYPE_MASK = 0x3FFF
_RECEIVE_BYTES = 1 << 17


def generic_socket() -> socket.socket:
    """A socket for generic netlink, in the network namespace that we are in. Raises OSError."""
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_GENERIC)


def family(connection: socket.socket, name: str) -> dict[int, bytes]:
    """What generic netlink says of a family. Raises OSError (ENOENT: the kernel has none of that name)."""
    body = generic(_GETFAMILY, attribute(_CTRL_FAMILY_NAME, name.encode() + b"\0"))
    answers = list(exchange(connection, message(_GENL_CONTROL, REQUEST | ACK, body)))  # to the last: others follow
    for kind, answer in answers:
        if kind == _GENL_CONTROL:
            return generic_attributes(answer)
    raise OSError(2, f"generic netlink has no family {name}")


def family_number(connection: socket.socket, name: str) -> int:
    """The type of a family's messages. Raises OSError."""
    return number(family(connection, name).get(_CTRL_FAMILY_ID)) or 0


def multicast_group(connection: socket.socket, name: str, group: str) -> int:
    """The number of a family's group. Raises OSError."""
    for entry in attributes(family(connection, name).get(_CTRL_GROUPS, b"")).values():
        found = attributes(entry)
        if text(found.get(1)) == group:
            return number(found.get(2)) or 0
    raise OSError(2, f"generic netlink has no group {name}/{group}")


def generic(command: int, body: bytes) -> bytes:
    """The body of a message of generic netlink."""
    return _GENERIC.pack(command, 1, 0) + body


def generic_attributes(body: bytes) -> dict[int, bytes]:
    """The attributes in a message of generic netlink."""
    return attributes(body[_GENERIC.size :])


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The type and body of each message in one datagram."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size:
            return
        yield kind, data[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3


def exchange(connection: socket.socket, request: bytes) -> Iterator[tuple[int, bytes]]:
    """Send one request; its answers up to the acknowledgement or the end of the dump. Raises OSError."""
    connection.send(request)
    while True:
        for kind, body in messages(connection.recv(_RECEIVE_BYTES)):
            if kind == NLMSG_DONE:
                return
            if kind == NLMSG_ERROR:
                (code,) = struct.unpack_from("=i", body)
                if code:
                    raise OSError(-code, os.strerror(-code))
                return
            yield kind, body


def message(kind: int, flags: int, body: bytes) -> bytes:
    """A whole message."""
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def attributes(data: bytes) -> dict[int, bytes]:
    """All attributes, by type; of repeated ones the last."""
    found: dict[int, bytes] = {}
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size:
            break
        found[kind & _TYPE_MASK] = data[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
    return found


def number(value: bytes | None) -> int | None:
    """The number in an attribute."""
    return None if value is None else int.from_bytes(value, sys.byteorder)


def text(value: bytes | None) -> str:
    """The zero-terminated text in an attribute; "" if there is none."""
    return "" if value is None else value.split(b"\0", 1)[0].decode(errors="replace")

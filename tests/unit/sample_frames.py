"""Frames of every kind that a TAP carries, each with its virtio-net header."""

import os
import socket
import struct

from endpoints import MAC, PEER_MAC


def ethernet(kind: int, payload: bytes) -> bytes:
    source, target = bytes.fromhex(MAC.replace(":", "")), bytes.fromhex(PEER_MAC.replace(":", ""))
    return target + source + struct.pack("!H", kind) + payload


def ipv4(protocol: int, payload: bytes) -> bytes:
    addresses = socket.inet_aton("192.0.2.1") + socket.inet_aton("192.0.2.2")
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 7, 0x4000, 64, protocol, 0) + addresses
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    return header[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + header[12:] + payload


def ipv6(protocol: int, payload: bytes) -> bytes:
    addresses = socket.inet_pton(socket.AF_INET6, "2001:db8::1") + socket.inet_pton(socket.AF_INET6, "2001:db8::2")
    return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64) + addresses + payload


def pseudo_sum(protocol: int, length: int) -> int:
    """What the stack leaves in a checksum field that the device shall complete (over IPv4)."""
    words = struct.unpack("!4H", socket.inet_aton("192.0.2.1") + socket.inet_aton("192.0.2.2"))
    total = sum(words) + protocol + length
    return (total & 0xFFFF) + (total >> 16)


def vnet(flags: int, gso: int, header: int, size: int, start: int, offset: int) -> bytes:
    return struct.pack("=BBHHHHH", flags, gso, header, size, start, offset, 0)


def tcp(length: int, checksum: int) -> bytes:
    return struct.pack("!HHIIBBHHH", 40000, 80, 1, 1, 0x50, 0x10, 65535, checksum, 0) + os.urandom(length)


def sample_frames() -> dict[str, bytes]:
    udp = struct.pack("!HHHH", 4000, 5000, 108, pseudo_sum(17, 108)) + os.urandom(100)
    plain = ipv4(17, struct.pack("!HHHH", 4000, 5000, 108, 0) + os.urandom(100))
    segments = tcp(20000, pseudo_sum(6, 20020))
    return {
        "plain": vnet(0, 0, 0, 0, 0, 0) + ethernet(0x0800, plain),
        "tagged": vnet(0, 0, 0, 0, 0, 0) + ethernet(0x8100, struct.pack("!HH", 5, 0x0800) + plain),
        "no-ip": vnet(0, 0, 0, 0, 0, 0) + ethernet(0x88B5, os.urandom(46)),
        "checksum": vnet(1, 0, 0, 0, 34, 6) + ethernet(0x0800, ipv4(17, udp)),
        "tso4": vnet(1, 1, 54, 1448, 34, 16) + ethernet(0x0800, ipv4(6, segments)),
        "tso6": vnet(1, 4, 74, 1428, 54, 16) + ethernet(0x86DD, ipv6(6, segments)),
        "uso4": vnet(1, 5, 42, 1000, 34, 6)
        + ethernet(0x0800, ipv4(17, struct.pack("!HHHH", 4000, 5000, 8008, pseudo_sum(17, 8008)) + os.urandom(8000))),
    }

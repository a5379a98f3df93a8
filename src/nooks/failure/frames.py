"""The four frames of a neighbour probe: ARP request and reply (RFC 826), neighbour solicitation and advertisement
(RFC 4861), as bytes."""

import ipaddress
import struct

BROADCAST = b"\xff" * 6
ETH_ARP, ETH_IPV6 = 0x0806, 0x86DD
_ICMPV6, _SOLICITATION, _ADVERTISEMENT = 58, 135, 136


def arp_request(
    mac: bytes, source: ipaddress.IPv4Address, target: ipaddress.IPv4Address, destination: bytes = BROADCAST
) -> bytes:
    """Who has ``target``? Tell ``source``."""
    head = destination + mac + struct.pack("!HHHBBH", ETH_ARP, 1, 0x0800, 6, 4, 1)
    return (head + mac + source.packed + bytes(6) + target.packed).ljust(60, b"\0")


def arp_sender(frame: bytes) -> ipaddress.IPv4Address | None:
    """Who speaks in an ARP reply; None if the frame is none."""
    if len(frame) < 42 or frame[12:22] != struct.pack("!HHHBBH", ETH_ARP, 1, 0x0800, 6, 4, 2):
        return None
    return ipaddress.IPv4Address(frame[28:32])


def solicitation(
    mac: bytes, source: ipaddress.IPv6Address, target: ipaddress.IPv6Address, destination: bytes | None = None
) -> bytes:
    """Who has ``target``? Asked of ``destination``'s hardware address, else of the solicited-node group."""
    group = ipaddress.IPv6Address(bytes.fromhex("ff0200000000000000000001ff") + target.packed[13:])
    to = group if destination is None else target
    hardware = destination or b"\x33\x33" + group.packed[12:]
    message = struct.pack("!BBHI", _SOLICITATION, 0, 0, 0) + target.packed + b"\x01\x01" + mac
    checksum = _checksum(source.packed + to.packed + struct.pack("!IBBBB", len(message), 0, 0, 0, _ICMPV6) + message)
    message = message[:2] + struct.pack("!H", checksum) + message[4:]
    head = struct.pack("!IHBB", 6 << 28, len(message), _ICMPV6, 255) + source.packed + to.packed
    return hardware + mac + struct.pack("!H", ETH_IPV6) + head + message


def advertiser(frame: bytes) -> ipaddress.IPv6Address | None:
    """Whom a neighbour advertisement is about; None if the frame is none."""
    if len(frame) < 78 or frame[12:14] != b"\x86\xdd" or frame[20] != _ICMPV6 or frame[54] != _ADVERTISEMENT:
        return None
    return ipaddress.IPv6Address(frame[62:78])


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF

"""Internet checksums, filled into frames as a card does it (RFC 1071, RFC 768, RFC 793)."""

import struct

_ETHERNET_BYTES, _VLAN_BYTES = 14, 4
_VLAN, _IPV4 = 0x8100, 0x0800
_TCP, _UDP = 6, 17
_CHECKSUM_AT = {_TCP: 16, _UDP: 6}
_FRAGMENTED = 0x3FFF
_HEADERS = struct.Struct(">12xHBxHxxHxB")
"""Of an Ethernet frame the type; of its IPv4 packet the header's and the whole length, the fragment, the protocol."""
_ADDRESSES_AT, _ADDRESSES_BYTES, _LEAST_HEADER_BYTES = 12, 8, 20


def fill_in(frame: bytearray) -> None:
    """Put the TCP or UDP checksum into an IPv4 frame; one of another kind stays as it is.

    The sum over 16-bit words with end-around carry is the rest of a division by 65535, which is quicker here. Of the
    two ways to write nought it gives the one that UDP wants.
    """
    start = _ETHERNET_BYTES
    if len(frame) < start + _VLAN_BYTES + _LEAST_HEADER_BYTES:
        return
    kind, first, total, fragment, protocol = _HEADERS.unpack_from(frame)
    if kind == _VLAN:
        kind, first, total, fragment, protocol = _HEADERS.unpack_from(frame, _VLAN_BYTES)
        start += _VLAN_BYTES
    header_bytes = (first & 15) * 4
    if kind != _IPV4 or protocol not in _CHECKSUM_AT or header_bytes < _LEAST_HEADER_BYTES:
        return
    segment, end = start + header_bytes, start + total
    at = segment + _CHECKSUM_AT[protocol]
    if fragment & _FRAGMENTED or end > len(frame) or at + 2 > end:
        return
    frame[at : at + 2] = b"\0\0"
    addresses = start + _ADDRESSES_AT
    pseudo_header = protocol + end - segment
    if header_bytes == _LEAST_HEADER_BYTES:  # the addresses come right before the segment
        summed = int.from_bytes(frame[addresses:end], "big")
    else:
        summed = int.from_bytes(frame[addresses : addresses + _ADDRESSES_BYTES] + frame[segment:end], "big")
    if end - segment & 1:
        summed <<= 8
    struct.pack_into(">H", frame, at, 0xFFFF - (summed + pseudo_header) % 0xFFFF)

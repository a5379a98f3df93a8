"""Internet checksums, filled into frames as a card does it (RFC 1071, RFC 768, RFC 793)."""

import struct

_ETHERNET_BYTES, _VLAN_BYTES = 14, 4
_VLAN, _IPV4 = 0x8100, 0x0800
_TCP, _UDP = 6, 17
_CHECKSUM_AT = {_TCP: 16, _UDP: 6}
_FRAGMENTED = 0x3FFF


def fill_in(frame: bytearray) -> None:
    """Put the TCP or UDP checksum into an IPv4 frame; one of another kind stays as it is.

    The sum over 16-bit words with end-around carry is the rest of a division by 65535, which is quicker here. Of the
    two ways to write nought it gives the one that UDP wants.
    """
    start = _ETHERNET_BYTES
    if len(frame) < start + 20:
        return
    kind = frame[12] << 8 | frame[13]
    if kind == _VLAN:
        kind = frame[16] << 8 | frame[17]
        start += _VLAN_BYTES
    header_bytes = (frame[start] & 15) * 4
    protocol = frame[start + 9] if start + 9 < len(frame) else 0
    if kind != _IPV4 or protocol not in _CHECKSUM_AT or header_bytes < 20:
        return
    total, _, fragment = struct.unpack_from(">HHH", frame, start + 2)
    segment, end = start + header_bytes, start + total
    at = segment + _CHECKSUM_AT[protocol]
    if fragment & _FRAGMENTED or end > len(frame) or at + 2 > end:
        return
    frame[at : at + 2] = b"\0\0"
    data = frame[segment:end]
    if len(data) & 1:
        data += b"\0"
    addresses = int.from_bytes(frame[start + 12 : start + 20], "big")
    total_sum = int.from_bytes(data, "big") + addresses + protocol + end - segment
    struct.pack_into(">H", frame, at, 0xFFFF - total_sum % 0xFFFF)

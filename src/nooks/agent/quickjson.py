"""JSON by CPython's C accelerator alone. ``import json`` drags in ``re`` and ``enum``: 90 ms under emulation."""

from _json import encode_basestring_ascii, make_encoder, make_scanner


class _Context:
    """What the C scanner asks of a JSONDecoder."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = None


def _no_default(value: object) -> object:
    raise TypeError(f"{type(value).__name__} is not JSON")


_scan = make_scanner(_Context)  # type: ignore[arg-type]  # the stub is wrong: any object with these does
_encode = make_encoder(None, _no_default, encode_basestring_ascii, None, ":", ",", False, False, False)


def load(body: bytes) -> object:
    """The JSON value that ``body`` begins with. Raises ValueError if there is none."""
    try:
        return _scan(body.decode("utf-8"), 0)[0]
    except StopIteration:
        raise ValueError("no JSON value") from None


def dump(value: object) -> bytes:
    """``value`` as JSON in ASCII. Raises TypeError or ValueError if it cannot be."""
    return "".join(_encode(value, 0)).encode("ascii")

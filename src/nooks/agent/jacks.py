"""A card's jacks: control elements that say whether something is plugged in.

Source: the kernel's sound/core/ctljack.c (their names end in " Jack", their interface is the card) and
include/uapi/sound/asound.h (events of elements).
"""

import os

from nooks.agent import alsa
from nooks.agent.mixer import name_of

_SUFFIX = " Jack"
_JACKS_MAX = 32
_EVENTS_BYTES = 4096
_SUBSCRIBE = (1).to_bytes(4, "little")


class Jacks:
    """The jacks of one card; ``descriptor`` is readable when an element of it has changed."""

    def __init__(self, path: str) -> None:
        """Raises OSError if the control node ``path`` can't be opened."""
        self.descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._identities: dict[str, bytes] = {}
        for identity in alsa.element_ids(self.descriptor):
            _, iface, _, _, name, index = alsa.ELEMENT_ID.unpack(identity)
            shown = name_of(name)
            if iface != alsa.IFACE_CARD or not shown.endswith(_SUFFIX) or len(self._identities) >= _JACKS_MAX:
                continue
            if _only_tells(self.descriptor, identity):
                key = shown.removesuffix(_SUFFIX) + (f" {index}" if index else "")
                self._identities[key] = identity
        if self._identities:
            alsa.subscribe_events(self.descriptor, _SUBSCRIBE)

    def read(self) -> "dict[str, bool]":
        """Whether something is plugged in, by jack; what can't be read is left out."""
        found: dict[str, bool] = {}
        for name, identity in self._identities.items():
            try:
                content = alsa.ELEMENT_VALUE.unpack(alsa.element_read(self.descriptor, identity))[2]
            except OSError:
                continue
            found[name] = alsa.LONG.unpack_from(content)[0] != 0
        return found

    def drain(self) -> None:
        """Read what has been announced: which element it was does not matter."""
        try:
            while os.read(self.descriptor, _EVENTS_BYTES):
                pass
        except OSError:
            pass  # read empty


def _only_tells(descriptor: int, identity: bytes) -> bool:
    """Whether an element is true or false and can't be set: snd-ens1370 has a switch that is called a jack."""
    _, kind, access, _, _, _ = alsa.ELEMENT_INFO.unpack(alsa.element_info(descriptor, identity))
    return kind == alsa.BOOLEAN and access & (alsa.ACCESS_READ | alsa.ACCESS_WRITE) == alsa.ACCESS_READ

"""The mixer of a sound card of the host's: read before the card is taken, put back as it was when it is given back.

By the agent's own binding of ALSA, which needs nothing but the card's control node.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nooks.agent.mixer import Mixer
from nooks.device.sysfs import wait_until

_NODES = Path("/dev/snd")


def read(card: str) -> dict[str, Any]:
    """The values of a card ("card0") by element; none if its mixer can't be read."""
    try:
        with Mixer(str(_node(card))) as mixer:
            return mixer.read()
    except OSError:
        return {}


def restore(card: str, values: Mapping[str, Any], within_seconds: float) -> list[str]:
    """Give a card, whose node may take a moment to appear, its values again; what it did not take, in words."""
    node = _node(card)
    wait_until(node.exists, within_seconds)
    try:
        with Mixer(str(node)) as mixer:
            return [f"{key}: {why}" for key, why in mixer.apply(dict(values)).items()]
    except OSError as error:
        return [f"{node}: {error.strerror}"]


def _node(card: str) -> Path:
    return _NODES / f"controlC{card.removeprefix('card')}"

"""The sound class inside the domain: drives the card's playback and recording streams and its mixer.

Samples come and go by the port ``nooks.sound`` (nooks.xpc.audio). At each of the card's interrupts the host is told how
many frames were played, so that it knows what it may send and what was heard.
"""

import os
import select
import time

from nooks.agent import interrupts, system
from nooks.agent.jacks import Jacks
from nooks.agent.mixer import Mixer
from nooks.agent.pcm import Stream
from nooks.agent.ports import find_port
from nooks.agent.streams import Playing, Port, Recording

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_NODES = "/dev/snd"
_CLASS = "/sys/class/sound"
_PORT = "nooks.sound"
_PORT_TIMEOUT_SECONDS = 10.0
_APPEAR_TIMEOUT_SECONDS = 6.0
_EBUSY = 16
_DIRECTIONS = {"playback": "p", "capture": "c"}


class Sound:
    """The one sound card of this domain."""

    def __init__(self) -> None:
        self._interrupts_before = interrupts.active()
        self._poller = select.epoll()
        self._port = Port(find_port(_PORT, _PORT_TIMEOUT_SECONDS), self._poller)
        self._card = self._counter = ""
        self._mixer: Mixer  # from bring_up on, and the next
        self._jacks: Jacks
        self._plugged: dict[str, bool] = {}
        self._streams: dict[str, Stream] = {}
        self._configured: dict[str, dict[str, Any]] = {}
        self._playing: Playing | None = None
        self._recording: Recording | None = None

    def bring_up(self, wanted: "dict[str, Any]", claim_seconds: float) -> "dict[str, Any]":
        """See the ``bring_up`` message. Raises Unable if no card with a stream appears in time."""
        started = time.monotonic()
        number = _wait_for_card(max(_APPEAR_TIMEOUT_SECONDS, claim_seconds))
        self._card = f"card{number}"
        self._mixer = Mixer(f"{_NODES}/controlC{number}")
        self._mixer.make_audible()
        self._jacks = Jacks(f"{_NODES}/controlC{number}")
        self._poller.register(self._jacks.descriptor, select.EPOLLIN)
        appeared = time.monotonic()
        for direction, letter in _DIRECTIONS.items():
            self._open(direction, _nodes(number, letter))
        refused = self.apply(wanted)["refused"]
        new = interrupts.new(self._interrupts_before)
        self._counter = interrupts.counter(new[0]) if new else ""
        return {
            "driver": _driver(self._card),
            "state": self._state(whole=True),
            "seconds": {"probe": appeared - started, "link": time.monotonic() - appeared},
            "readback": self._read(),
            "refused": refused,
        }

    def apply(self, wanted: "dict[str, Any]") -> "dict[str, Any]":
        """Make the settings so; reads back those that were asked for."""
        refused: dict[str, str] = {}
        for direction in _DIRECTIONS:
            values = _of(direction, wanted)
            if values:
                refused.update(self._reconfigure(direction, values))
        refused.update(self._mixer.apply({key: value for key, value in wanted.items() if key.startswith("mixer.")}))
        return {"readback": self._read(list(wanted)), "refused": refused, "state": self._state()}

    def read(self) -> "dict[str, Any]":
        """The present state."""
        return {"readback": self._read(), "state": self._state(whole=True), "statistics": self._statistics()}

    def counters(self) -> "dict[str, str]":
        """The card's interrupts."""
        return {"interrupts": self._counter} if self._counter else {}

    def _interrupts(self) -> object:
        """How often the card has interrupted; something new each time where that is not known."""
        try:
            return system.read(self._counter)
        except OSError:
            return object()

    def device(self) -> str:
        """The folder of the PCI device: the card, or the controller that it is plugged into."""
        folder = _device(self._card)
        while not os.path.exists(f"{folder}/config"):  # noqa: PTH110 - pathlib costs too much here
            if folder in ("", "/"):
                raise system.Unable("this card is not on PCI")
            folder = os.path.dirname(folder)  # noqa: PTH120
        return folder

    def silence(self) -> None:
        """Keep the card's interrupts (or, on ISA, its DMA, whenever it starts) from it, behind the driver's back."""
        try:
            device = self.device()
        except system.Unable:
            interrupts.mask_isa_dma()
            for stream in self._streams.values():
                stream.when_started = interrupts.mask_isa_dma
        else:
            interrupts.disable(device)

    def fileno(self) -> int:
        """Readable when the host or the card has something for us."""
        return self._poller.fileno()

    def events(self) -> "list[dict[str, Any]]":
        """Moves samples; a ``changed`` event if something was plugged in or pulled out."""
        changed = False
        for descriptor, events in self._poller.poll(0):
            if descriptor == self._port.descriptor:
                self._serve(events)
            elif self._playing is not None and descriptor == self._playing.descriptor:
                self._playing.interrupted()
            elif self._recording is not None and descriptor == self._recording.descriptor:
                self._recording.interrupted()
            elif descriptor == self._jacks.descriptor:
                self._jacks.drain()
                changed = self._jacks.read() != self._plugged
        return [{"type": "changed", "state": self._state()}] if changed else []

    def _serve(self, events: int) -> None:
        for packet in self._port.ready(events):
            if packet.kind in Playing.KINDS and self._playing is not None:
                self._playing.take(packet)
            elif packet.kind in Recording.KINDS and self._recording is not None:
                self._recording.take(packet)

    def _open(self, direction: str, nodes: "list[str]") -> None:
        """Open the card's first stream of a direction, if it has one beside those that are open already."""
        if not nodes:
            return
        try:
            stream = Stream(f"{_NODES}/{nodes[0]}", direction == "playback")
        except OSError as error:
            if error.errno == _EBUSY:
                return  # a card that plays or records, one at a time
            raise
        self._streams[direction] = stream
        self._configure(direction, {})
        self._poller.register(stream.descriptor, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)

    def _configure(self, direction: str, values: "dict[str, Any]") -> None:
        stream = self._streams[direction]
        stream.configure(values)
        self._configured[direction] = values
        if direction == "playback":
            self._playing = Playing(stream, self._port, self._interrupts)
        else:
            self._recording = Recording(stream, self._port)

    def _reconfigure(self, direction: str, values: "dict[str, Any]") -> "dict[str, str]":
        """Give a stream other parameters, unless it has them; what it did not take, and why."""
        stream = self._streams.get(direction)
        if stream is None:
            return {f"{direction}.{key}": f"the card has no {direction}" for key in values}
        present = stream.parameters.describe()
        if all(present.get(key) == value for key, value in values.items()):
            return {}
        self._configure(direction, {**self._configured[direction], **values})
        present = stream.parameters.describe()
        return {
            f"{direction}.{key}": f"the card has {present.get(key)}"
            for key, value in values.items()
            if present.get(key) != value
        }

    def _read(self, keys: "list[str] | None" = None) -> "dict[str, Any]":
        values = self._mixer.read(None if keys is None else [key for key in keys if key.startswith("mixer.")])
        for direction, stream in self._streams.items():
            for name, value in stream.parameters.describe().items():
                if name in ("format", "channels", "rate", "period"):
                    values[f"{direction}.{name}"] = value
        return values

    def _state(self, whole: bool = False) -> "dict[str, Any]":
        streams = {
            direction: self._streams[direction].parameters.describe() if direction in self._streams else None
            for direction in _DIRECTIONS
        }
        elements = {key: element.describe() for key, element in self._mixer.elements.items()} if whole else None
        self._plugged = self._jacks.read()
        return {
            "class": "sound",
            "card": self._mixer.card(),
            **streams,
            "elements": elements,
            "jacks": self._plugged,
        }

    def _statistics(self) -> "dict[str, int]":
        found: dict[str, int] = {}
        if self._playing is not None:
            found["underruns"] = self._playing.xruns
        if self._recording is not None:
            found["overruns"] = self._recording.xruns
        return found


def create() -> Sound:
    """The class's entry point for the agent."""
    return Sound()


def _of(direction: str, wanted: "dict[str, Any]") -> "dict[str, Any]":
    """A stream's parameters among settings."""
    prefix = direction + "."
    return {key[len(prefix) :]: value for key, value in wanted.items() if key.startswith(prefix)}


def _wait_for_card(within_seconds: float) -> int:
    """The number of the first card that has a stream and whose nodes are there."""
    deadline = time.monotonic() + within_seconds
    while True:
        for node in sorted(_list(_NODES)):
            if node.startswith("controlC"):
                number = int(node[len("controlC") :])
                if any(_nodes(number, letter) for letter in _DIRECTIONS.values()):
                    return number
        if time.monotonic() > deadline:
            raise system.Unable("no sound card appeared")
        time.sleep(0.002)


def _nodes(number: int, letter: str) -> "list[str]":
    """The nodes of a card's streams of one direction, the card's first device first."""
    prefix = f"pcmC{number}D"
    found = [node for node in _list(_NODES) if node.startswith(prefix) and node.endswith(letter)]
    return sorted(found, key=lambda node: int(node[len(prefix) : -1]))


def _list(directory: str) -> "list[str]":
    try:
        return os.listdir(directory)  # noqa: PTH208 - pathlib costs too much here
    except FileNotFoundError:
        return []


def _device(card: str) -> str:
    return os.path.realpath(f"{_CLASS}/{card}/device")


def _driver(card: str) -> str:
    """The driver's own name, as its bus has it."""
    try:
        return os.path.basename(os.readlink(f"{_CLASS}/{card}/device/driver"))  # noqa: PTH115, PTH119
    except OSError:
        return system.read(f"/proc/asound/{card}/id").strip()

"""A network nook's host endpoint: the interface that applications use, and that never goes away.

It knows nothing of drivers, shadows or domains: it carries settings, frames and a carrier.
"""

import contextlib
import errno
import re
from collections.abc import Generator, Sequence
from functools import cache
from typing import Self

from nooks.endpoint import ethtool, rtnl
from nooks.endpoint.ethtool import SPEED_UNKNOWN, LinkSettings
from nooks.endpoint.interface import Statistics
from nooks.endpoint.ledger import Ledger
from nooks.endpoint.multiqueue import EndpointGone, MultiQueueTap, Switch
from nooks.endpoint.queues import Queues
from nooks.host.errors import InputError
from nooks.xpc.errors import ProtocolError
from nooks.xpc.settings import Settings, check_setting

QUEUE_FRAMES = 1000
"""How many frames a queue holds while no domain serves: what Linux gives a physical interface."""

_NAME = re.compile(r"[^\s/:%]{1,15}")
_LINK_KEYS = ("link.speed", "link.duplex", "link.autoneg")
_FEATURE = "feature."


class TapEndpoint(Queues):
    """The interface, its two queues, and the ledger that tells the user's changes from ours.

    Every method may raise EndpointGone when somebody deleted the interface.
    """

    def __init__(self, tap: MultiQueueTap, ledger: Ledger) -> None:
        super().__init__(tap)
        self._interface = tap.interface
        self._moved = 0
        self._lost = 0
        self.ledger = ledger

    @classmethod
    def create(
        cls,
        name: str,
        *,
        namespace: int | None = None,
        mac: str | None = None,
        queue_frames: int = QUEUE_FRAMES,
        ledger: Ledger | None = None,
    ) -> Self:
        """Make the interface, down, with queue 0 attached. ``namespace`` is a descriptor (None: where we are).

        Raises InputError if the name is taken, MachineError if TAPs are not to be had.
        """
        if not _NAME.fullmatch(name) or name in (".", ".."):
            raise InputError(f"{name!r} cannot name an interface", "use up to 15 letters, digits and dashes")
        tap = MultiQueueTap.open(name, namespace=namespace, vnet_header=True, exclusive=True)
        endpoint = cls(tap, ledger or Ledger())
        try:
            with endpoint._present():
                tap.interface.queue_length = queue_frames
                if mac is not None:
                    tap.interface.mac = mac
                ethtool.set_link_settings(tap.interface, LinkSettings(SPEED_UNKNOWN, "unknown", autoneg=True))
            endpoint.ledger.learn(endpoint.observe())
        except BaseException:
            tap.close()
            raise
        return endpoint

    @classmethod
    def adopt(cls, queue_fds: Sequence[int], ledger: Ledger, *, live: int = 0) -> Self:
        """Take over an interface by its queues' descriptors, which then belong to this object.

        ``live`` is the queue that serves: the other may have been left ``apart``.
        """
        endpoint = cls(MultiQueueTap(queue_fds, vnet_header=True, anchor=live), ledger)
        if ledger.held:
            endpoint.release_features()
        return endpoint

    @property
    def name(self) -> str:
        """Its present name: a user may rename it."""
        return self._interface.name

    @property
    def index(self) -> int:
        """Its number, which stays."""
        with self._present():
            return self._interface.index

    @property
    def namespace(self) -> int:
        """A descriptor of the namespace that it is in; it stays this object's own."""
        return self._tap.namespace

    def configure(self, addresses: Sequence[str] = (), *, mtu: int | None = None, up: bool | None = None) -> None:
        """Set it up at the start, as ours. Raises InputError for an address that is none or an MTU out of range."""
        if mtu is not None:
            self.restore({"mtu": mtu})
        if up is not None:
            self.restore({"up": up})
        for address in addresses:
            with self._present():
                self._add_address(address)

    def observe(self) -> Settings:
        """What the interface shows now of the settings that can be asked for; the watch knows the others.

        Features are as *wanted*, since what is active depends on what QEMU negotiated.
        """
        with self._present():
            settings: Settings = {
                "mac": self._interface.mac,
                "mtu": self._interface.mtu,
                "up": self._interface.up,
                **_as_settings(ethtool.link_settings(self._interface)),
            }
            features = ethtool.wanted_features(self._interface)
        settings.update({_FEATURE + name: value for name, value in features.items() if _has_key(name)})
        return settings

    def restore(self, settings: Settings) -> None:
        """Make the interface show these settings, as ours; keys that it cannot carry are left out.

        Raises InputError if the kernel refuses a value.
        """
        observed = self.observe()
        own: Settings = {key: value for key, value in settings.items() if key in observed}
        if "link.autoneg" in own:
            own = {key: observed[key] for key in _LINK_KEYS} | own
        with self.ledger.own(own, observed), self._present():
            self._set(own, observed)

    def mirror_link(self, speed: int, duplex: str, autoneg: bool | None = None) -> None:
        """Show the card's speed (Mbit/s or -1) and duplex on the interface, as ours."""
        observed = self.observe()
        shown: Settings = {"link.speed": speed, "link.duplex": duplex}
        if autoneg is not None:
            shown["link.autoneg"] = autoneg
        if shown.items() <= observed.items():
            return
        with self.ledger.own(shown, observed), self._present():
            self._set_link(observed | shown)

    def set_carrier(self, on: bool) -> None:
        """Plug or unplug it."""
        self._tap.set_carrier(on)

    def hold_features(self) -> None:
        """From now on changes of features are not the user's: a QEMU that starts sets the TAP's offloads."""
        self.ledger.held = True

    def release_features(self) -> None:
        """QEMU is done: make the wanted features what they were before ``hold_features``."""
        known = {key: value for key, value in self.ledger.known.items() if key.startswith(_FEATURE)}
        with self._present():
            ethtool.want_features(self._interface, _features(known))
        self.ledger.held = False

    @contextlib.contextmanager
    def launching(self, queue: int) -> Generator[None]:
        """Around everything that starts or restores a QEMU on a queue while nobody is served through the other.

        It changes the interface's header and offloads, which are put right afterwards.
        """
        self.hold_features()
        try:
            yield
        finally:
            self._tap.restore_header()
            self.release_features()

    @contextlib.contextmanager
    def launching_apart(self, queue: int) -> Generator[None]:
        """As ``launching``, while the other queue serves: nothing of this interface changes. See MultiQueueTap.apart.

        The queue's descriptor (``queue_fds``) is another one in the block and afterwards.
        """
        with self._tap.apart(queue):
            yield

    def switch(self, to: int) -> Switch:
        """Failover: queue ``to`` serves from now on, with what waited in the other. After the fence only."""
        done = super().switch(to)
        self._moved += done.moved
        self._lost += done.lost
        return done

    @property
    def moved(self) -> int:
        """Frames that waited for a dead domain and were handed to the next, in all."""
        return self._moved

    @property
    def dropped(self) -> int:
        """Frames that no queue had room for, in all."""
        return self.statistics().tx_dropped + self._lost

    def statistics(self) -> Statistics:
        """The interface's counters."""
        with self._present():
            return self._interface.statistics()

    def close(self) -> None:
        """Close all descriptors; the interface goes with the last that anybody holds. Again is harmless."""
        self._tap.close()

    def _set(self, own: Settings, observed: Settings) -> None:
        try:
            if "mac" in own:
                self._interface.mac = str(own["mac"])
            if "mtu" in own:
                self._interface.mtu = _int(own["mtu"])
            features = _features(own)
            if features:
                ethtool.want_features(self._interface, features)
            if any(key in own for key in _LINK_KEYS):
                self._set_link(observed | own)
            if "up" in own:
                self._interface.up = bool(own["up"])
        except OSError as error:
            if error.errno == errno.ENODEV:
                raise
            wanted = ", ".join(f"{key}={value}" for key, value in own.items())
            raise InputError(f"the interface {self.name} does not take {wanted}: {error.strerror}") from None

    def _add_address(self, address: str) -> None:
        try:
            rtnl.add_address(self._interface.index, address, self.namespace)
        except OSError as error:
            if error.errno == errno.ENODEV:
                raise
            why = f"the interface {self.name} does not take the address {address}: {error.strerror}"
            raise InputError(why, "choose another address") from None

    def _set_link(self, settings: Settings) -> None:
        link = LinkSettings(_int(settings["link.speed"]), str(settings["link.duplex"]), bool(settings["link.autoneg"]))
        ethtool.set_link_settings(self._interface, link)

    @contextlib.contextmanager
    def _present(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            raise EndpointGone("the interface was deleted or moved away", "stop and start the nook") from None


def _as_settings(link: LinkSettings) -> Settings:
    return {"link.speed": link.speed, "link.duplex": link.duplex, "link.autoneg": link.autoneg}


def _features(settings: Settings) -> dict[str, bool]:
    return {key.removeprefix(_FEATURE): bool(value) for key, value in settings.items() if key.startswith(_FEATURE)}


@cache
def _has_key(feature: str) -> bool:
    """Whether the boundary has a key for this feature."""
    try:
        check_setting(_FEATURE + feature, value=True)
    except ProtocolError:
        return False
    return True


def _int(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"not an integer: {value!r}")
    return value

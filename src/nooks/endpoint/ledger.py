"""Whose change was it? The settings of an interface as last known, and those that we are about to set ourselves.

Everything is compared by value, nothing by time: what the interface shows is the user's change if it differs from
what is known, unless it is what we intended. The ledger's state can be kept outside the process (``store``), so that
a supervisor that takes over neither misses the user's changes nor takes its predecessor's for them.
"""

import contextlib
import json
from collections.abc import Callable, Generator, Mapping
from typing import Any

from nooks.xpc.settings import Settings, to_json

Store = Callable[[bytes], None]


class Ledger:
    """Expected changes. ``store`` gets the state after each change of it; ``state`` is what it got last."""

    def __init__(self, store: Store | None = None, state: bytes = b"") -> None:
        loaded: dict[str, Any] = json.loads(state) if state else {}
        self._store = store
        self._known = _settings(loaded.get("known", {}))
        self._intended = _settings(loaded.get("intended", {}))
        self._overwritten = _settings(loaded.get("overwritten", {}))
        self._held = bool(loaded.get("held", False))
        self._shown: Settings = {}

    @property
    def known(self) -> Settings:
        """A copy of what the interface was last known to show."""
        return dict(self._known)

    @property
    def held(self) -> bool:
        """Whether features are held: changes of them are QEMU's, which sets the TAP's offloads when it starts."""
        return self._held

    @held.setter
    def held(self, value: bool) -> None:
        self._held = value
        self._save()

    def learn(self, values: Mapping[str, Any]) -> None:
        """These values are nobody's change: how the interface was made."""
        self._known.update(values)
        self._save()

    @contextlib.contextmanager
    def own(self, values: Settings, observed: Settings) -> Generator[None]:
        """In the block we set ``values``; ``observed`` is what the interface shows just before.

        A user's change that ours overwrites is kept, to be reported all the same.
        """
        self._settle(observed)
        self._overwritten.update({key: value for key, value in self._differences(observed).items() if key in values})
        self._intended = dict(values)
        self._save()
        try:
            yield
            self._known.update(values)
        finally:
            self._intended = {}
            self._save()

    def changes(self, observed: Settings) -> Settings:
        """The user's changes that have not been reported, given what the interface shows now."""
        self._settle(observed)
        self._shown = self._differences(observed)
        return self._overwritten | self._shown

    def reported(self, changes: Settings) -> None:
        """These changes, from the last call of ``changes``, are recorded by whoever they were reported to."""
        if not changes:
            return
        for key in changes:
            self._overwritten.pop(key, None)
            if key in self._shown:
                self._known[key] = self._shown[key]
        self._save()

    def _settle(self, observed: Settings) -> None:
        """Intentions left at this point are a dead predecessor's: did it come to carry them out?"""
        if not self._intended:
            return
        done = {key: value for key, value in self._intended.items() if observed.get(key) == value}
        self._known.update(done)
        self._intended = {}
        self._save()

    def _differences(self, observed: Settings) -> Settings:
        missing = object()
        return {
            key: value
            for key, value in observed.items()
            if self._known.get(key, missing) != value and not (self._held and key.startswith("feature."))
        }

    def _save(self) -> None:
        if self._store is None:
            return
        state = {
            "known": to_json(self._known),
            "intended": to_json(self._intended),
            "overwritten": to_json(self._overwritten),
            "held": self._held,
        }
        self._store(json.dumps(state).encode())


def _settings(loaded: dict[str, Any]) -> Settings:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in loaded.items()}

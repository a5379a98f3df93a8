"""What the keeper holds for a nook, written down as it changes, so that the supervisor may die at any moment.

Descriptors go to the keeper; the few facts that belong to them into a memory file that it holds as well.
"""

import contextlib
import json
import os
import socket
from pathlib import Path
from typing import Any

from nooks.domain.domain import SOCKETS, Domain, Handles
from nooks.host.process import pid_of
from nooks.keeper.client import KeeperClient, KeeperError
from nooks.shadow.log import StateFile

FACTS = "facts"


class Ledger:
    """A supervisor's connection to its keeper. Remembers all that it gave, so that a new keeper can be told."""

    def __init__(self, keeper: KeeperClient) -> None:
        self._keeper = keeper
        self._given: dict[str, int] = {}
        self._facts: dict[str, Any] = {}
        self._file: StateFile | None = None

    @property
    def fileno(self) -> int:
        """Becomes readable when the keeper is gone."""
        return self._keeper.fileno()

    @property
    def facts(self) -> dict[str, Any]:
        """What was recorded last."""
        return dict(self._facts)

    def held(self) -> tuple[str, ...]:
        """The names of all that the keeper holds."""
        return self._keeper.list()

    def begin(self) -> None:
        """Start with an empty record."""
        self._file = StateFile.create("nooks-facts")
        self.give(FACTS, self._file.fileno())

    def resume(self) -> bool:
        """Read what an earlier supervisor recorded; False if there was none."""
        if FACTS not in self._keeper.list():
            return False
        self._file = StateFile.from_fd(self._keeper.get(FACTS))
        self._facts = json.loads(self._file.load() or b"{}")
        self._given[FACTS] = self._file.fileno()
        return True

    def record(self, **facts: Any) -> None:  # noqa: ANN401 - any JSON
        """Change some facts; those not named stay."""
        self._facts |= facts
        if self._file is not None:
            self._file.store(json.dumps(self._facts).encode())

    def give(self, key: str, descriptor: int) -> None:
        """Have the keeper hold a descriptor, which stays open here too."""
        self._given[key] = descriptor
        self._keeper.put(key, descriptor)

    def take(self, key: str) -> int:
        """A descriptor that an earlier supervisor gave. Raises KeeperError if there is none."""
        descriptor = self._keeper.get(key)
        self._given[key] = descriptor
        return descriptor

    def forget(self, key: str) -> None:
        """Have the keeper close what it holds under ``key``."""
        self._given.pop(key, None)
        self._keeper.drop(key)

    def hold_domain(self, bay: int, domain: Domain) -> None:
        """Have the keeper hold all that leads to a domain."""
        self.give(f"bay{bay}.pidfd", domain.handles.pidfd)
        for kind, each in domain.handles.sockets.items():
            self.give(f"bay{bay}.{kind}", each.fileno())
        cgroups = self._facts.get("cgroups", {}) | {str(bay): str(domain.handles.cgroup or "")}
        self.record(cgroups=cgroups)

    def drop_domain(self, bay: int) -> None:
        """Have the keeper let go of a domain that was fenced."""
        for kind in ("pidfd", *SOCKETS):
            if f"bay{bay}.{kind}" in self._given:
                self.forget(f"bay{bay}.{kind}")

    def handles(self, bay: int) -> Handles | None:
        """What leads to the domain that an earlier supervisor had in ``bay``, or None."""
        held = self._keeper.list()
        if f"bay{bay}.pidfd" not in held:
            return None
        handles = Handles(self.take(f"bay{bay}.pidfd"))
        for kind in SOCKETS:
            if f"bay{bay}.{kind}" in held:
                handles.sockets[kind] = socket.socket(fileno=self.take(f"bay{bay}.{kind}"))
        cgroup = self._facts.get("cgroups", {}).get(str(bay))
        handles.cgroup = Path(cgroup) if cgroup else None
        return handles

    def domain_pids(self) -> set[int]:
        """The processes of the domains that the keeper holds."""
        pids: set[int] = set()
        for bay in range(2):
            with contextlib.suppress(KeeperError):
                pidfd = self._keeper.get(f"bay{bay}.pidfd")
                pids.add(pid_of(pidfd))
                os.close(pidfd)
        return pids

    def change_keeper(self, keeper: KeeperClient) -> None:
        """The old keeper died: have a new one hold everything."""
        self._keeper.close()
        self._keeper = keeper
        for key, descriptor in self._given.items():
            keeper.put(key, descriptor)

    def close(self) -> None:
        """End the keeper, and with it all that it held."""
        with contextlib.suppress(KeeperError):
            self._keeper.quit()
        self._keeper.close()
        if self._file is not None:
            os.close(self._file.fileno())
            self._file = None

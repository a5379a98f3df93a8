"""Makes domains by one plan: cold, or restored from a snapshot that it keeps in memory and in the cache."""

import asyncio
import contextlib
import itertools
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog

from nooks.domain.domain import PREPARING_NICENESS, Domain, Jail
from nooks.domain.qemu import Plan
from nooks.domain.snapshot import Snapshot
from nooks.host import cache
from nooks.host.errors import NooksError

KIND = "snapshots"

_LAUNCHES = itertools.count(1)
"""Over all makers of this process: two domains must never share a control group."""

SAVE_DELAY_SECONDS = 1.0

KEPT, UNUSED_SECONDS = 12, 3 * 24 * 3600.0
"""A snapshot takes some 70 MB of disk and 3 s to make: old ones go, but the last few stay."""

BringUp = Callable[[Domain], Awaitable[dict[str, Any]]]
"""Brings a freshly booted domain to where it is ready and has served nobody; returns facts about it."""


class DomainMaker:
    """Domains of one plan in one jail.

    ``bring_up_key`` tells what ``bring_up`` does, as far as a snapshot depends on it. ``personal`` says whether the
    snapshot in memory has the nook's recorded state in it (``keep``).
    """

    def __init__(self, plan: Plan, jail: Jail, bring_up: BringUp, bring_up_key: str) -> None:
        self.plan = plan
        self.facts: dict[str, Any] = {}
        self.personal = False
        self._jail = jail
        self.bring_up = bring_up
        self._key = plan.key(bring_up_key)
        self._snapshot: Snapshot | None = None
        self._saving: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    @property
    def snapshot(self) -> Snapshot | None:
        """The snapshot, if it is in memory."""
        return self._snapshot

    async def ready_snapshot(self, attachments: Mapping[str, int]) -> Snapshot:
        """The plan's snapshot: from memory, from the cache, or made by a cold boot on ``attachments``.

        Raises LaunchError, BootError, XpcError.
        """
        if self._snapshot is None:
            directory = cache.find(KIND, self._key)
            if directory is None:
                self._snapshot = await self._make(attachments)
            else:
                cache.touch(directory)
                self._snapshot = Snapshot.load(directory)
            self.facts = self._snapshot.facts
        return self._snapshot

    def discard_snapshot(self) -> None:
        """Forget a snapshot that did not load; the next one is made anew."""
        if self._snapshot is not None:
            self._snapshot.close()
            self._snapshot = None
        self.personal = False
        cache.discard(KIND, self._key)

    async def restore(self, attachments: Mapping[str, int], *, spare: bool) -> Domain:
        """A domain that is ready and stands still; ``spare``: made in the background, with low priority.

        A spare whose memory will be pinned gets it all now: pinning undoes copy-on-write, page by page, and nobody is
        to wait for that. A memory that a device model is to reach is no copy-on-write one at all.
        """
        ready = await self.ready_snapshot(attachments)
        return await Domain.launch(
            self.plan,
            attachments,
            self._jail,
            self._name(),
            snapshot=ready,
            paused=True,
            niceness=PREPARING_NICENESS if spare else 0,
            keep_memory=self.plan.shared or (spare and self.plan.pinned),
        )

    async def restore_to_keep(self, attachments: Mapping[str, int]) -> Domain:
        """A domain that stands still and of which ``keep`` can make the next snapshot; it serves nobody."""
        ready = await self.ready_snapshot(attachments)
        return await Domain.launch(
            self.plan,
            attachments,
            self._jail,
            self._name(),
            snapshot=ready,
            paused=True,
            niceness=PREPARING_NICENESS,
            keep_memory=True,
        )

    async def keep(self, domain: Domain) -> None:
        """Let every later domain begin where this one is now: it ends, and its snapshot replaces the one in memory.

        The one in the cache stays: it holds nothing of any nook's settings.
        """
        state = os.memfd_create("nooks-state", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            await domain.migrate_to(state)
            await domain.fence()
            kept = Snapshot.seal(domain.memory, state, self.facts)
        except BaseException:
            os.close(state)
            raise
        if self._saving is not None:
            await asyncio.wait({self._saving})
        if self._snapshot is not None:
            self._snapshot.close()
        self._snapshot = kept
        self.personal = True

    async def boot(self, attachments: Mapping[str, int]) -> Domain:
        """A domain that boots cold and was not brought up yet."""
        return await Domain.launch(self.plan, attachments, self._jail, self._name())

    async def close(self) -> None:
        """Let go of the snapshot in memory; the cache keeps it, or has it in a moment."""
        self._closing.set()
        if self._saving is not None:
            await asyncio.wait({self._saving})
        if self._snapshot is not None:
            self._snapshot.close()
            self._snapshot = None

    def _name(self) -> str:
        return f"{os.getpid()}-{next(_LAUNCHES)}"

    async def _make(self, attachments: Mapping[str, int]) -> Snapshot:
        """Boot cold and take the snapshot; it is usable at once, and goes into the cache meanwhile."""
        domain = await self.boot(attachments)
        state = os.memfd_create("nooks-state", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            facts = await self.bring_up(domain)
            await domain.migrate_to(state)
            await domain.fence()
            made = Snapshot.seal(domain.memory, state, facts)
        except BaseException:
            os.close(state)
            raise
        finally:
            await domain.destroy()
        self._saving = asyncio.create_task(self._save_later(made))
        return made

    async def _save_later(self, made: Snapshot) -> None:
        """Not while the first incarnation is being brought to service."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SAVE_DELAY_SECONDS):
                await self._closing.wait()
        await asyncio.to_thread(self._save, made)

    def _save(self, made: Snapshot) -> None:
        """Put a snapshot into the cache. A full disk costs the next start some seconds, and this one nothing."""
        try:
            cache.entry(KIND, self._key, made.save)
            cache.prune(KIND, keep=KEPT, unused_seconds=UNUSED_SECONDS)
        except (NooksError, OSError) as error:
            structlog.get_logger().warning("the snapshot could not be kept", error=str(error))

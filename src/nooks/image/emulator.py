"""A QEMU that speaks vfio-user: the distribution's where it is new enough, else one from a newer suite.

It is unpacked in the cache; nothing of the system is touched. apt
verifies what it downloads; which packages there are is ``emulator_packages``'s.
"""

from pathlib import Path

from nooks.domain import emulator
from nooks.domain.emulator import SYSTEM, Emulator
from nooks.host import cache
from nooks.host.errors import MachineError, NooksError
from nooks.image import recent
from nooks.image.progress import Progress, quiet

KIND = "emulators"
VFIO_USER_VERSION = (10, 1)
"""The first QEMU with ``vfio-user-pci`` (its change log of August 2025)."""

_QUESTION = "emulator"
_WATCH = (str(emulator.BINARY), str(emulator.LOADER))
_KEEP = 1
_UNUSED_SECONDS = 7 * 24 * 3600.0


def with_vfio_user(progress: Progress = quiet) -> Emulator:
    """An emulator that a device model can be attached to.

    Raises NooksError if none can be had and none is cached.
    """
    try:
        if emulator.version() >= VFIO_USER_VERSION:
            return SYSTEM
    except MachineError:
        pass
    known = recent.recall(_QUESTION)
    place = cache.find(KIND, known, watch=_WATCH) if known is not None else None
    if place is None:
        place = _newest(progress)
        cache.prune(KIND, keep=_KEEP, unused_seconds=_UNUSED_SECONDS)
    cache.touch(place)
    return Emulator(place)


def _newest(progress: Progress) -> Path:
    def fetch() -> str:
        from nooks.image import emulator_packages  # not needed while all is cached

        return emulator_packages.fetch(progress)

    def cached() -> str | None:
        return next((key for key in cache.keys(KIND) if cache.find(KIND, key)), None)

    key = recent.newest(_QUESTION, fetch, cached, progress)
    place = cache.find(KIND, key)
    if place is None:
        raise NooksError(f"the emulator {key} vanished from the cache", "try again")
    return place

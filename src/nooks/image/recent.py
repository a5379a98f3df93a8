"""Cache entries made from the newest packages, remembered for a while, so that no command waits for the archive."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

from nooks.host import cache
from nooks.host.cache import DiskFullError
from nooks.host.errors import InputError, NooksError
from nooks.image.progress import Progress

FRESH_SECONDS = 24 * 3600.0
"""How long the answer to "which is the newest" holds."""

OFFLINE_SECONDS = 900.0
"""How long to go on with an older one before the archive is asked again."""

_KIND = "resolved"


def newest(question: str, fetch: Callable[[], str], cached: Callable[[], str | None], progress: Progress) -> str:
    """The key of the cache entry that answers ``question``.

    ``fetch`` asks the archive and makes the entry; if the archive can't be used, ``cached`` may name an older one.
    Raises what ``fetch`` raises if there is none, or if the question makes no sense.
    """
    try:
        key, seconds = fetch(), FRESH_SECONDS
    except InputError:
        raise
    except NooksError as error:
        older = cached()
        if older is None and isinstance(error, DiskFullError):
            raise
        if older is None:
            raise NooksError(f"{error.message}, and none is cached", error.fix) from error
        progress(f"using {older} from the cache, since the newest can't be had: {error.message}")
        key, seconds = older, OFFLINE_SECONDS
    record = {"expires": time.time() + seconds, "key": key}
    cache.write_file(_path(question), json.dumps(record))
    return key


def recall(question: str) -> str | None:
    """The key that answered the question before, or None if that no longer holds."""
    try:
        record = json.loads(_path(question).read_bytes())
        # An expiry far ahead means that the machine's clock was set back since.
        if 0 < record["expires"] - time.time() <= FRESH_SECONDS:
            return str(record["key"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _path(question: str) -> Path:
    return cache.directory(_KIND) / (re.sub(r"[^A-Za-z0-9._+-]", "-", question) + ".json")

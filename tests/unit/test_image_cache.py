"""The cache of entries that are made once: wholly there or not at all, checked on use, built by one process only."""

import errno
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from nooks.host import cache
from nooks.host.cache import DiskFullError
from nooks.host.errors import NooksError
from nooks.host.process import run


@pytest.fixture(autouse=True)
def _cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))


class Builder:
    """Builds an entry of two files and counts how often it had to."""

    def __init__(self) -> None:
        self.built = 0

    def __call__(self, place: Path) -> None:
        self.built += 1
        (place / "sub").mkdir()
        (place / "big").write_bytes(b"big" * 1000)
        (place / "sub/small").write_text("small")
        (place / "link").symlink_to("big")


def leftovers(kind: str) -> list[str]:
    return [path.name for path in cache.directory(kind).iterdir() if path.name.startswith(".new.")]


def test_an_entry_is_built_once_and_readable_by_everybody() -> None:
    build = Builder()
    previous = os.umask(0o077)
    try:
        place = cache.entry("kind", "key", build)
    finally:
        os.umask(previous)
    assert cache.entry("kind", "key", build) == place
    assert build.built == 1
    assert (place / "big").stat().st_mode & 0o777 == 0o644
    assert (place / "sub").stat().st_mode & 0o777 == 0o755
    assert place.stat().st_mode & 0o777 == 0o755
    assert leftovers("kind") == []


@pytest.mark.parametrize("damage", ["shorter", "changed", "missing", "no manifest", "bad manifest", "other format"])
def test_a_damaged_entry_is_noticed_and_rebuilt(damage: str) -> None:
    build = Builder()
    place = cache.entry("kind", "key", build)
    victim = place / "sub/small"
    manifest = place / cache.MANIFEST
    if damage == "shorter":
        victim.write_text("smal")
    elif damage == "changed":
        victim.write_text("SMALL")
        os.utime(victim, ns=(1, 1))
    elif damage == "missing":
        victim.unlink()
    elif damage == "no manifest":
        manifest.unlink()
    elif damage == "bad manifest":
        manifest.write_text("{")
    else:
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 99}))
    assert cache.find("kind", "key") is None
    assert (cache.entry("kind", "key", build) / "sub/small").read_text() == "small"
    assert build.built == 2
    assert leftovers("kind") == []


def test_a_change_that_keeps_size_and_time_is_found_by_a_thorough_look() -> None:
    place = cache.entry("kind", "key", Builder())
    victim = place / "sub/small"
    times = victim.stat()
    victim.write_text("SMALL")
    os.utime(victim, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert cache.is_sound(place)
    assert not cache.is_sound(place, thorough=True)


def test_a_file_whose_time_changed_but_not_its_content_is_intact() -> None:
    place = cache.entry("kind", "key", Builder())
    os.utime(place / "big", ns=(1, 1))
    assert cache.find("kind", "key") == place


def test_only_watched_files_are_looked_at() -> None:
    place = cache.entry("kind", "key", Builder())
    (place / "sub/small").unlink()
    assert cache.find("kind", "key", watch=("big",)) == place
    assert cache.find("kind", "key") is None
    assert cache.find("kind", "key", watch=("big", "unheard-of")) is None


def test_a_build_that_fails_leaves_nothing() -> None:
    def build(place: Path) -> None:
        (place / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.entry("kind", "key", build)
    assert cache.find("kind", "key") is None
    assert leftovers("kind") == []


def test_a_failed_rebuild_keeps_nothing_half_made() -> None:
    place = cache.entry("kind", "key", Builder())
    (place / "big").unlink()

    def build(place: Path) -> None:
        raise NooksError("no luck")

    with pytest.raises(NooksError, match="no luck"):
        cache.entry("kind", "key", build)
    assert cache.find("kind", "key") is None
    assert leftovers("kind") == []


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "full"), OSError(errno.EDQUOT, "quota"), NooksError("dpkg: No space left on device")],
)
def test_a_full_disk_is_said_so(error: Exception) -> None:
    def build(place: Path) -> None:
        raise error

    with pytest.raises(DiskFullError, match=r"no space left in .*XDG_CACHE_HOME"):
        cache.entry("kind", "key", build)
    assert leftovers("kind") == []


def test_too_little_space_is_said_beforehand(tmp_path: Path) -> None:
    cache.require_space(tmp_path, 1)
    with pytest.raises(DiskFullError, match="MB are needed"):
        cache.require_space(tmp_path, 1 << 60)


def test_what_a_killed_process_left_is_swept_by_the_next_build() -> None:
    program = """
import os, signal
from nooks.host import cache
def build(place):
    (place / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
cache.entry("kind", "other", build)
"""
    with pytest.raises(NooksError):
        run([sys.executable, "-c", program])
    (left,) = leftovers("kind")
    cache.entry("kind", "new", Builder())
    assert leftovers("kind") == [left]  # a machine that shares the cache may be building it
    os.utime(cache.directory("kind") / left, (0, 0))
    cache.entry("kind", "key", Builder())
    assert leftovers("kind") == []


def test_two_processes_build_once(tmp_path: Path) -> None:
    program = """
import sys, time
from pathlib import Path
from nooks.host import cache
def build(place):
    with open(sys.argv[1], "a") as log:
        log.write("built\\n")
    time.sleep(0.3)
    (place / "file").write_text("x")
cache.entry("kind", "key", build)
"""
    log = tmp_path / "log"
    children = [os.posix_spawn(sys.executable, [sys.executable, "-c", program, str(log)], os.environ) for _ in range(3)]
    statuses = [os.waitpid(child, 0)[1] for child in children]
    assert statuses == [0, 0, 0]
    assert log.read_text() == "built\n"


def test_prune_keeps_what_was_used_last() -> None:
    for number, key in enumerate(("old", "middle", "new")):
        place = cache.entry("kind", key, Builder())
        os.utime(place.parent / f".lock.{key}", (number + 1, number + 1))
    cache.touch(cache.directory("kind") / "old")
    assert cache.prune("kind", keep=1, unused_seconds=3600) == ["new", "middle"]
    assert cache.keys("kind") == ["old"]
    assert leftovers("kind") == []


def test_prune_spares_the_recent() -> None:
    cache.entry("kind", "key", Builder())
    assert cache.prune("kind", keep=0, unused_seconds=3600) == []


def test_discard_removes_an_entry() -> None:
    cache.entry("kind", "key", Builder())
    cache.discard("kind", "key")
    assert cache.keys("kind") == []
    cache.discard("kind", "key")


def test_equal_content_gives_an_equal_digest() -> None:
    digests = {cache.manifest(cache.entry("kind", key, Builder())).digest for key in ("one", "two")}
    assert len(digests) == 1


@pytest.mark.parametrize("key", ["", "../up", ".hidden", "a/b", "x" * 300])
def test_a_key_is_a_plain_name(key: str) -> None:
    with pytest.raises(ValueError, match="can't be the key"):
        cache.entry("kind", key, Builder())


def test_a_cache_that_cannot_be_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(NooksError, match="can't be written: Not a directory"):
        cache.entry("kind", "key", Builder())
    with pytest.raises(NooksError, match="can't be written"):
        cache.directory("kind")


def test_an_interrupted_wait_for_the_lock_does_no_harm(interruptible: None) -> None:
    place = cache.directory("kind") / "key"
    with cache.exclusive(place):
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt):
            cache.entry("kind", "key", Builder())
    assert cache.entry("kind", "key", Builder()) == place

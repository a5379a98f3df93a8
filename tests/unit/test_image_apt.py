"""The package archive through apt, with an archive of our own as the machine's only source."""

import os
import shutil
import time
from pathlib import Path

import pytest
from image_archive import FakeArchive

from nooks.host import cache
from nooks.host.cache import DiskFullError
from nooks.host.errors import NooksError
from nooks.image import apt
from nooks.image.apt import Archive, ArchiveError, NotInArchiveError

pytestmark = pytest.mark.skipif(
    shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None, reason="needs apt and dpkg"
)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeArchive:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    fake = FakeArchive(tmp_path / "archive")
    monkeypatch.setenv("APT_CONFIG", str(fake.configuration))
    fake.add("hello", "1.0-1", {"usr/bin/hello": b"hello"}, depends=["libc6 (>= 2)", "this | that", "base:any"])
    return fake


def age_index(seconds: float) -> None:
    then = time.time() - seconds
    os.utime(cache.directory("apt") / "amd64/updated", (then, then))


def test_a_package_is_found_downloaded_and_unpacked(source: FakeArchive, tmp_path: Path) -> None:
    said: list[str] = []
    archive = Archive("amd64", lambda message, done=None, total=None: said.append(message))

    def question() -> apt.Package:
        package = archive.package("hello")
        archive.unpack([package], tmp_path / "tree")
        return package

    package = archive.consult(question)
    assert package.exact == "hello=1.0-1"
    assert package.depends == ("libc6", "this", "base")
    assert (tmp_path / "tree/usr/bin/hello").read_bytes() == b"hello"
    assert not (tmp_path / "tree/.packages").exists()
    assert said[0] == "reading the package index for amd64"
    assert archive.consult(lambda: archive.names("hel")) == ["hello"]


def test_an_index_of_today_is_not_fetched_again(source: FakeArchive) -> None:
    archive = Archive("amd64")
    archive.consult(lambda: archive.package("hello"))
    source.forget("hello")
    assert archive.consult(lambda: archive.package("hello")).version == "1.0-1"


def test_an_old_index_is_fetched_again(source: FakeArchive) -> None:
    archive = Archive("amd64")
    archive.consult(lambda: archive.package("hello"))
    source.forget("hello")
    source.add("hello", "2.0-1", {})
    age_index(apt.INDEX_SECONDS + 1)
    assert archive.consult(lambda: archive.package("hello")).version == "2.0-1"


def test_a_package_that_vanished_leads_to_a_fresh_index(source: FakeArchive, tmp_path: Path) -> None:
    archive = Archive("amd64")
    archive.consult(lambda: archive.package("hello"))
    source.forget("hello")
    source.add("hello", "2.0-1", {"new": b"new"})
    age_index(3600)

    def question() -> str:
        package = archive.package("hello")
        shutil.rmtree(tmp_path / "tree", ignore_errors=True)
        archive.unpack([package], tmp_path / "tree")
        return package.version

    assert archive.consult(question) == "2.0-1"
    assert (tmp_path / "tree/new").exists()


def test_a_package_with_another_content_is_refused(source: FakeArchive, tmp_path: Path) -> None:
    archive = Archive("amd64")
    package = archive.consult(lambda: archive.package("hello"))
    deb = next(source.pool.glob("hello*"))
    data = bytearray(deb.read_bytes())
    data[-1] ^= 1
    deb.write_bytes(data)
    with pytest.raises(ArchiveError, match="can't be downloaded"):
        archive.unpack([package], tmp_path / "tree")


def test_a_package_that_nobody_has(source: FakeArchive) -> None:
    archive = Archive("amd64")
    with pytest.raises(NotInArchiveError, match="no goodbye for amd64"):
        archive.consult(lambda: archive.package("goodbye"))
    with pytest.raises(NotInArchiveError, match=r"no goodbye\*"):
        archive.consult(lambda: archive.names("goodbye"))


def test_an_archive_that_cannot_be_reached(source: FakeArchive) -> None:
    source.break_down()
    archive = Archive("amd64")
    with pytest.raises(ArchiveError, match="no package index for amd64 could be read: Failed to fetch") as caught:
        archive.consult(lambda: archive.package("hello"))
    assert caught.value.fix == "check the network and the sources of apt"
    assert "\n" not in caught.value.message


def test_a_suite_that_fails_is_no_matter_if_another_works(source: FakeArchive) -> None:
    listing = source.root / "sources.list"
    listing.write_text(listing.read_text() + f"deb [trusted=yes] file:{source.root}/gone ./\n")
    said: list[str] = []
    archive = Archive("amd64", lambda message, done=None, total=None: said.append(message))
    assert archive.consult(lambda: archive.package("hello")).name == "hello"
    assert any("not all package indexes could be read" in message for message in said)


def test_too_little_space_is_noticed_before_apt_starts(source: FakeArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(place: Path, size_bytes: int) -> None:
        raise DiskFullError("full")

    monkeypatch.setattr(cache, "require_space", full)
    archive = Archive("amd64")
    with pytest.raises(DiskFullError):
        archive.consult(lambda: archive.package("hello"))


def test_a_machine_without_apt(source: FakeArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    archive = Archive("amd64")
    with pytest.raises(NooksError, match="apt-get is not installed"):
        archive.consult(lambda: archive.package("hello"))


def test_the_system_configuration_of_apt_is_left_alone(source: FakeArchive) -> None:
    before = sorted(Path("/var/lib/apt/lists").iterdir()) if Path("/var/lib/apt/lists").is_dir() else []
    archive = Archive("i386")
    with pytest.raises(NotInArchiveError):
        archive.consult(lambda: archive.package("hello"))
    after = sorted(Path("/var/lib/apt/lists").iterdir()) if Path("/var/lib/apt/lists").is_dir() else []
    assert before == after

"""Resolving kernels: the newest package, a version, a directory; what is remembered and what is mended."""

import gzip
import os
import shutil
import time
from pathlib import Path

import pytest
from image_archive import FakeArchive, bzimage, elf_kernel, elf_module

from nooks.host import cache
from nooks.host.errors import InputError, NooksError
from nooks.image import apt, initramfs, kernel, recent
from nooks.image.kernel import Kernel
from nooks.image.modules import Module, ModuleTree
from nooks.image.progress import quiet

pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in ("apt-get", "dpkg-deb", "depmod")), reason="needs apt, dpkg, depmod"
)


def kernel_files(version: str, marker: bytes = b"") -> dict[str, bytes]:
    modules = f"lib/modules/{version}"
    return {
        f"boot/vmlinuz-{version}": bzimage(gzip.compress(elf_kernel() + marker)),
        f"{modules}/kernel/drivers/card.ko": elf_module() + marker,
        f"{modules}/modules.order": b"kernel/drivers/card.ko\n",
        f"{modules}/modules.builtin": b"kernel/fs/inside.ko\n",
    }


def add_kernel(source: FakeArchive, version: str, revision: str = "1") -> None:
    source.add(f"linux-image-{version}", revision, kernel_files(version, revision.encode()))


def announce(source: FakeArchive, version: str, revision: str) -> None:
    source.forget("linux-image-amd64")
    source.add("linux-image-amd64", revision, {}, depends=[f"linux-image-{version} (= {revision})"])


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeArchive:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    fake = FakeArchive(tmp_path / "archive")
    monkeypatch.setenv("APT_CONFIG", str(fake.configuration))
    add_kernel(fake, "9.9.0-1-amd64")
    announce(fake, "9.9.0-1-amd64", "1")
    return fake


def forget_answers() -> None:
    shutil.rmtree(cache.directory("resolved"))
    then = time.time() - 3600
    os.utime(cache.directory("apt") / "amd64/updated", (then, then))


def unplug(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on whoever asks the archive fails the test."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("asked the archive")

    monkeypatch.setattr(apt, "run", refuse)


def test_the_newest_is_what_the_metapackage_depends_on(source: FakeArchive) -> None:
    add_kernel(source, "9.10.0-2-amd64")
    announce(source, "9.10.0-2-amd64", "2")
    add_kernel(source, "9.11.0-rc-amd64")
    found = kernel.resolve()
    assert found.version == "9.10.0-2-amd64"
    assert found.vmlinux.read_bytes() == elf_kernel() + b"1"
    assert (found.modules / "kernel/drivers/card.ko").exists()
    assert (found.modules / "modules.dep").exists()


def test_the_second_time_nobody_asks_the_archive(source: FakeArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    found = kernel.resolve()
    unplug(monkeypatch)
    assert kernel.resolve() == found


def test_after_a_day_a_newer_one_is_found(source: FakeArchive) -> None:
    old = kernel.resolve()
    add_kernel(source, "9.9.0-2-amd64")
    announce(source, "9.9.0-2-amd64", "2")
    assert kernel.resolve() == old
    forget_answers()
    os.utime(cache.directory("apt") / "amd64/updated", (1, 1))
    assert kernel.resolve().version == "9.9.0-2-amd64"


def test_an_answer_from_the_future_is_not_believed(source: FakeArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    recent.newest("question", lambda: "answer", lambda: None, quiet)
    assert recent.recall("question") == "answer"
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 7 * 24 * 3600)
    assert recent.recall("question") is None


@pytest.mark.parametrize("wanted", ["9.9.0-1", "9.9.0-1-amd64"])
def test_a_version_may_be_asked_for(source: FakeArchive, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernel.resolve(wanted).version == "9.9.0-1-amd64"
    forget_answers()
    unplug(monkeypatch)
    assert kernel.resolve(wanted).version == "9.9.0-1-amd64"


def test_a_series_may_be_asked_for_where_it_has_a_metapackage(source: FakeArchive) -> None:
    source.add("linux-image-9.9-amd64", "1", {}, depends=["linux-image-9.9.0-1-amd64"])
    assert kernel.resolve("9.9").version == "9.9.0-1-amd64"


def test_an_unknown_version_is_answered_with_the_known_ones(source: FakeArchive) -> None:
    with pytest.raises(InputError, match=r"unknown kernel '9\.9\.0-7'.*one of 9\.9\.0-1-amd64"):
        kernel.resolve("9.9.0-7")


def test_an_unknown_flavour(source: FakeArchive) -> None:
    with pytest.raises(InputError, match="unknown kernel flavour 'sparc'"):
        kernel.resolve(flavour="sparc")


def test_without_archive_and_cache_the_error_says_both(source: FakeArchive) -> None:
    source.break_down()
    with pytest.raises(NooksError, match="none is cached"):
        kernel.resolve()


def test_without_archive_the_newest_cached_one_serves(source: FakeArchive) -> None:
    kernel.resolve("9.9.0-1")
    add_kernel(source, "9.10.0-1-amd64")
    forget_answers()
    os.utime(cache.directory("apt") / "amd64/updated", (1, 1))
    kernel.resolve("9.10.0-1")
    shutil.rmtree(cache.directory("apt"))
    forget = cache.directory("resolved")
    shutil.rmtree(forget)
    source.break_down()
    said: list[str] = []
    found = kernel.resolve(progress=lambda message, done=None, total=None: said.append(message))
    assert found.version == "9.10.0-1-amd64"
    assert any("from the cache" in message for message in said)
    assert kernel.resolve() == found


def test_a_damaged_vmlinux_is_fetched_again(source: FakeArchive) -> None:
    found = kernel.resolve()
    found.vmlinux.write_bytes(b"")
    assert kernel.resolve() == found
    assert found.vmlinux.read_bytes() == elf_kernel() + b"1"


def test_a_damaged_module_is_noticed_before_an_image_is_made(source: FakeArchive) -> None:
    found = kernel.resolve()
    assert kernel.whole(found) == found
    module = found.modules / "kernel/drivers/card.ko"
    module.write_bytes(b"short")
    assert kernel.resolve() == found
    said: list[str] = []
    assert kernel.whole(found, lambda message, done=None, total=None: said.append(message)) == found
    assert said[0] == "the cached kernel 9.9.0-1-amd64 is damaged; getting it again"
    assert module.read_bytes() == elf_module() + b"1"


# --- directories ------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    root = tmp_path / "tree"
    plant(root, "8.8.8-mine")
    return root


def plant(root: Path, version: str) -> None:
    for name, data in kernel_files(version).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


def resolved(root: Path) -> Kernel:
    return kernel.resolve(f"{root}/")


def test_a_directory_serves_as_it_is_unpacked(tree: Path) -> None:
    found = resolved(tree)
    assert found.version == "8.8.8-mine"
    assert (found.modules / "kernel/drivers/card.ko").read_bytes() == elf_module()
    assert (found.modules / "modules.dep").exists()
    assert not (tree / "lib/modules/8.8.8-mine/modules.dep").exists()
    assert resolved(tree) == found


def test_a_merged_usr_serves_as_well(tree: Path) -> None:
    (tree / "usr").mkdir()
    (tree / "lib").rename(tree / "usr/lib")
    assert resolved(tree).version == "8.8.8-mine"


def test_a_rebuilt_module_makes_another_kernel(tree: Path) -> None:
    before = resolved(tree)
    (tree / "lib/modules/8.8.8-mine/kernel/drivers/card.ko").write_bytes(elf_module() + b"new")
    after = resolved(tree)
    assert after.digest != before.digest, "nobody ran depmod: each file counts"
    assert (after.modules / "kernel/drivers/card.ko").read_bytes() == elf_module() + b"new"


def no_modules(tree: ModuleTree) -> list[Module]:
    del tree
    return []


def test_a_rebuilt_module_makes_another_image(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initramfs, "base_modules", no_modules)
    shutil.copyfile(resolved(tree).modules / "modules.dep", tree / "lib/modules/8.8.8-mine/modules.dep")
    found = resolved(tree)
    before = initramfs.module_states(found, ["card"])
    (tree / "lib/modules/8.8.8-mine/kernel/drivers/card.ko").write_bytes(elf_module() + b"new")
    assert resolved(tree).digest == found.digest
    assert initramfs.module_states(resolved(tree), ["card"]) != before


def test_a_damaged_copy_of_an_index_is_made_again(tree: Path) -> None:
    found = resolved(tree)
    (found.modules / "modules.dep").write_text("nonsense")
    assert "card.ko" in (kernel.whole(found).modules / "modules.dep").read_text()


def test_directories_that_will_not_do(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no directory"):
        resolved(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="has no kernel with its modules"):
        resolved(tmp_path / "empty")
    with pytest.raises(InputError, match="not a 32-bit kernel"):
        kernel.resolve(str(tree), "686")
    plant(tree, "8.8.9-mine")
    with pytest.raises(InputError, match=r"has kernels 8\.8\.8-mine, 8\.8\.9-mine"):
        resolved(tree)


def test_a_host_without_kernel_files_is_told(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Name:
        release = "0.0.0-nowhere"

    monkeypatch.setattr(os, "uname", Name)
    with pytest.raises(InputError, match=r"kernel 0\.0\.0-nowhere is not installed"):
        kernel.resolve("host")

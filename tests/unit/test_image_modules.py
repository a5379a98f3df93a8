"""Module names, dependencies and what modules say of themselves."""

import gzip
import lzma
import struct
from pathlib import Path

import pytest

from nooks.host.errors import InputError, NooksError
from nooks.image import modinfo
from nooks.image.modules import ModuleTree, canonical

DEPENDENCIES = """\
kernel/lib/crc.ko:
kernel/lib/mii-lib.ko: kernel/lib/crc.ko
kernel/net/core-a.ko: kernel/net/core-b.ko
kernel/net/core-b.ko:
kernel/drivers/fast-card.ko.xz: kernel/lib/mii-lib.ko kernel/lib/crc.ko
kernel/drivers/fast_card2.ko: kernel/net/core-a.ko kernel/net/core-b.ko
kernel/sound/hda.ko:
kernel/sound/hda-codec.ko:
"""


@pytest.fixture
def tree(tmp_path: Path) -> ModuleTree:
    (tmp_path / "modules.dep").write_text(DEPENDENCIES)
    (tmp_path / "modules.builtin").write_text("kernel/fs/ram-disk.ko\n")
    (tmp_path / "modules.softdep").write_text(
        "# comment\nsoftdep hda post: hda_codec missing_one\nsoftdep fast_card2 pre: crc ram_disk\n"
        "softdep hda_codec pre: hda\n"
    )
    (tmp_path / "modules.alias").write_text(
        "# comment\nalias pci:v00008086d0000100Esv*sd*bc02sc00i* fast_card\n"
        "alias pci:v00008086d*sv*sd*bc02sc00i* fast-card2\nalias net-pf-1 other\n"
    )
    return ModuleTree(tmp_path, "9.9-test")


def closure(tree: ModuleTree, *names: str) -> list[str]:
    return [module.name for module in tree.closure(names)]


@pytest.mark.parametrize("name", ["a-b", "a_b", "a-b.ko", "kernel/x/a-b.ko.xz", "a_b.ko.zst", "a-b.ko.gz"])
def test_all_spellings_name_one_module(name: str) -> None:
    assert canonical(name) == "a_b"


def test_what_a_module_needs_comes_first_and_once(tree: ModuleTree) -> None:
    assert closure(tree, "fast-card", "mii_lib") == ["crc", "mii_lib", "fast_card"]


def test_soft_dependencies_come_along_if_they_exist(tree: ModuleTree) -> None:
    assert closure(tree, "hda") == ["hda", "hda_codec"]
    assert closure(tree, "fast_card2") == ["crc", "core_b", "core_a", "fast_card2"]


def test_a_soft_dependency_by_alias_is_served_by_what_runs_on_any_processor(tree: ModuleTree) -> None:
    with (tree.directory / "modules.alias").open("a") as aliases:
        aliases.write("alias sum hda-codec\nalias sum crc\nalias cpu:type:x86,ven*:feature:*0094* hda_codec\n")
    with (tree.directory / "modules.softdep").open("a") as softs:
        softs.write("softdep core_b pre: sum\n")
    assert closure(tree, "core-b") == ["crc", "core_b"]


def test_what_is_built_in_is_not_missing(tree: ModuleTree) -> None:
    assert closure(tree, "ram-disk") == []
    assert tree.has("ram_disk")
    assert tree.find("ram-disk") is None


def test_an_unknown_module_is_answered_with_near_misses(tree: ModuleTree) -> None:
    with pytest.raises(InputError, match=r"kernel 9\.9-test has no module fast-cart; did you mean fast_card"):
        closure(tree, "fast-cart")
    with pytest.raises(InputError, match="check the name"):
        closure(tree, "qqqqqqqq")


def test_a_device_finds_its_modules(tree: ModuleTree) -> None:
    device = "pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00"
    assert tree.for_device(device) == ["fast_card", "fast_card2"]
    assert tree.for_device("pci:v00001234d00005678sv0sd0bc00sc00i00") == []


def test_a_tree_without_index(tmp_path: Path) -> None:
    with pytest.raises(NooksError, match=r"has no modules\.dep"):
        ModuleTree(tmp_path, "9.9-test").has("anything")


def test_compressed_modules_are_read_decompressed(tmp_path: Path) -> None:
    data = b"module"
    for name, packed in (("a.ko", data), ("a.ko.xz", lzma.compress(data)), ("a.ko.gz", gzip.compress(data))):
        (tmp_path / name).write_bytes(packed)
        assert modinfo.read(tmp_path / name) == data


@pytest.mark.parametrize("name", ["a.ko.xz", "a.ko.gz", "absent.ko"])
def test_a_module_that_cannot_be_read(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.ko.xz").write_bytes(b"nonsense")
    (tmp_path / "a.ko.gz").write_bytes(b"nonsense")
    with pytest.raises(NooksError, match="can't be read"):
        modinfo.read(tmp_path / name)


def test_modinfo_strings() -> None:
    info = modinfo.from_strings(
        b"name=card\0vermagic=9.9 SMP\0depends=mii,crc\0alias=pci:*\0firmware=card/a.bin\0\0parm=speed:how fast: really"
        b"\0parmtype=speed:int\0parmtype=mute:bool\0parm=old:no type\0softdep=pre: a b post: c\0rubbish\0"
    )
    assert (info.name, info.vermagic, info.depends) == ("card", "9.9 SMP", ("mii", "crc"))
    assert info.firmware == ("card/a.bin",)
    assert [(p.name, p.kind, p.description) for p in info.parameters] == [
        ("speed", "int", "how fast: really"),
        ("mute", "bool", ""),
        ("old", "", "no type"),
    ]
    assert (info.soft_before, info.soft_after) == (("a", "b"), ("c",))


def test_no_module_at_all() -> None:
    with pytest.raises(NooksError, match="not a kernel module"):
        modinfo.parse(b"nothing")


def test_an_appended_signature_is_cut_off() -> None:
    signature = b"s" * 100
    descriptor = struct.pack(">8xI", len(signature))
    module = b"ELF..." + signature + descriptor + b"~Module signature appended~\n"
    assert modinfo.without_signature(module) == b"ELF..."
    assert modinfo.without_signature(b"ELF...") == b"ELF..."

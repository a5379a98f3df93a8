"""Specifications: what is taken, and how what is wrong is told."""

import contextlib
from pathlib import Path

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from nooks.host.errors import InputError
from nooks.host.paths import check_name
from nooks.spec import (
    ALLOWED,
    Device,
    Spec,
    find_line,
    from_flags,
    load,
    parse_device,
    parse_memory,
)

FULL = """\
name = "nic0"
driver = "e1000"
device = "emulated:e1000,mitigation=off"
kernel = "host"
memory = "160M"
debug = true

[network]
wire = "tap:wire0@lab"
address = ["192.0.2.7/24", "2001:db8::7/64"]

[restart]
intensity = 3
period_seconds = 10
"""


def written(directory: Path, text: str) -> Path:
    path = directory / "nook.toml"
    path.write_text(text)
    return path


def refusal(directory: Path, text: str) -> InputError:
    with pytest.raises(InputError) as caught:
        load(written(directory, text))
    assert "\n" not in str(caught.value)
    return caught.value


def test_everything_is_read(tmp_path: Path) -> None:
    spec = load(written(tmp_path, FULL))
    assert spec.parsed_device == Device("emulated", "e1000", (("mitigation", "off"),))
    assert spec.memory_bytes == 160 << 20
    assert spec.debug
    assert spec.network.tap() == ("wire0", "lab")
    assert spec.network.address == ("192.0.2.7/24", "2001:db8::7/64")
    assert spec.restart.intensity == 3


def test_defaults_are_the_contracts(tmp_path: Path) -> None:
    spec = load(written(tmp_path, 'name = "a"\ndriver = "e100"\n'))
    assert (spec.kernel, spec.memory, spec.debug, spec.network.wire) == ("debian", "128M", False, "user")
    assert spec.network.tap() is None
    assert spec.network.address == ()
    assert (spec.restart.intensity, spec.restart.period_seconds) == (10, 60)
    assert (spec.sound.policy, spec.sound.latency) == ("content", "default")
    assert spec.block.integrity


def test_json_and_back(tmp_path: Path) -> None:
    spec = load(written(tmp_path, FULL + '\n[block]\nmedia = "disk.img"\n'))
    assert Spec.from_json(spec.to_json()) == spec


def test_damaged_record() -> None:
    with pytest.raises(InputError, match="damaged"):
        Spec.from_json(b'{"name": "a"')


def test_flags_override_the_file(tmp_path: Path) -> None:
    spec = load(written(tmp_path, FULL), {"name": "nic1", "network.address": "dhcp", "restart.intensity": 5})
    assert (spec.name, spec.network.address, spec.restart.intensity) == ("nic1", "dhcp", 5)
    assert spec.network.wire == "tap:wire0@lab"


def test_relative_paths_count_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "specs"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    path = written(folder, 'name = "a"\ndriver = "e100"\nkernel = "./kernel"\n[block]\nmedia = "disk.img"\n')
    spec = load(path)
    assert spec.kernel == str(folder / "kernel")
    assert spec.block.media == str(folder / "disk.img")
    assert load(path, {"kernel": "./kernel"}).kernel == str(tmp_path / "kernel")
    assert load(path, {"kernel": "6.1.0-50"}).kernel == "6.1.0-50"


@pytest.mark.parametrize(
    ("text", "line", "parts"),
    [
        ('name = "a"\ndriver = "e100"\nmemroy = "1G"\n', 3, ["memroy", "did you mean memory?"]),
        ('name = "a"\ndriver = "e100"\n\n[network]\nwir = "user"\n', 5, ["network.wir", "wire, address"]),
        ('name = "a"\ndriver = "e100"\n[netwrk]\nwire = "user"\n', 3, ["netwrk", "did you mean network?"]),
        ('name = "a"\ndriver = "e100"\nmemory = 128\n', 3, ["memory", "expected text, got whole number", "128M"]),
        ('name = "a"\ndriver = "e100"\nmemory = "32M"\n', 3, ["32M is less", "from 80M to 4G"]),
        ('name = "a"\ndriver = "e100"\nmemory = "8G"\n', 3, ["8G is more"]),
        ('name = "a"\ndriver = "e100"\ndebug = "yes"\n', 3, ["debug", "true or false"]),
        ('driver = "e100"\nname = "Nic"\n', 2, ["'Nic'", "a-z"]),
        ('name = "a"\ndriver = "../e100"\n', 2, ["driver"]),
        ('name = "a"\ndriver = "e100"\ndevice = "e100"\n', 3, ["device", "emulated:MODEL"]),
        ('name = "a"\ndriver = "e100"\n[network]\nwire = "tap:"\n', 4, ["network.wire", "tap:IFNAME"]),
        ('name = "a"\ndriver = "e100"\n[network]\naddress = ["192.0.2.7"]\n', 4, ["network.address", "/24"]),
        ('name = "a"\ndriver = "e100"\n[network]\naddress = ["x/24"]\n', 4, ["network.address"]),
        ('name = "a"\ndriver = "e100"\n[restart]\nintensity = 0\n', 4, ["restart.intensity", "1 to 1000"]),
        ('name = "a"\ndriver = "e100"\n[restart]\nperiod_seconds = 0\n', 4, ["restart.period_seconds"]),
        ('name = "a"\ndriver = "e100"\n[sound]\npolicy = "mix"\n', 4, ["sound.policy", "content or clock"]),
        ('name = "a"\ndriver = "sb16"\n[sound]\nline = "unix:here"\n', 4, ["sound.line", "unix:PATH"]),
        ('name = "a"\ndriver = "sb16"\n[sound]\nline = "/tmp/x"\n', 4, ["sound.line", "unix:PATH"]),
        ('name = "a"\ndriver = "e100"\nnetwork = "user"\n', 3, ["network", "a table"]),
        ('name = "a"\ndriver = "e100"\nnetwork.wire = 3\n', 3, ["network.wire"]),
        ('name = "a"\ndriver = "e100"\nnetwork = {wire = 3}\n', 3, ["network.wire"]),
        ('name = "a"\ndriver = "e100"\nclass = "video"\n', 3, ["class", "network, block or sound"]),
    ],
)
def test_refusals_name_key_line_and_what_is_allowed(tmp_path: Path, text: str, line: int, parts: list[str]) -> None:
    error = refusal(tmp_path, text)
    assert f"nook.toml, line {line}:" in error.message
    for part in parts:
        assert part in str(error)
    assert error.fix
    assert error.exit_code == 2


@pytest.mark.parametrize("text", ["name = ", "[network", 'name = "a"\nname = "b"'])
def test_broken_toml_names_the_file(tmp_path: Path, text: str) -> None:
    assert "nook.toml is not valid TOML" in refusal(tmp_path, text).message


def test_missing_keys_and_files(tmp_path: Path) -> None:
    assert "has no driver" in refusal(tmp_path, 'name = "a"').message
    with pytest.raises(InputError, match="No such file"):
        load(tmp_path / "absent.toml")
    with pytest.raises(InputError, match="Is a directory"):
        load(tmp_path)
    with pytest.raises(InputError, match="--name is missing"):
        from_flags({"driver": "e100"})


def test_wrong_flags_are_named_as_flags(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--memory is wrong"):
        load(written(tmp_path, FULL), {"memory": "1M"})
    with pytest.raises(InputError, match="--period-seconds is wrong"):
        from_flags({"name": "a", "driver": "e100", "restart.period_seconds": -1.0})


@pytest.mark.parametrize(
    ("text", "device"),
    [
        ("emulated:e1000", Device("emulated", "e1000")),
        ("emulated:pcnet,a=b,c=", Device("emulated", "pcnet", (("a", "b"), ("c", "")))),
        ("model:3c905", Device("model", "3c905")),
        ("pci:0000:03:00.0", Device("pci", "0000:03:00.0")),
        ("pci:03:00.0", Device("pci", "0000:03:00.0")),
        ("usb:0BDA:8153", Device("usb", "0bda:8153")),
    ],
)
def test_devices(text: str, device: Device) -> None:
    assert parse_device(text) == device


@pytest.mark.parametrize(
    "text", ["", "e1000", "emulated:", "emulated:a b", "emulated:e1000,x", "pci:zz", "usb:1", "what:x", "pci:03:00.9"]
)
def test_wrong_devices(text: str) -> None:
    with pytest.raises(ValueError, match="is not"):
        parse_device(text)


@pytest.mark.parametrize("name", ["a", "nic0", "a-b", "abcdefghijklmno"])
def test_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "0a", "-a", "A", "a_b", "abcdefghijklmnop", "a/b", "..", "a\n"])
def test_wrong_names(name: str) -> None:
    with pytest.raises(InputError, match="can't name a nook"):
        check_name(name)


@given(st.integers(80, 4096))
def test_memory_in_megabytes(megabytes: int) -> None:
    assert parse_memory(f"{megabytes}M") == megabytes << 20


@given(st.text(max_size=12))
def test_memory_never_escapes(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert 80 << 20 <= parse_memory(text) <= 4 << 30


@given(st.text(max_size=40))
def test_devices_never_escape(text: str) -> None:
    with contextlib.suppress(ValueError):
        parse_device(text)


def test_find_line_copes_with_ways_of_writing() -> None:
    text = '# name = 3\n[ network ]\n"wire" = "x"\n[[other]]\nwire = "y"\n'
    assert find_line(text, "network.wire") == 3
    assert find_line(text, "network") == 2
    assert find_line(text, "name") is None


def test_every_key_is_described() -> None:
    fields = {name: kind for name, kind in Spec.__annotations__.items() if name != "driver_class"}
    assert set(fields) | {"class"} == {key for key in ALLOWED if "." not in key}
    for section in ("network", "block", "sound", "restart"):
        inner = {key.partition(".")[2] for key in ALLOWED if key.startswith(f"{section}.")}
        assert inner == set(Spec.__annotations__[section].__annotations__)


def test_what_is_written_is_read_as_the_same(tmp_path: Path) -> None:
    keys = {"name": "nic0", "driver": "e1000", "class": "network", "device": "pci:0000:03:00.0", "memory": "160M"}
    spec = from_flags({**keys, "restart.intensity": 3, "network.address": ["192.0.2.1/24"], "debug": True})
    assert "sound" not in spec.to_document()
    path = tmp_path / "nic0.toml"
    path.write_text(tomli_w.dumps(spec.to_document()))
    assert load(path) == spec

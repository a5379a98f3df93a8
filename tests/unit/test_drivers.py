"""The table of drivers."""

import re

import msgspec
import pytest

from nooks import drivers
from nooks.host.errors import InputError
from nooks.spec import Spec, from_flags


def spec(**keys: str) -> Spec:
    return from_flags({"name": "nic0", **{key.replace("class_", "class"): value for key, value in keys.items()}})


def test_the_table_is_sound() -> None:
    table = drivers.table()
    assert {"e1000", "e100", "pcnet32"} <= set(table)
    for name, row in table.items():
        assert row.name == name
        assert row.module
        assert row.devices
        assert row.summary
        for item in row.verified:
            assert re.fullmatch(r"tests/\S+\.py::\S+", item.test)


@pytest.mark.parametrize(
    ("driver", "device"), [("e1000", "emulated:e1000"), ("e100", "emulated:i82557b"), ("pcnet32", "emulated:pcnet")]
)
def test_the_default_device_comes_from_the_row(driver: str, device: str) -> None:
    complete, row = drivers.complete(spec(driver=driver))
    assert complete.device == device
    assert complete.driver_class == "network"
    assert row.known


def test_a_device_that_is_given_stays() -> None:
    complete, _ = drivers.complete(spec(driver="e1000", device="emulated:e1000-82544gc"))
    assert complete.device == "emulated:e1000-82544gc"


def test_any_module_with_a_device() -> None:
    complete, row = drivers.complete(spec(driver="ne", device="emulated:ne2k_isa"))
    assert (row.module, row.known, row.driver_class) == ("ne", False, "network")
    assert complete.device == "emulated:ne2k_isa"


def test_an_unknown_driver_without_a_device_is_refused_with_a_hint() -> None:
    with pytest.raises(InputError, match=r"e1001 is not a known driver.*e1000 was meant"):
        drivers.complete(spec(driver="e1001"))
    with pytest.raises(InputError, match="nooks drivers"):
        drivers.complete(spec(driver="zzzz"))


def test_classes() -> None:
    with pytest.raises(InputError, match="e1000 is a network driver, not a sound driver"):
        drivers.complete(spec(driver="e1000", class_="sound"))
    completed, driver = drivers.complete(spec(driver="pata_foo", device="emulated:ide-hd", class_="block"))
    assert (completed.driver_class, driver.module) == ("block", "pata_foo")
    completed, driver = drivers.complete(spec(driver="snd-sb16", device="emulated:sb16", class_="sound"))
    assert (completed.driver_class, driver.module) == ("sound", "snd-sb16")


@pytest.mark.parametrize(
    ("device", "complaint"),
    [
        ("model:epic10", "there is no device model 'epic10'; perhaps model:epic100 was meant"),
        ("model:zx81", "there is no device model 'zx81'; there are "),
        ("model:epic100,mac=1", "the device model epic100 has no option 'mac'"),
        ("model:epic100,reset=flr", "reset=flr is wrong; write reset=best or reset=none"),
    ],
)
def test_device_models_that_there_are_not(device: str, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        drivers.complete(spec(driver="epic100", device=device))


def test_completing_twice_changes_nothing() -> None:
    once, _ = drivers.complete(spec(driver="e100"))
    assert drivers.complete(once)[0] == once


@pytest.mark.parametrize(
    "row",
    [
        'name = "a"\nclass = "video"',
        'name = "a"\nclass = "network"\ncolour = "red"',
        'name = "a"\nclass = "network"\ndevices = ["a"]',
        'name = "a"\nclass = "network"\n[[driver]]\nname = "a"\nclass = "network"',
        'class = "network"',
    ],
)
def test_wrong_rows_are_noticed(row: str) -> None:
    with pytest.raises((msgspec.ValidationError, ValueError)):
        drivers.parse_table(f"[[driver]]\n{row}\n")


def test_a_row_is_enough_for_a_new_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = drivers.parse_table(
        '[[driver]]\nname = "new"\nclass = "network"\nmodule = "new_mod"\nparameters = "a=1"\n'
        'devices = ["emulated:x"]\nflavour = "686"\n'
    )
    monkeypatch.setattr(drivers, "table", lambda: rows)
    complete, row = drivers.complete(spec(driver="new"))
    assert (complete.device, row.module, row.parameters, row.flavour) == ("emulated:x", "new_mod", "a=1", "686")

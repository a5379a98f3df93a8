"""From a verdict on a device to a nook's specification, or to a refusal in one line."""

from dataclasses import replace
from pathlib import Path

import pytest

from nooks.device.verdict import Problem, Verdict
from nooks.host.errors import InputError, StateError
from nooks.lifecycle import examining

GOOD = Verdict(
    device="pci:0000:03:00.0",
    name="enp3s0",
    description="Intel 82540EM",
    driver_class="network",
    driver="e1000",
    module="e1000",
    reset="none",
)
HARD = Problem("it is mounted", "unmount it")
SOFT = Problem("you are logged in over it", "log in another way", force=True)


@pytest.fixture(autouse=True)
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOOKS_RUN_DIR", str(tmp_path))


def test_the_specification_of_a_card() -> None:
    spec = examining.spec_for(GOOD, {})
    assert (spec.name, spec.driver, spec.device, spec.kernel) == ("enp3s0", "e1000", "pci:0000:03:00.0", "host")
    assert spec.driver_class == "network"
    assert spec.real
    assert spec.plugged_late


def test_the_users_keys_win() -> None:
    spec = examining.spec_for(GOOD, {"name": "nic0", "kernel": "debian", "restart.intensity": 3})
    assert (spec.name, spec.kernel, spec.restart.intensity) == ("nic0", "debian", 3)
    with pytest.raises(InputError, match="Nic"):
        examining.spec_for(GOOD, {"name": "Nic"})


@pytest.mark.parametrize("name", ["", "wlan_0", "ENP3S0", "eth0, eth1"])
def test_a_name_that_can_not_name_a_nook_is_replaced(name: str) -> None:
    assert examining.spec_for(replace(GOOD, name=name), {}).name == "nic0"


def test_a_module_is_called_as_its_row_is() -> None:
    assert examining.driver_of(replace(GOOD, module="pcnet32")) == "pcnet32"
    assert examining.driver_of(replace(GOOD, module="r8152")) == "r8152"


def test_refusals_say_all_that_is_wrong() -> None:
    examining.refuse_unless_possible(GOOD, force=False)
    with pytest.raises(StateError, match="it is mounted; you are logged in") as refused:
        examining.refuse_unless_possible(replace(GOOD, problems=(HARD, SOFT)), force=False)
    assert "--force" not in refused.value.fix
    with pytest.raises(StateError, match="logged in") as refused:
        examining.refuse_unless_possible(replace(GOOD, problems=(SOFT,)), force=False)
    assert "--force" in refused.value.fix


def test_force_overrides_what_is_only_inadvisable() -> None:
    examining.refuse_unless_possible(replace(GOOD, problems=(SOFT,)), force=True)
    with pytest.raises(StateError, match="it is mounted; unmount it"):
        examining.refuse_unless_possible(replace(GOOD, problems=(HARD, SOFT)), force=True)


def test_what_is_made_for_applications_depends_on_the_class() -> None:
    sound = replace(GOOD, name="card0", driver_class="sound", module="snd_intel8x0")
    steps = examining.plan(sound, examining.spec_for(sound, {"name": "speakers"}), force=False)["steps"]
    assert "make the sink and the source nooks-speakers, as the card has them" in steps
    assert examining.spec_for(sound, {}).name == "card0"
    assert examining.spec_for(replace(sound, name=""), {"sound.policy": "clock"}).sound.policy == "clock"

"""From a specification and an image to domains: the plan, what an agent is first asked, how the device comes in."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from nooks.device import passthrough
from nooks.device.emulated import as_argument
from nooks.domain import accel
from nooks.domain.domain import Domain, Jail
from nooks.domain.emulator import SYSTEM, Emulator
from nooks.domain.maker import DomainMaker
from nooks.domain.probe import working_accelerator
from nooks.domain.qemu import Plan
from nooks.host.pace import slowness
from nooks.image.modules import canonical
from nooks.nook.asking import surely
from nooks.nook.incarnation import BootError, Incarnation, Listener
from nooks.nook.plugging import CLAIM_SECONDS, EmulatedDevice, LateDevice, Plugging
from nooks.nook.side import ClassSide
from nooks.spec import Spec
from nooks.xpc.errors import RequestError
from nooks.xpc.messages import BringUp, BringUpReply, Module, Prepare

PREPARE_SECONDS = 10.0
"""How long an agent may take to find that all modules are in."""


class Plans:
    """Makers of one nook's domains. ``late`` is its device, if that is a thing of its own; ``inherited`` lead to it."""

    def __init__(
        self,
        spec: Spec,
        side: ClassSide,
        jail: Jail,
        listener: Listener,
        late: LateDevice | None,
        inherited: tuple[int, ...] = (),
    ) -> None:
        self._spec = spec
        self._side = side
        self._jail = jail
        self._listener = listener
        self._late = late
        self._inherited = inherited

    async def maker(self, image: dict[str, Any]) -> DomainMaker:
        """A maker of domains with the driver of ``image``, on the accelerator that works here. Raises NooksError."""
        spec = self._spec
        plan = Plan(
            vmlinux=Path(image["vmlinux"]),
            initramfs=Path(image["initramfs"]),
            image_digest=image["digest"],
            memory_bytes=spec.memory_bytes,
            hardware=(*self._side.hardware(), *self._device_arguments()),
            accelerator=accel.tcg(),
            pinned=spec.parsed_device.kind == "pci",
            shared=spec.modelled,
            inherited=self._inherited,
            emulator=Emulator(Path(image["emulator"])) if image.get("emulator") else SYSTEM,
            debug=spec.debug,
            region_bytes=(region := self._side.region_bytes()),
            writes_files=region > 0 and not spec.real,
        )
        plan = replace(plan, accelerator=await working_accelerator(plan, self._jail))
        request = _prepare(spec, image) if spec.plugged_late else _bring_up(spec, image)

        async def bring_up(domain: Domain) -> dict[str, Any]:
            return await self._first(domain, request)

        return DomainMaker(plan, self._jail, bring_up, repr(request))

    def plugging(self, image: Callable[[], dict[str, Any]], came_up: Callable[[BringUpReply], None]) -> Plugging | None:
        """How domains get a device that they don't have from the start; None if they do. ``image``: the next one's."""
        if not self._spec.plugged_late:
            return None
        device = self._late or EmulatedDevice(self._side.emulated_device())

        def request() -> BringUp:
            return replace(_bring_up(self._spec, image()), settings=self._side.recorded())

        return Plugging(device, request, came_up)

    async def rehearse(self, spare: Incarnation, image: dict[str, Any]) -> None:
        """All that a spare can be asked before it has its device: once more what it has done. Raises XpcError.

        Cancelled, it leaves the agent's answer to arrive: the spare may be needed at any moment.
        """
        await surely(spare.ask(_prepare(self._spec, image), PREPARE_SECONDS))

    async def _first(self, domain: Domain, request: BringUp | Prepare) -> dict[str, Any]:
        booted = Incarnation(domain, 0, -1, self._listener)
        booted.open()
        try:
            if isinstance(request, Prepare):
                return (await booted.first(request)).to_payload()
            return (await booted.first(request)).to_payload()
        except RequestError as error:
            what = f"driver {self._spec.driver} did not come up on {self._spec.device}: {error}"
            raise BootError(what, "choose a device that the driver is for; 'nooks drivers' lists some") from error
        finally:
            await booted.close()

    def _device_arguments(self) -> tuple[str, ...]:
        """What every domain has of the device from its start on: all of an emulated one, a USB device's controller."""
        if self._spec.plugged_late:
            return passthrough.controller(self._spec.parsed_device.kind)
        return as_argument(self._side.emulated_device())


def _modules(image: dict[str, Any]) -> tuple[Module, ...]:
    parameters = {canonical(name): text for name, text in image["parameters"].items()}
    return tuple(Module(name, parameters.get(canonical(name), "")) for name in image["load_order"])


def _prepare(spec: Spec, image: dict[str, Any]) -> Prepare:
    return Prepare(spec.driver_class or "", _modules(image))


def _bring_up(spec: Spec, image: dict[str, Any]) -> BringUp:
    request = BringUp(spec.driver_class or "", _modules(image))
    return replace(request, claim_seconds=CLAIM_SECONDS * slowness()) if spec.plugged_late else request

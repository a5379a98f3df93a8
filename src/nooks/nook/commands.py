"""What the control socket's commands do with a running nook (all but ``stop``, which is the supervisor's)."""

from collections.abc import Awaitable, Callable
from typing import Any

from nooks import drivers
from nooks.host.errors import InputError, NooksError, StateError
from nooks.nook.injecting import Injecting
from nooks.nook.nook import Nook
from nooks.xpc.errors import ChannelClosed, XpcError
from nooks.xpc.messages import CRASHES, Crash, Register

CRASH_SECONDS = 10.0

Arguments = dict[str, Any]
Command = Callable[[Arguments], Awaitable[Any]]


def commands(nook: Nook) -> dict[str, Command]:
    """The commands by name; each takes the request's arguments, returns JSON, raises NooksError."""
    table: dict[str, Callable[[Nook, Arguments], Awaitable[Any]]] = {
        "status": _status,
        "restart": _restart,
        "rearm": _rearm,
        "set": _set,
        "media": _media,
        "crash": _crash,
        "metrics": _metrics,
        "misbehave": _misbehave,
    }
    injecting = Injecting(nook)
    own: dict[str, Command] = {"inject": injecting.inject, "injected": injecting.injected}
    return {name: _bound(nook, function) for name, function in table.items()} | own


def _bound(nook: Nook, function: Callable[[Nook, Arguments], Awaitable[Any]]) -> Command:
    async def command(arguments: Arguments) -> Any:  # noqa: ANN401 - any JSON
        return await function(nook, arguments)

    return command


async def _status(nook: Nook, arguments: Arguments) -> dict[str, Any]:
    del arguments
    counts = nook.manager.counts
    return {
        **nook.result(),
        "state": nook.manager.state,
        "incarnation": nook.manager.incarnation,
        "failures": counts.failures,
        "recoveries": counts.recoveries,
        "last_recovery_seconds": counts.last_recovery_seconds,
        "last_means": counts.last_means,
        "last_step_seconds": counts.last_step_seconds,
        "spare_pid": nook.restarter.spare_pid,
        "spare_ready": nook.restarter.spare_ready,
        "kernel": nook.image["kernel"],
        "device": nook.spec.device,
        "accelerator": nook.restarter.maker.plan.accelerator.name,
    }


async def _restart(nook: Nook, arguments: Arguments) -> dict[str, Any]:
    await nook.planned(arguments.get("kernel"), arguments.get("image"))
    return nook.result()


async def _rearm(nook: Nook, arguments: Arguments) -> dict[str, Any]:
    del arguments
    await nook.manager.rearm()
    return nook.result()


async def _set(nook: Nook, arguments: Arguments) -> dict[str, Any]:
    settings = arguments.get("settings")
    if not isinstance(settings, dict) or not settings:
        raise InputError("no setting was given", "write KEY=VALUE, such as ring.rx=512")
    return {"name": nook.spec.name, "settings": await nook.side.set(settings)}


async def _media(nook: Nook, arguments: Arguments) -> dict[str, Any]:
    path = arguments.get("path")
    if path is not None and not isinstance(path, str):
        raise InputError("no medium was given", "name a file")
    await nook.side.media(path)
    return await _status(nook, {})


async def _crash(nook: Nook, arguments: Arguments) -> dict[str, Any]:
    how = str(arguments.get("how"))
    live = nook.running()
    if how not in (*CRASHES, "freeze", "kill"):
        raise InputError(f"no way to fail is called {how!r}", f"one of {', '.join((*CRASHES, 'freeze', 'kill'))}")
    if how in ("kill", "freeze"):
        nook.commanded(live.number, how)
    if how == "kill":
        live.domain.kill_process()
    elif how == "freeze":
        live.domain.stop_process()
    else:
        registers = _stray_dma(nook) if how == "dma" else ()
        try:
            await live.channel.request(Crash(how, registers), CRASH_SECONDS)
            nook.commanded(live.number, how)  # the agent answers just before it happens
        except ChannelClosed:
            pass  # it died before its answer got out
        except XpcError as error:
            raise NooksError(f"the agent did not do it: {error}", "see 'nooks status'") from error
    return {"name": nook.spec.name, "how": how, "incarnation": live.number}


def _stray_dma(nook: Nook) -> tuple[Register, ...]:
    """The registers that make the nook's card reach outside the domain's memory. Raises InputError, StateError."""
    driver = drivers.find(nook.spec.driver)
    if not driver.stray_dma:
        what = f"it is not known how to make a card of {driver.name} reach outside its domain's memory"
        raise InputError(what, "add stray_dma to its row in drivers.toml")
    if nook.spec.parsed_device.kind not in ("pci", "model"):
        fix = "use a real card (nooks attach), which the IOMMU holds back"
        raise StateError(f"{nook.spec.device} has nobody who could refuse it that", fix)
    return tuple(Register(each.bar, each.offset, each.size, each.value) for each in driver.stray_dma)


async def _misbehave(nook: Nook, arguments: Arguments) -> dict[str, Any]:
    if nook.model is None:
        raise InputError(f"{nook.spec.name} has no device model", "only a nook with a device model:NAME can do that")
    kind = str(arguments.get("kind"))
    await nook.model.ask("misbehave", kind=kind, lasting=bool(arguments.get("lasting")))
    return {"name": nook.spec.name, "kind": kind}


async def _metrics(nook: Nook, arguments: Arguments) -> dict[str, Any]:
    return {
        **await _status(nook, arguments),
        **nook.side.facts(),
        "planned": nook.manager.counts.planned,
        "lost_events": nook.journal.lost,
    }

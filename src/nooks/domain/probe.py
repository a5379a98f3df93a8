"""Finds out by booting whether hardware virtualisation works here: a device node that opens proves nothing."""

import asyncio
from dataclasses import replace

import structlog

from nooks.domain import accel
from nooks.domain.accel import Accelerator
from nooks.domain.domain import Domain, Jail, LaunchError
from nooks.domain.qemu import Plan
from nooks.host.pace import slowness
from nooks.host.process import wait_readable

PROBE_SECONDS = 8.0
"""How long a domain on KVM may take until its agent speaks: half a second where it works. Longer on a slow machine."""


async def working_accelerator(plan: Plan, jail: Jail) -> Accelerator:
    """KVM if this image boots on it, else TCG; the result is remembered until the machine restarts."""
    known = accel.remembered(plan.image_digest)
    if known is not None:
        return known
    works = await _boots(replace(plan, accelerator=accel.kvm(), hardware=(), debug=False, region_bytes=0), jail)
    accel.remember(plan.image_digest, works=works)
    structlog.get_logger().info("probe boot", kvm=works)
    return accel.kvm() if works else accel.tcg()


async def _boots(plan: Plan, jail: Jail) -> bool:
    limit = PROBE_SECONDS * slowness()
    try:
        async with asyncio.timeout(limit):
            domain = await Domain.launch(plan, {}, jail, "probe")
    except (LaunchError, TimeoutError):
        return False
    try:
        return await wait_readable(domain.handles.sockets["xpc"].fileno(), limit)
    finally:
        await domain.destroy()

"""An address by DHCP for the host's interface, kept as long as the block lasts; pyroute2's client does the work.

Loaded only where a spec says ``address = "dhcp"``: pyroute2 costs 0.26 s and 16 MB. Only the address is taken: whose
default route and name servers the host uses is for its administrator to say.
"""

import asyncio
import contextlib
import ipaddress
from collections.abc import AsyncGenerator
from typing import Any

from nooks.host.errors import NooksError

LEASE_SECONDS = 30.0
"""How long the first lease may take; servers that probe an address first need some seconds."""


@contextlib.asynccontextmanager
async def leased(interface: str, *, timeout_seconds: float = LEASE_SECONDS) -> AsyncGenerator[str]:
    """Get an address for an interface of this thread's namespace, renew it, and release it at the end.

    Yields the address, as 10.0.2.15/24. Raises NooksError if no server answers.
    """
    from pyroute2.dhcp.client import AsyncDHCPClient, ClientConfig
    from pyroute2.dhcp.hooks import Trigger, configure_ip, hook, remove_ip

    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @hook(Trigger.BOUND)
    async def tell(lease: Any) -> None:  # noqa: ANN401 - pyroute2's class
        if not address.done():
            address.set_result(ipaddress.ip_interface(f"{lease.ip}/{lease.subnet_mask}").with_prefixlen)

    config = ClientConfig(
        interface=interface,
        lease_type=_forgetful_lease(),
        hooks=(configure_ip, tell, remove_ip),
        handle_signals=False,
        vendor_id="nooks",
    )
    async with AsyncDHCPClient(config) as client:
        await client.bootstrap()
        try:
            async with asyncio.timeout(timeout_seconds):
                leased_address = await address
        except TimeoutError:
            raise NooksError(
                f"no DHCP server answered on {interface} within {timeout_seconds:.0f} s",
                "give the nook an address, or start a server on its network",
            ) from None
        yield leased_address


def _forgetful_lease() -> Any:  # noqa: ANN401 - a class derived from one that is loaded lazily
    """A lease that is not written to the working directory: after a restart the server knows the client's MAC."""
    from pyroute2.dhcp.leases import Lease

    class ForgetfulLease(Lease):
        def dump(self) -> None:
            """Nothing is kept."""

        @classmethod
        def load(cls, interface: str) -> None:
            """Nothing was kept."""

    return ForgetfulLease

"""Where a nook's domains run, and as whom: that takes root, or else what an ordinary user may do."""

import os

from nooks.domain.domain import Jail
from nooks.endpoint import netns
from nooks.nook.leftovers import domain_user


def make(name: str) -> Jail:
    """The jail of a nook's domains; the caller closes it. Raises MachineError if the kernel refuses."""
    network = netns.empty_netns() if os.geteuid() == 0 else None
    return Jail(domain_user(name), network, f"nooks-{name}")

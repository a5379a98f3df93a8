"""Which incarnation a frame may claim: an older one's are discarded, an unknown one is a violation."""

from nooks.xpc.errors import ProtocolError


class IncarnationFilter:
    """Judges one stream. ``current`` is the highest incarnation seen, ``allowed`` the highest told."""

    def __init__(self, incarnation: int = 0) -> None:
        self.current = incarnation
        self.allowed = incarnation
        self.discarded = 0

    def allow(self, incarnation: int) -> None:
        """The domain is about to be told that it is ``incarnation``."""
        self.allowed = max(self.allowed, incarnation)

    def accepts(self, incarnation: int) -> bool:
        """False if the frame is from before; counts it. Raises ProtocolError for an unknown incarnation."""
        if incarnation > self.allowed or self.current < incarnation < self.allowed:
            raise ProtocolError(f"incarnation {incarnation} was never announced")
        if incarnation < self.current:
            self.discarded += 1
            return False
        self.current = incarnation
        return True

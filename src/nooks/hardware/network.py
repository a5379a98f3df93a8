"""A network card: a PCI function with a cable. What cards differ in is how a driver is told of frames."""

from collections.abc import Callable

from nooks.hardware.ethernet import Cable
from nooks.hardware.loop import Loop
from nooks.hardware.memory import Refused
from nooks.hardware.pci import PciFunction

NetworkCardFactory = Callable[[Loop, Refused, int, str], "NetworkCard"]


class NetworkCard(PciFunction):
    """``cable`` is the descriptor of its end of the cable, ``serial`` decides its burnt-in address."""

    yields = True

    def __init__(self, loop: Loop, refused: Refused, cable: int, serial: str) -> None:
        super().__init__(loop, refused)
        self.serial = serial
        self.cable = Cable(loop, cable, self.arrived, self.settled)

    def arrived(self, frame: bytes) -> bool:
        """A frame is at the card's end of the cable; False: there is no room, it must wait."""
        raise NotImplementedError

    def settled(self) -> None:
        """Nothing more has arrived for the moment: time to interrupt."""
        raise NotImplementedError

    def close(self) -> None:
        """Unplug the cable."""
        self.cable.close()

"""Serves one PCI function by vfio-user: one client at a time, the next one when the last is gone."""

import contextlib
import os
import socket
from collections.abc import Callable

from nooks.hardware.client import Client
from nooks.hardware.loop import Loop
from nooks.hardware.messages import Next, Violation
from nooks.hardware.pci import PciFunction


class Server:
    """Accepts clients for ``function`` on a listening socket, whose messages are taken by ``library`` if there is one.

    ``changed`` is told whether there is a client.
    """

    def __init__(
        self,
        loop: Loop,
        listener: socket.socket,
        function: PciFunction,
        changed: Callable[[bool], None] = lambda connected: None,
        library: Next | None = None,
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._function = function
        self._changed = changed
        self._library = library
        self._client: Client | None = None
        self._absent = False
        listener.setblocking(False)
        loop.add(listener.fileno(), self._accept)

    @property
    def absent(self) -> bool:
        """Whether the card is pulled out of its slot."""
        return self._absent

    @property
    def connected(self) -> bool:
        """Whether there is a client."""
        return self._client is not None

    def pull(self) -> None:
        """The card is pulled out: the client loses it, and the next one waits until ``put_back``."""
        self._absent = True
        self._loop.remove(self._listener.fileno())
        self.drop()

    def put_back(self) -> None:
        """The card is in its slot again, as after power-on."""
        if self._absent:
            self._absent = False
            self._function.reset_function()
            self._listen()

    def drop(self) -> None:
        """Disconnect the client, if there is one."""
        if self._client is not None:
            client, self._client = self._client, None
            self._loop.remove(client.fileno())
            client.close()
            self._function.disconnect()
            self._changed(False)
            self._listen()

    def close(self) -> None:
        """End for good; the listening socket is closed as well."""
        self.drop()
        self._loop.remove(self._listener.fileno())
        self._listener.close()

    def _listen(self) -> None:
        if self._client is None and not self._absent:
            self._loop.remove(self._listener.fileno())
            self._loop.add(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        self._loop.remove(self._listener.fileno())
        self._client = Client(connection, self._function, self._library)
        self._loop.add(connection.fileno(), self._serve)
        self._changed(True)

    def _serve(self) -> None:
        client = self._client
        if client is None:
            return
        try:
            client.serve()
        except (Violation, OSError):
            if self._client is client:
                self.drop()


def listen(path: str) -> socket.socket:
    """A listening socket at ``path``, in place of what is there. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108 - one call
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(1)
    return listener

"""What can go wrong with an XPC. Plain exceptions: this file is also used inside the domain."""


class XpcError(Exception):
    """Base of all errors of this room."""


class ProtocolError(XpcError):
    """The other side sent something that it must not send. On the host this is a failure report."""


class RequestError(XpcError):
    """The agent answered a request with an error frame; the text is the agent's."""


class XpcTimeout(XpcError):  # noqa: N818 - the name says it
    """No reply came before the request's deadline."""


class ChannelClosed(XpcError):  # noqa: N818 - the name says it
    """The channel ended (end of file, a violation, or ``close``) before the reply came."""

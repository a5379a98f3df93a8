"""The errors that users see. Every other exception that reaches the command line is a defect of ours."""


class NooksError(Exception):
    """Something failed; ``message`` says what is wrong and ``fix`` what to do about it.

    The command line prints ``nooks: error: message; fix`` and exits with ``exit_code``.
    """

    exit_code = 1

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(f"{message}; {fix}" if fix else message)
        self.message = message
        self.fix = fix


class InputError(NooksError):
    """What the user asked for makes no sense: an unknown name, a wrong value, a missing file."""

    exit_code = 2


class MachineError(NooksError):
    """This machine lacks something that the command needs."""


class StateError(NooksError):
    """The command does not fit the nook's present state."""

"""The entry point: runs a command and turns every outcome into an exit status, every error into one line."""

import os
import sys

# Nothing else here: an interrupt during the imports of this module would end in a traceback.

INTERRUPTED = 130
BROKEN_PIPE = 141


def main() -> int:
    """Run ``nooks`` with the process's arguments; returns the exit status (CONTRACT: 0, 1 or 2)."""
    arguments = sys.argv[1:] or ["--help"]
    try:
        from nooks.host import interrupts

        interrupts.catch()
        status = _run(arguments)
        interrupts.ignore()  # what was done is done: the interpreter's own end must not turn it into a failure
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        from nooks.host import interrupts

        interrupts.ignore()
        return complain("interrupted", "run it again", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the last flush does not fail again
        return BROKEN_PIPE
    finally:
        if "nooks.cli.ahead" in sys.modules:
            sys.modules["nooks.cli.ahead"].discard()


def _run(arguments: list[str]) -> int:
    from nooks.host.errors import NooksError

    try:
        _prepare(arguments)
        return _dispatch(arguments)
    except NooksError as error:
        return complain(error.message, error.fix, error.exit_code)
    except (KeyboardInterrupt, BrokenPipeError):
        raise
    except OSError as error:
        return _complain_of_system(error)
    except Exception as error:  # noqa: BLE001 - a defect of ours: still one line for the user
        return _complain_of_defect(error)


def _prepare(arguments: list[str]) -> None:
    """For what starts a nook, begin the supervisor's imports before our own (``standby``)."""
    idle = {"-h", "--help", "--dry-run"}
    if arguments[0] in ("start", "attach") and os.geteuid() == 0 and not idle.intersection(arguments):
        from nooks.cli import ahead

        ahead.begin()


def _dispatch(arguments: list[str]) -> int:
    import typer

    from nooks.cli.app import root

    try:
        result = root().main(args=arguments, prog_name="nooks", standalone_mode=False)
    except typer.TyperException as error:
        message = _one_line(error.format_message()).replace("Value error, ", "").rstrip(".")
        return complain(message, f"see '{_help_command(error)}'", error.exit_code)
    except typer.Abort:
        raise KeyboardInterrupt from None
    if result == INTERRUPTED:  # typer's answer to an interrupt
        raise KeyboardInterrupt
    return result if isinstance(result, int) else 0


def complain(message: str, fix: str, exit_code: int) -> int:
    """Print CONTRACT's error line and return the exit status."""
    sys.stdout.flush()
    print(_one_line(f"nooks: error: {message}; {fix}" if fix else f"nooks: error: {message}"), file=sys.stderr)
    return exit_code


def _complain_of_system(error: OSError) -> int:
    import errno

    what = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return complain(what, "free some disk space", 1)
    if error.errno in (errno.EACCES, errno.EPERM):
        return complain(what, "use sudo", 1)
    return _complain_of_defect(error)


def _complain_of_defect(error: Exception) -> int:
    import traceback

    from nooks.host.paths import log_dir

    path = log_dir() / "cli.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as log:
            log.write(f"nooks {' '.join(sys.argv[1:])}\n{''.join(traceback.format_exception(error))}\n")
        where = f"please report it with the traceback in {path}"
    except OSError:
        where = "please report it"
    return complain(f"internal error: {type(error).__name__}: {error}", where, 1)


def _help_command(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path} --help" if context is not None else "nooks --help"


def _one_line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    sys.exit(main())

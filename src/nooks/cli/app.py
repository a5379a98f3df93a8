"""The typer application: a group that imports a command's module when that command is used."""

import importlib
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from nooks.cli.registry import COMMANDS

HELP = "Linux device drivers in disposable virtual machines: they may crash, applications don't."


class _Command(TyperCommand):
    """A command whose help ends with its examples, line by line."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - typer's own, vendored types
        _write_examples(self.name, formatter)


class _Subgroup(TyperGroup):
    """A command with commands of its own, whose help ends with its examples."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401
        _write_examples(self.name, formatter)


def _write_examples(name: str | None, formatter: Any) -> None:  # noqa: ANN401
    examples = COMMANDS[name].examples if name in COMMANDS else ()
    if examples:
        formatter.write("\nExamples:\n")
        for example in examples:
            formatter.write(f"  {example}\n")


class _Group(TyperGroup):
    """The commands of the registry, built on demand."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401
        entry = COMMANDS.get(cmd_name)
        return build(cmd_name) if entry else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])


def build(name: str) -> Any:  # noqa: ANN401
    """The command ``name`` of the registry."""
    module, _, attribute = COMMANDS[name].target.partition(":")
    target = getattr(importlib.import_module(module), attribute)
    if isinstance(target, typer.Typer):
        command = get_command(target)
        command.name = name
        return command
    single = plain_app()
    single.command(name, cls=_Command)(target)
    return get_command(single)


def plain_app(help_text: str | None = None) -> typer.Typer:
    """A typer application without rich help (its import would cost more than most commands) and tracebacks."""
    return typer.Typer(
        cls=_Subgroup, help=help_text, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
    )


def root() -> Any:  # noqa: ANN401
    """The whole command line."""
    application = typer.Typer(
        cls=_Group,
        help=HELP,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    application.callback()(_options)
    return get_command(application)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"nooks {version('nooks')}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Has no effect of its own; typer takes the options from the signature."""

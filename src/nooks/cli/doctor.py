"""``nooks doctor``: what this machine can do, each lack with the command that mends it."""

from nooks.cli.options import Json
from nooks.cli.output import emit

MARKS = {"ok": "✓", "warn": "!", "fail": "✗"}


def doctor(json: Json = False) -> None:
    """Say what this machine can do, and the command that mends what it can't. Exit 1 if nooks can't run here."""
    import typer

    from nooks.cli.checks import examine

    checks = examine()
    ok = all(check.status != "fail" for check in checks)

    def text() -> None:
        for check in checks:
            print(f"{MARKS[check.status]} {check.name:<18} {check.detail}")
            if check.fix:
                print(f"  {'':<18} → {check.fix}")

    document = {
        "ok": ok,
        "checks": [
            {"name": check.name, "status": check.status, "detail": check.detail, "fix": check.fix} for check in checks
        ],
    }
    emit(document, as_json=json, text=text)
    if not ok:
        raise typer.Exit(1)

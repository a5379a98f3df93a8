"""Claims of names: one holder at a time, whatever is removed meanwhile."""

from pathlib import Path

import pytest

from nooks.nook import claims


@pytest.fixture(autouse=True)
def own_run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOOKS_RUN_DIR", str(tmp_path / "run"))


def test_claims_survive_removal_races() -> None:
    with claims.claim("a") as first:
        with pytest.raises(claims.NameTaken):
            claims.claim("a")
        assert claims.is_claimed("a")
        first.remove()
        with claims.claim("a") as second:
            assert second.directory.exists()
            second.remove()
    assert not claims.is_claimed("a")


def test_a_claim_that_came_to_nothing_leaves_no_folder() -> None:
    with claims.claim("a") as claimed:
        assert claimed.directory.exists()
    assert not claimed.directory.exists()
    with claims.claim("a") as claimed:
        (claimed.directory / claims.SPEC).touch()
    assert (claimed.directory / claims.SPEC).exists()


def test_a_folder_of_the_next_holder_stays() -> None:
    first = claims.claim("a")
    first.remove()
    with claims.claim("a") as second:
        first.close()
        assert second.directory.exists()


def test_a_lock_of_a_folder_that_was_removed_counts_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    first = claims.claim("a")
    opened: list[int] = []
    open_lock = claims._open_lock  # pyright: ignore[reportPrivateUsage]

    def opened_just_before_removal(directory: Path) -> int | None:
        fd = open_lock(directory)
        if not opened:
            opened.append(1)
            first.remove()
            first.close()
        return fd

    monkeypatch.setattr(claims, "_open_lock", opened_just_before_removal)
    with claims.claim("a") as second:
        with pytest.raises(claims.NameTaken):
            claims.claim("a")
        second.remove()

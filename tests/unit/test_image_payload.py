"""What goes into an image of the code that runs in it."""

from pathlib import Path

import pytest

from nooks.host.errors import NooksError
from nooks.image.payload import AGENT, Payload
from nooks.image.userland import Compilation, Userland


class FakeUserland(Userland):
    """Imports without an interpreter: says that these modules are in memory."""

    loaded: list[str] = []
    wanted: list[str] = []

    def imported(self, source_roots: object, modules: object) -> list[str]:
        assert isinstance(modules, list)
        self.wanted[:] = modules
        return self.loaded

    def compile(self, jobs: object) -> None:
        raise AssertionError("nothing to compile here")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "top/inner"
    folder.mkdir(parents=True)
    (tmp_path / "top/__init__.py").write_text("")
    (folder / "__init__.py").write_text("")
    (folder / "main.py").write_text(
        "import os\nTYPE_CHECKING = False\nif TYPE_CHECKING:\n    import typing\nelse:\n    import time\n"
        "def main():\n    from json import loads\n    import top.inner.lazy\n"
    )
    (folder / "lazy.py").write_text("import select\n")
    return tmp_path


def test_everything_imported_at_run_time_is_asked_for(root: Path) -> None:
    library = root / "usr/lib/python3.11"
    library.mkdir(parents=True)
    (library / "os.py").write_text("")
    userland = FakeUserland(root, "amd64")
    payload = Payload(root, ("top.inner",), "top.inner.main")
    FakeUserland.loaded = ["top.outer"]
    with pytest.raises(NooksError, match=r"imports top\.outer, which is not for domains"):
        payload.parts(userland, root)
    wanted = set(userland.wanted)
    assert {"top.inner.main", "top.inner.lazy", "os", "time", "json", "select", "encodings.utf_8"} <= wanted
    assert "typing" not in wanted


def test_the_digest_tells_every_source_file(root: Path) -> None:
    payload = Payload(root, ("top.inner",), "top.inner.main")
    before = payload.digest()
    assert before == payload.digest()
    (root / "top/inner/lazy.py").write_text("import signal\n")
    changed = payload.digest()
    assert changed != before
    (root / "top/inner/extra.py").write_text("")
    assert payload.digest() != changed


def test_our_agent_is_there() -> None:
    assert len(AGENT.digest()) == 64
    assert AGENT.root.joinpath("nooks/agent/main.py").is_file()


def test_a_compilation_is_plain_data() -> None:
    job = Compilation(Path("a.py"), Path("a.pyc"), "/a.py", 2)
    assert job == Compilation(Path("a.py"), Path("a.pyc"), "/a.py", 2)

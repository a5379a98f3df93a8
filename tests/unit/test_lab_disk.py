"""The lab's applications for disks: that they notice what they are there to notice; how their run is summed up."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from nooks.host.errors import InputError
from nooks.lab.campaign.block import surroundings, workloads
from nooks.lab.campaign.disks import DiskApplication
from nooks.lab.campaign.file_systems import PROGRAMS, FileSurroundings
from nooks.lab.campaign.sweep import sweep
from nooks.lab.disk import archive, attached, bare, compiled, database, postgres, raw
from nooks.lab.disk.attached import RealDisk
from nooks.lab.disk.compiled import Compiler
from nooks.lab.disk.recovery import Trial, document
from nooks.lab.ways import SUPERVISOR, Failure
from nooks.lab.workers import python
from nooks.lab.workloads import Figure


def test_a_database_that_kept_everything(tmp_path: Path) -> None:
    kept = database.Database(tmp_path / "db", seed=1)
    for _ in range(5):
        kept.add()
    assert kept.judge() == {"transactions": 5, "lost": 0, "integrity": "ok"}


def test_a_database_that_lost_or_changed_a_transaction(tmp_path: Path) -> None:
    broken = database.Database(tmp_path / "db", seed=1)
    for _ in range(5):
        broken.add()
    other = database.sqlite3.connect(tmp_path / "db")
    with other:
        other.execute("DELETE FROM entry WHERE number = 2")
        other.execute("UPDATE entry SET content = x'00' WHERE number = 3")
    other.close()
    assert broken.judge()["lost"] == 2


@pytest.fixture
def bank(monkeypatch: pytest.MonkeyPatch) -> Iterator[postgres.Server]:
    """A server with a bank; its user must get through to its folder."""
    place = postgres.programs()
    if place is None or os.geteuid() != 0:
        pytest.skip("needs PostgreSQL, and root")
    monkeypatch.setattr(postgres, "ROUND_SECONDS", 1)
    with tempfile.TemporaryDirectory(prefix="nooks-bank-") as folder, tempfile.TemporaryDirectory() as socket:
        Path(folder).chmod(0o755)
        data = Path(folder, "data")
        data.mkdir()
        yield postgres.Server(place, data, Path(socket))


def test_a_bank_that_kept_everything_and_one_that_did_not(bank: postgres.Server) -> None:
    with bank.running():
        bank.fill()
        assert bank.transfer() > 0
    bank.forget()
    with bank.running():
        assert bank.judge() == {"transactions": bank.acknowledged, "lost": 0, "integrity": "ok"}
        bank.ask("DELETE FROM pgbench_history WHERE ctid = (SELECT min(ctid) FROM pgbench_history)")
        judged = bank.judge()
    assert judged["lost"] == 1
    assert "differ" in judged["integrity"]


def test_packing_compares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert archive.pack(tmp_path, 1, seed=1)
    monkeypatch.setattr(archive, "write", lambda path, seed: archive.hashlib.sha256(b"other").hexdigest() or path)  # type: ignore[reportUnknownLambdaType]
    (tmp_path / "2.plain").write_bytes(b"this")
    assert not archive.pack(tmp_path, 2, seed=1)


def test_blocks_that_changed_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "raw"
    path.write_bytes(bytes(2 << 20))
    writer = raw.Writer(path, 0, 512, seed=3)
    for _ in range(20):
        writer.step()
    writer.read_all()
    assert writer.errors == 0
    with path.open("r+b") as file:
        file.write(Random(1).randbytes(2 << 20))
    writer.read_all()
    assert writer.errors > 0


def test_what_a_database_lost_is_an_error() -> None:
    application = DiskApplication()
    line = {"bytes": 3, "time": 1.0, "pause": (1.0, 1.0)}
    application.add(line | {"judged": {"transactions": 3, "lost": 0, "integrity": "ok"}})
    assert (application.ended, application.errors()) == (True, [])
    application.add(line | {"judged": {"transactions": 3, "lost": 2, "integrity": ["row missing"]}})
    assert application.errors() == ["2 transactions are lost or wrong", "integrity: ['row missing']"]


def test_which_drivers_have_which_workloads() -> None:
    assert workloads("ide-disk") == ("sqlite", "fio", "compile")
    assert workloads("ide-cd") == ()


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_a_compiler_notices_another_source_and_another_object(tmp_path: Path) -> None:
    compiler = Compiler(tmp_path / "compiled", seed=1)
    assert all(compiler.compile(number) for number in range(compiled.SOURCES + 1))
    another = Compiler(tmp_path / "compiled", seed=2)
    assert another.compile(0)
    another.expected[0] = "something else"
    assert not another.compile(0)


@pytest.mark.parametrize("application", ["database", "archive", "raw", "verified"])
def test_an_application_tells_at_its_end(tmp_path: Path, application: str) -> None:
    (tmp_path / "raw").write_bytes(bytes(4 << 20))
    flag = "--folder" if application == "archive" else "--path"
    command = python(f"nooks.lab.disk.{application}", flag, tmp_path / application)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        while json.loads(running.stdout.readline())["bytes"] < 2:
            pass
        os.kill(running.pid, signal.SIGTERM)
        last = json.loads(running.stdout.read().splitlines()[-1])
    assert running.returncode == 0
    assert last["bytes"] >= 2
    if application == "database":
        assert last["judged"]["integrity"] == "ok"


def test_an_application_whose_disk_breaks_says_so(tmp_path: Path) -> None:
    command = python("nooks.lab.disk.database", "--path", tmp_path / "nowhere" / "db")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "unable to open" in json.loads(done.stdout)["broken"]


def failure(way: str, recovery: float | None) -> Failure:
    now = time.time()
    return Failure(way, now, resumed=None if recovery is None else now + recovery, recovery_seconds=recovery)


def test_a_summary_counts_drivers_apart_from_supervisors() -> None:
    trials = [Trial(failure("kill", 0.1)), Trial(failure(SUPERVISOR, 3.0)), Trial(failure("panic", 0.2))]
    summed = document("ide-disk", "mixed", trials, [])
    assert summed["recovery_seconds"]["max"] == 0.2
    assert summed["ways"][SUPERVISOR]["recovery_seconds"]["max"] == 3.0
    assert summed["application_errors"] == 0
    summed = document("ide-disk", "mixed", [*trials, Trial(failure("hang", None))], ["e2fsck complains"])
    assert (summed["application_errors"], summed["unrecovered"]) == (2, 1)


# -- in a campaign ------------------------------------------------------------------------------------------------


def line(errors: int = 0, **more: object) -> dict[str, object]:
    return {"time": 1.0, "bytes": 7, "pause": [0.0, 0.0], "errors": errors, **more}


def test_what_a_campaign_is_told_of_a_disk() -> None:
    async def run() -> None:
        asked: list[str] = []
        application = DiskApplication(lambda: asked.append("finish"))
        application.add(line())
        assert (application.gauge.received, application.errors(), application.ended) == (7, [], False)
        assert await application.finish(0.01) == ["it did not come to an end within 0 s"]
        application.add(line(errors=2, broken="Input/output error", judged=True))
        assert application.ended
        assert await application.finish(0.01) == ["2 times something is not what was written", "Input/output error"]
        assert asked == ["finish"]  # not once more: it has come to its end

    asyncio.run(run())


def test_the_program_of_a_campaign_finds_what_changed_under_it(tmp_path: Path) -> None:
    async def run() -> None:
        async with surroundings("ide-disk", "") as around:
            medium = tmp_path / "medium"
            medium.write_bytes(bytes(8 << 20))
            await around.started({"block_device": str(medium)})
            async with around.application(1) as application:
                while not application.gauge.received:
                    await asyncio.sleep(0.01)
                with medium.open("r+b") as file:
                    file.write(Random(1).randbytes(8 << 20))
                (error,) = await application.finish(60.0)
                assert error.endswith("times something is not what was written")

    asyncio.run(run())


def test_the_medium_of_a_worker_that_died_is_swept_away() -> None:
    async def run() -> None:
        async with surroundings("ide-disk", "") as around:
            (folder,) = around.remains()["folders"]
            assert str(Path(folder, "disk.img")) in around.flags()
            sweep("nobody's", around.remains())
            assert not Path(folder).exists()

    asyncio.run(run())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_mount_of_a_worker_that_died_is_undone(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "nooks-test", tmp_path], check=True)
    sweep("nobody's", {"mounts": [str(tmp_path)]})
    assert not tmp_path.is_mount()


def test_a_program_finds_nothing_of_an_earlier_trial(tmp_path: Path) -> None:
    async def run() -> None:
        around = FileSurroundings(tmp_path, PROGRAMS["sqlite"])
        for seed in (1, 2):
            async with around.application(seed) as application:
                while application.gauge.received < 3 and not application.errors():
                    await asyncio.sleep(0.01)
                assert await application.finish(10.0) == []  # a row of the other seed would be wrong, or there already

    asyncio.run(run())


def test_a_drive_is_only_read_and_its_medium_is_filled_before() -> None:
    async def run() -> None:
        async with surroundings("ide-cd", "") as around:
            medium = around.flags()[-1]
            Path(medium).chmod(0o400)
            await around.started({"block_device": medium})
            async with around.application(1) as application:
                while application.gauge.received < 100:
                    await asyncio.sleep(0.01)
                assert await application.finish(60.0) == []

    asyncio.run(run())


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_a_project_is_compiled_and_nothing_else_is_left(tmp_path: Path) -> None:
    sources = compiled.write_project(tmp_path / "project", 1, 3)
    assert len({path.read_text() for path in sources}) == 3
    compiled.build(sources)
    assert sorted(path.name for path in (tmp_path / "project").iterdir()) == ["0.c", "0.o", "1.c", "1.o", "2.c", "2.o"]


def test_the_kind_that_a_disk_gets_is_compared_with_each_other() -> None:
    figures = {"ublk": (10.0, 30.0), "fuse": (5.0, 10.0), "nbd": (20.0, 10.0)}
    passes = {kind: [{"a job": Figure(value, "MB/s", 0.5)} for value in values] for kind, values in figures.items()}
    medians = {"ublk": 20.0, "fuse": 7.5, "ublk/fuse": 2.5, "nbd": 15.0, "ublk/nbd": 1.75}
    assert bare.rows(passes) == [{"name": "a job", "unit": "MB/s"} | medians]


def test_only_an_empty_disk_is_written_over_unasked(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(1 << 20))
    disk = RealDisk("pci:0000:00:04.0", path, "nvme")
    attached.check(disk, erase=False)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(path)], check=True)
    attached.check(disk, erase=True)
    with pytest.raises(InputError, match="ext4"):
        attached.check(disk, erase=False)

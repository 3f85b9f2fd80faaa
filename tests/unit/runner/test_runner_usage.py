"""How much a run has written, and what is said when it is too much."""

import asyncio
import os
import stat
import tempfile
from pathlib import Path

import pytest

from spell_proto.errors import SettingsError
from spell_runner import quotas
from spell_runner.directory import BASELINE, Directory
from spell_runner.quotas import LOOK_SECONDS, Limits, exceeded, pause
from spell_runner.shim.launch import LAUNCH, TEMPORARY, UPPER, WORKSPACE
from spell_runner.usage import Usage, measure, unlinked
from spell_runner.workspace import Abort, copy_tree, encode_baseline, signature
from support import nobody
from support.specs import a_launch

BOTH = Limits(10 << 20, 100)


@pytest.mark.parametrize(
    ("usage", "limits", "sentence"),
    [
        (Usage(10 << 20, 100), BOTH, None),
        (Usage(12 << 20, 0), BOTH, "it has written 12 MiB, and may write 10 MiB"),
        (Usage(0, 1_234), BOTH, "it has made 1,234 files and directories, and may make 100"),
        (Usage(1 << 50, 1 << 30), Limits(), None),
        (Usage(1 << 50, 1), Limits(files_max=1), None),
        (Usage(1, 1 << 30), Limits(bytes_max=1), None),
    ],
)
def test_only_what_is_above_a_limit_that_is_set_is_too_much(usage, limits, sentence):
    assert exceeded(usage, limits) == sentence


@pytest.mark.parametrize(
    ("lost", "possible"),
    [
        (Usage(0, 0), False),
        (Usage(4 << 20, 40), False),
        (Usage((4 << 20) + 1, 0), True),
        (Usage(0, 41), True),
        (Usage(-5, -5), False),
    ],
)
def test_a_run_can_have_taken_no_more_than_the_disk_has_lost(lost, possible):
    assert quotas.may_have_exceeded(Usage(6 << 20, 60), BOTH, lost) is possible
    assert not quotas.may_have_exceeded(Usage(6 << 20, 60), Limits(), lost)


async def test_a_look_that_is_far_off_comes_at_once_when_the_disk_has_lost_what_was_left(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(quotas, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(quotas, "LOOK_SHARE", 1_000_000)
    directory = Directory(tmp_path)
    Path(directory / LAUNCH).write_bytes(a_launch(overlay=True).encode())
    (tmp_path / UPPER).mkdir()
    said: list[str] = []
    quota = quotas.Quota(Limits(bytes_max=100 << 20), directory, said.append)

    async def looked(until):
        async with asyncio.timeout(10):
            while not until():
                quota.look()
                await asyncio.sleep(0.01)

    (tmp_path / UPPER / "file").write_bytes(bytes(1 << 20))
    await looked(lambda: quota.measured)
    assert said == []
    with (tmp_path / UPPER / "more").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 120 << 20)
    await looked(lambda: said)
    quota.drop()

    assert said[0] == "it has written 121 MiB, and may write 100 MiB"


def test_measuring_takes_a_small_share_of_the_time():
    assert (pause(0.001), pause(3.0)) == (LOOK_SECONDS, 60.0)


async def test_what_counts_is_everything_that_the_command_has_written(tmp_path):
    directory = Directory(tmp_path)
    Path(directory / LAUNCH).write_bytes(a_launch(overlay=True).encode())
    for part in (UPPER, TEMPORARY, "mounts/0/upper", "mounts/0/work", "mounts/spell/lower", "snapshot/upper"):
        (tmp_path / part).mkdir(parents=True)
        (tmp_path / part / "file").write_bytes(os.urandom(1 << 20))
    os.link(tmp_path / UPPER / "file", tmp_path / UPPER / "again")
    with (tmp_path / UPPER / "holes").open("wb") as file:
        file.truncate(1 << 30)

    usage = await measure(directory, sizes=True, files=True)

    assert 3 << 20 <= usage.bytes < 4 << 20, "holes take no room, and what has two names takes it once"
    assert usage.files == 4


async def test_the_code_that_was_copied_for_a_run_is_none_of_its_doing(tmp_path):
    lower, directory = tmp_path / "lower", Directory(tmp_path / "attempt")
    (lower / "repo").mkdir(parents=True)
    for number in range(10):
        (lower / f"repo/{number}").write_bytes(os.urandom(100_000))
    workspace = directory.path / WORKSPACE
    workspace.mkdir(parents=True)
    (directory.path / BASELINE).write_bytes(copy_tree(lower, workspace, Abort()))
    Path(directory / LAUNCH).write_bytes(a_launch(overlay=False, lower=str(lower)).encode())
    (workspace / "made").write_bytes(os.urandom(1 << 20))

    usage = await measure(directory, sizes=True, files=True)

    assert 1 << 20 <= usage.bytes < 1.2 * (1 << 20)
    assert usage.files <= 3


async def test_what_was_copied_for_a_run_outside_its_workspace_counts_once_it_is_more(tmp_path):
    directory = Directory(tmp_path)
    Path(directory / LAUNCH).write_bytes(a_launch(overlay=False).encode())
    copies, place = tmp_path / "mounts", tmp_path / "mounts/mnt/at/data"
    for path in (tmp_path / WORKSPACE, place):
        path.mkdir(parents=True)
    (place / "copied").write_bytes(os.urandom(1 << 20))
    baseline = {"mnt/at/data/copied": signature((place / "copied").lstat())}
    (tmp_path / BASELINE).write_bytes(encode_baseline({}))
    (copies / "baseline.json").write_bytes(encode_baseline(baseline))
    before = await measure(directory, sizes=True, files=True)
    (place / "made").write_bytes(os.urandom(2 << 20))

    usage = await measure(directory, sizes=True, files=True)

    assert before.bytes < 20_000
    assert 2 << 20 <= usage.bytes < 2.1 * (1 << 20)
    assert usage.files == before.files + 1


def test_what_a_process_holds_open_without_a_name_counts_once(tmp_path):
    before = unlinked([os.getpid()])
    unnamed = (tmp_path / "file").open("wb")
    unnamed.write(os.urandom(1 << 20))
    unnamed.flush()
    with (
        unnamed,
        os.fdopen(os.dup(unnamed.fileno()), "wb"),
        (tmp_path / "named (deleted)").open("wb") as named,
    ):
        named.write(bytes(1 << 20))
        (tmp_path / "file").unlink()
        with os.fdopen(os.memfd_create("memory"), "wb") as memory:
            memory.write(bytes(1 << 20))
            memory.flush()

            usage = unlinked([os.getpid(), os.getpid()])

    assert usage.beyond(before) == Usage(1 << 20, 1)


async def test_directories_that_a_run_has_closed_are_looked_into_and_stay_closed():
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        directory = Directory(Path(name))
        Path(directory / LAUNCH).write_bytes(a_launch(overlay=True).encode())
        closed = directory.path / UPPER / "in/closed"
        closed.mkdir(parents=True)
        (closed / "file").write_bytes(os.urandom(1 << 20))
        os.link(closed / "file", closed / "again")
        with nobody.become(directory.path):
            closed.chmod(0o300)
            usage = await measure(directory, sizes=True, files=True)
        mode = stat.S_IMODE(closed.lstat().st_mode)

    assert 1 << 20 <= usage.bytes < 1.1 * (1 << 20)
    assert (usage.files, mode) == (3, 0o300)


def test_without_du_there_are_no_quotas(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))

    assert quotas.check(Limits()) == Limits()
    with pytest.raises(SettingsError, match="SPELL_RUN_BYTES_MAX"):
        quotas.check(BOTH)

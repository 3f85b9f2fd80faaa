"""What machines are sent: packs with what they lack, annotated tags, cut off histories, and patches."""

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from integration.storage.git_people import (
    a_repository,
    code_of,
    commit_of,
    files_of,
    git_in,
    pack_of,
    posted,
    take_in,
)
from integration.storage.storage_room import a_room
from spell_proto.errors import ConflictError, RefusedError
from spell_storage.packs import Packs
from support.git_https import ENVIRONMENT

pytestmark = pytest.mark.integration


def processes_on(repository):
    """The command lines of processes that work on a repository."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(repository) in line:
            found.append(line)
    return found


def kept_at(storage, person, repository):
    return storage.data / "git" / str(person.owner_id) / f"{repository.id}.git"


async def test_a_second_pack_holds_only_what_changed(api, person, tmp_path):
    first = person.commit(**{f"file{number}": os.urandom(1_000) for number in range(100)})
    repository = await a_repository(api, person)
    person.push(repository)
    machine = tmp_path / "machine.git"
    whole_head, whole = await pack_of(api, person, repository, first)
    take_in(machine, whole_head, whole)
    second = person.commit(file7=b"changed")
    person.push(repository)

    head, pack = await pack_of(api, person, repository, second, have=[first, "1" * 40])
    take_in(machine, head, pack)
    unknown = [f"{number:040x}" for number in range(100)]
    again_head, again = await pack_of(api, person, repository, second, have=[*unknown, second])

    assert int.from_bytes(pack[8:12], "big") == 3  # a commit, a tree, a blob
    assert len(pack) < 1_000 < len(whole)
    assert git_in(machine, "show", f"{second}:file7") == b"changed"
    assert git_in(machine, "rev-list", "--count", second) == b"2\n"
    assert int.from_bytes(again[8:12], "big") == 0
    assert again_head == head


async def test_annotated_tags_on_the_way_come_along_and_others_do_not(api, person, tmp_path):
    person.commit(a=b"1")
    person.git("tag", "-a", "v1.0", "-m", "first")
    person.git("tag", "light")
    branched = person.rev()
    tip = person.commit(a=b"2")
    person.git("checkout", "-q", "-b", "elsewhere", branched)
    aside = person.commit(a=b"3")
    person.git("tag", "-a", "aside/1", "-m", "not on the way")
    repository = await a_repository(api, person, branched)
    person.push(repository, tip, None, "--follow-tags")
    person.push(repository, aside, None, "--follow-tags")

    head, pack = await pack_of(api, person, repository, tip)
    take_in(tmp_path / "machine.git", head, pack)
    for name, tag in head.tags:
        git_in(tmp_path / "machine.git", "update-ref", f"refs/tags/{name}", tag)
    later, _ = await pack_of(api, person, repository, aside, have=[tip])

    assert head.tags == (("v1.0", person.rev("v1.0")),)
    assert git_in(tmp_path / "machine.git", "describe", tip).startswith(b"v1.0-1-g")
    assert set(later.tags) == {("v1.0", person.rev("v1.0")), ("aside/1", person.rev("aside/1"))}


async def test_the_head_names_where_a_history_is_cut_off(api, person, tmp_path):
    person.work_in_a_shallow_clone(commits=4, depth=2)
    tip = person.commit(a=b"new")
    repository = await a_repository(api, person, person.rev("HEAD~2"))
    person.push(repository)

    head, pack = await pack_of(api, person, repository, tip)
    take_in(tmp_path / "machine.git", head, pack)

    assert head.shallow == (person.rev("HEAD~2"),)
    assert git_in(tmp_path / "machine.git", "rev-list", "--count", tip) == b"3\n"
    git_in(tmp_path / "machine.git", "fsck", "--strict")


async def test_a_patch_makes_one_commit_of_the_other(api, person):
    work = person.directory / "work"
    before = person.commit(
        **{"text": b"one\ntwo\n", "gone": b"x\n", "old name": b"same\n" * 50, "bin": b"\0\1" * 500}
    )
    (work / "gone").unlink()
    (work / "old name").rename(work / "new name")
    (work / "text").chmod(0o755)
    (work / ".gitattributes").write_text("*.dat diff=evil -text\n* filter=evil\n")
    (work / "link").symlink_to("text")
    after = person.commit(text=b"one\n2\n", bin=os.urandom(3_000), **{"x.dat": b"\xff\r\n"})
    repository = await a_repository(api, person, before)
    person.push(repository)

    async with api.open(
        "GET",
        f"/code/{person.owner_id}/{repository.id}/patch",
        params={"from": before, "to": after},
        stream=True,
    ) as response:
        patch = await response.read()
    person.git("checkout", "-q", before)
    (person.directory / "patch").write_bytes(patch)
    person.git("apply", "--index", str(person.directory / "patch"))

    assert person.git("write-tree").stdout.decode().strip() == person.rev(f"{after}^{{tree}}")


async def test_a_file_too_large_to_be_held_in_memory_is_in_no_patch(postgres, tmp_path):
    async with a_room(postgres, tmp_path / "data") as room:
        before, after = (
            b"commit refs/heads/%b\ncommitter x <x@y> 1 +0000\ndata 0\n" % name for name in (b"a", b"b")
        )
        git_in(
            room.path,
            "fast-import",
            "--quiet",
            given=before + b"M 100644 inline :x\ndata 600\n" + b"1" * 600 + b"\n"
            b"M 100644 inline same\ndata 9000\n"
            + b"9" * 9000
            + b"\n"
            + after
            + b"M 100644 inline :x\ndata 500\n"
            + b"2" * 500
            + b"\n"
            b"M 100644 inline same\ndata 9000\n" + b"9" * 9000 + b"\n",
        )
        names = [git_in(room.path, "rev-parse", f"refs/heads/{name}").decode().strip() for name in "ab"]
        await room.push(names)
        where = (room.owner_id, room.repository_id, *names)

        with pytest.raises(ConflictError) as refused:
            await Packs(room.code, room.repositories, patch_file_bytes_max=1099).patch(*where)
        patch = await Packs(room.code, room.repositories, patch_file_bytes_max=1100).patch(*where)

        assert refused.value.code == "patch_too_large"
        assert b"diff --git a/:x b/:x" in b"".join([piece async for piece in patch])


async def test_a_patch_is_not_served_for_what_was_not_pushed(api, person, other):
    commit = person.commit(a=b"1")
    repository = await a_repository(api, person)
    person.push(repository)

    for owner_id, before, after in [
        (other.owner_id, commit, commit),
        (person.owner_id, commit, "3" * 40),
        (person.owner_id, "--output=/tmp/x", commit),
    ]:
        with pytest.raises(RefusedError) as refused:
            async with api.open(
                "GET", f"/code/{owner_id}/{repository.id}/patch", params={"from": before, "to": after}
            ):
                pass
        assert refused.value.code in {"commit_unknown", "commit_invalid"}


@pytest.mark.parametrize(
    ("want", "have", "code"),
    [
        ([], [], "pack_too_many"),
        (["--help"], [], "commit_invalid"),
        (["HEAD"], [], "commit_invalid"),
        (["4" * 40], [], "commit_unknown"),
        (["4" * 40], ["^HEAD"], "commit_invalid"),
        (["4" * 40] * 65, [], "pack_too_many"),
    ],
)
async def test_a_pack_of_nonsense_is_refused(api, person, want, have, code):
    person.commit(a=b"1")
    repository = await a_repository(api, person)

    with pytest.raises(RefusedError) as refused:
        await pack_of(api, person, repository, *want, have=have)

    assert refused.value.code == code


async def test_git_waits_for_a_slow_reader_and_ends_with_one_that_goes(api, storage, person):
    commit = person.commit(big=os.urandom(40 << 20))
    repository = await a_repository(api, person)
    person.push(repository)
    kept = kept_at(storage, person, repository)

    async with posted(api, f"/code/{person.owner_id}/{repository.id}/pack", {"want": [commit]}) as response:
        await response.content.readline()
        await response.content.readexactly(1_000)
        while_reading = processes_on(kept)
        response.close()
    async with asyncio.timeout(10):
        while processes_on(kept):
            await asyncio.sleep(0.01)

    # With 40 MB left to send it has not gone ahead of its reader.
    assert any("pack-objects" in line for line in while_reading)


async def test_a_moved_tag_is_accepted_and_a_deleted_one_is_not(api, storage, person):
    person.commit(a=b"1")
    repository = await a_repository(api, person)
    person.git("tag", "-a", "v1", "-m", "one")
    person.push(repository, None, None, "--follow-tags")
    person.commit(a=b"2")
    person.git("tag", "-f", "-a", "v1", "-m", "two")

    moved = person.git("push", "-q", repository.remote_url, "+refs/tags/v1:refs/tags/v1")
    deleted = person.git("push", "-q", repository.remote_url, ":refs/tags/v1", check=False)

    kept = kept_at(storage, person, repository)
    assert moved.returncode == 0
    assert deleted.returncode != 0
    assert git_in(kept, "rev-parse", "refs/tags/v1").decode().strip() == person.rev("v1")


async def test_tags_that_are_no_objects_or_tag_no_commit_are_refused(api, storage, person):
    commit = person.commit(a=b"1")
    repository = await a_repository(api, person)
    person.git("tag", "light")
    person.git("tag", "-a", "-m", "of a blob", "blob", person.rev("HEAD:a"))

    for name in ("light", "blob"):
        pushed = person.git(
            "push",
            "-q",
            repository.remote_url,
            f"refs/tags/{name}",
            f"{commit}:refs/heads/br_{commit}",
            check=False,
        )
        assert b"only annotated tags" in pushed.stderr, name
    assert git_in(kept_at(storage, person, repository), "for-each-ref") == b""


async def test_tag_names_are_data_to_the_hook(api, storage, person):
    person.commit(a=b"1")
    repository = await a_repository(api, person)
    proof = person.directory / "proof"
    names = ["-h", "--help", "$(touch${IFS}proof)", "`id`", "';id;'", '"$HOME"', "a/b/c", "ü"]
    for name in names:
        person.git("update-ref", f"refs/tags/{name}", person.git("rev-parse", "HEAD").stdout.decode().strip())
        data = f"object {person.rev()}\ntype commit\ntag x\ntagger x <x@y> 0 +0000\n\nx\n".encode()
        made = subprocess.run(
            ["git", "-C", person.directory / "work", "mktag"],
            input=data,
            env=ENVIRONMENT,
            capture_output=True,
            check=True,
        )
        person.git("update-ref", f"refs/tags/{name}", made.stdout.decode().strip())

    person.push(repository, None, None, "--follow-tags")
    head, _ = await pack_of(api, person, repository, person.rev())

    assert {name for name, _ in head.tags} == set(names)
    assert not list(storage.data.rglob("proof"))
    assert not proof.exists()


async def test_a_commit_whose_objects_are_gone_is_unknown_and_can_be_pushed_again(own_storage, tmp_path):
    person = own_storage.person(tmp_path / "one")
    first = person.commit(a=b"1")
    tip = person.commit(b=b"2")
    async with own_storage.client() as api:
        repository = await a_repository(api, person, first)
        person.push(repository, first)
        packs = kept_at(own_storage, person, repository) / "objects" / "pack"
        before = set(packs.iterdir())
        person.push(repository, tip)
        for file in set(packs.iterdir()) - before:
            file.unlink()
        # What it remembers is not looked at again at once.
        own_storage.stop()
        await asyncio.to_thread(own_storage.start)

        assert await code_of(api, person, tip) == "commit_unknown"
        assert (await commit_of(api, person, first)).commit == first
        person.push(repository, tip)
        assert await files_of(api, person, repository, tip) == {
            b"a": ("100644", b"1"),
            b"b": ("100644", b"2"),
        }


async def test_commits_of_a_repository_that_is_gone_are_unknown(own_storage, tmp_path):
    person = own_storage.person(tmp_path / "one")
    commit = person.commit(a=b"1")
    async with own_storage.client() as api:
        repository = await a_repository(api, person)
        person.push(repository)
        shutil.rmtree(kept_at(own_storage, person, repository))
        own_storage.stop()
        await asyncio.to_thread(own_storage.start)

        assert await code_of(api, person, commit) == "commit_unknown"
        person.push(repository)
        assert (await commit_of(api, person, commit)).commit == commit

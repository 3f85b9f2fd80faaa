"""Pushes with the real git and ssh clients, and everything else that those clients may try."""

import asyncio
import os
import signal
import subprocess

import pytest

from integration.storage.git_people import (
    REPOSITORIES,
    HalfPush,
    a_person,
    a_repository,
    code_of,
    commit_of,
    files_of,
    until_incoming,
)
from spell_proto.errors import RefusedError
from spell_proto.http import Caller
from spell_storage import git
from support.git_https import ENVIRONMENT

pytestmark = pytest.mark.integration


async def test_a_repository_is_one_per_owner_and_root_commit(api, person, other):
    root = person.commit(a=b"1")

    first = await a_repository(api, person)
    renamed = await a_repository(api, person, root, "renamed")
    others = await a_repository(api, other, root)
    listed = await api.call("GET", f"/code/{person.owner_id}/repositories", REPOSITORIES)

    assert first.remote_url == f"ssh://git@127.0.0.1:{person.port}/{person.owner_id}/{first.id}.git"
    assert (renamed.id, renamed.name, renamed.created_at) == (first.id, "renamed", first.created_at)
    assert renamed.updated_at > first.updated_at
    assert others.id != first.id
    assert listed.repositories == (renamed,)


async def test_a_pushed_commit_and_its_history_are_known_and_nothing_else(api, person, other):
    older = person.commit(a=b"1")
    newer = person.commit(b=b"2")
    repository = await a_repository(api, person, older)
    unknown_before = await code_of(api, person, newer)

    person.push(repository)
    known = await commit_of(api, person, newer)
    ancestor = await commit_of(api, person, older)
    again = await commit_of(api, person, older)

    assert unknown_before == "commit_unknown"
    assert known.tree == person.rev("HEAD^{tree}")
    assert (known.repository_id, known.repository) == (repository.id, "project")
    assert ancestor == again
    assert ancestor.tree == person.rev("HEAD~^{tree}")
    assert await code_of(api, other, newer) == "commit_unknown"
    # A blob, a tree and a number out of thin air are no commits.
    assert await code_of(api, person, person.rev("HEAD:a")) == "commit_unknown"
    assert await code_of(api, person, person.rev("HEAD^{tree}")) == "commit_unknown"
    assert await code_of(api, person, "1" * 40) == "commit_unknown"


async def test_the_name_of_a_known_commits_repository_follows(api, person):
    person.commit(a=b"1")
    repository = await a_repository(api, person)
    person.push(repository)
    await commit_of(api, person, person.rev())

    await a_repository(api, person, None, "other name")

    assert (await commit_of(api, person, person.rev())).repository == "other name"


async def test_a_pack_holds_every_file_as_it_is(api, person):
    work = person.directory / "work"
    awkward = b"sp ace\n\"quote'\xff"
    (work / os.fsdecode(awkward)).write_bytes(b"odd\n")
    (work / "link").symlink_to("dir/run.sh")
    person.commit(**{"empty": b"", "dir/run.sh": b"#!/bin/sh\n", "big": b"\0\n" * 1_000_000, "z/z/z": b"z"})
    (work / "dir/run.sh").chmod(0o755)
    (work / ".gitattributes").write_text("* text eol=crlf filter=evil\nbig export-ignore\n")
    commit = person.commit()
    repository = await a_repository(api, person)
    person.push(repository)

    files = await files_of(api, person, repository, commit)

    assert files == {
        b".gitattributes": ("100644", b"* text eol=crlf filter=evil\nbig export-ignore\n"),
        b"big": ("100644", b"\0\n" * 1_000_000),
        b"dir/run.sh": ("100755", b"#!/bin/sh\n"),
        b"empty": ("100644", b""),
        b"link": ("120000", b"dir/run.sh"),
        awkward: ("100644", b"odd\n"),
        b"z/z/z": ("100644", b"z"),
    }


async def test_a_submodule_is_no_file_of_a_pack(api, person):
    person.commit(a=b"1")
    person.git("update-index", "--add", "--cacheinfo", f"160000,{person.rev()},sub")
    person.git("commit", "-q", "-m", "with a submodule")
    repository = await a_repository(api, person)
    person.push(repository)

    assert set(await files_of(api, person, repository, person.rev())) == {b"a"}


async def test_a_pack_is_not_served_for_what_was_not_pushed(api, person, other):
    person.commit(a=b"1")
    repository = await a_repository(api, person)
    others = await a_repository(api, other, person.rev())
    person.push(repository)

    for someone, where, commit in [
        (other, repository, person.rev()),
        (person, others, person.rev()),
        (person, repository, "2" * 40),
    ]:
        with pytest.raises(RefusedError) as refused:
            await files_of(api, someone, where, commit)
        assert refused.value.status == 404


async def test_an_empty_tree_is_a_tree(api, person):
    commit = person.commit()
    repository = await a_repository(api, person)
    person.push(repository)

    assert await files_of(api, person, repository, commit) == {}


async def test_sha256_repositories_work_too(api, person):
    person.git("init", "-q", "--object-format=sha256", str(person.directory / "work256"))
    (person.directory / "work").rename(person.directory / "sha1")
    (person.directory / "work256").rename(person.directory / "work")
    root = person.commit(a=b"1")
    tip = person.commit(a=b"2")
    repository = await a_repository(api, person, root)
    person.push(repository)

    assert len(tip) == 64
    assert (await commit_of(api, person, tip)).tree == person.rev("HEAD^{tree}")
    assert (await commit_of(api, person, root)).tree == person.rev("HEAD~^{tree}")
    assert await files_of(api, person, repository, tip) == {b"a": ("100644", b"2")}


async def test_a_shallow_clone_can_be_pushed(api, person):
    whole = person.work_in_a_shallow_clone(commits=4, depth=2)
    tip = person.commit(a=b"new")
    repository = await a_repository(api, person, person.rev("HEAD~2"))
    person.push(repository)

    assert await files_of(api, person, repository, tip) == {b"a": ("100644", b"new")}
    assert await files_of(api, person, repository, person.rev("HEAD~1")) == {b"a": ("100644", b"3")}
    deep = subprocess.run(
        ["git", "-C", whole, "rev-parse", "HEAD~3"], env=ENVIRONMENT, capture_output=True, check=True
    )
    assert await code_of(api, person, deep.stdout.decode().strip()) == "commit_unknown"


@pytest.mark.parametrize("loose", [True, False], ids=["loose", "packed"])
async def test_a_commit_in_a_repository_is_known_only_when_it_is_whole(api, storage, person, loose):
    """An object that lies there without its tree, as hostile or half a push could leave it, is not a known commit."""
    person.commit(a=b"1")
    tip = person.commit(a=b"2")
    repository = await a_repository(api, person)
    kept = storage.data / "git" / str(person.owner_id) / f"{repository.id}.git"
    if loose:
        data = person.git("cat-file", "commit", tip).stdout
        write = ["hash-object", "-t", "commit", "-w", "--stdin"]
    else:
        packed = subprocess.run(
            ["git", "-C", person.directory / "work", "pack-objects", "--stdout"],
            input=f"{tip}\n".encode(),
            env=ENVIRONMENT,
            capture_output=True,
            check=True,
        )
        data, write = packed.stdout, ["index-pack", "--stdin"]
    subprocess.run(
        ["git", f"--git-dir={kept}", *write], input=data, env=ENVIRONMENT, check=True, capture_output=True
    )

    assert await code_of(api, person, tip) == "commit_unknown"

    person.push(repository)
    assert (await commit_of(api, person, tip)).commit == tip


@pytest.mark.parametrize(
    "ref",
    ["refs/heads/main", "refs/heads/br_abc", "refs/tags/v1", "refs/kept/x", "refs/heads/br_" + "0" * 40],
)
async def test_only_a_ref_named_after_its_commit_is_accepted(api, person, ref):
    person.commit(a=b"1")
    repository = await a_repository(api, person)

    pushed = person.push(repository, ref=ref, check=False)

    assert pushed.returncode != 0
    assert await code_of(api, person, person.rev()) == "commit_unknown"


async def test_a_pushed_ref_is_never_moved_or_deleted(api, person):
    first = person.commit(a=b"1")
    repository = await a_repository(api, person)
    person.push(repository)
    second = person.commit(a=b"2")

    moved = person.push(repository, second, f"refs/heads/br_{first}", "--force", check=False)
    deleted = person.git("push", "-q", repository.remote_url, f":refs/heads/br_{first}", check=False)

    assert moved.returncode != 0
    assert deleted.returncode != 0
    assert await files_of(api, person, repository, first) == {b"a": ("100644", b"1")}


async def test_objects_that_would_write_into_a_git_directory_are_refused(api, person):
    person.commit(a=b"1")
    repository = await a_repository(api, person)
    tree = subprocess.run(
        ["git", "-C", person.directory / "work", "hash-object", "-t", "tree", "-w", "--stdin", "--literally"],
        input=b"100644 .git\0" + bytes.fromhex(person.rev("HEAD:a")),
        env=ENVIRONMENT,
        capture_output=True,
        check=True,
    )
    evil = person.git("commit-tree", "-m", "x", tree.stdout.decode().strip()).stdout.decode().strip()

    pushed = person.push(repository, evil, check=False)

    assert pushed.returncode != 0
    assert await code_of(api, person, evil) == "commit_unknown"


async def test_hooks_and_settings_of_a_repository_are_not_looked_at(api, storage, person):
    person.commit(a=b"1")
    repository = await a_repository(api, person)
    kept = storage.data / "git" / str(person.owner_id) / f"{repository.id}.git"
    (kept / "hooks").mkdir(exist_ok=True)
    proof = person.directory / "proof"
    hook = kept / "hooks" / "pre-receive"
    hook.write_text(f"#!/bin/sh\ntouch {proof}\n")
    hook.chmod(0o755)

    person.push(repository)

    assert not proof.exists()
    assert (await commit_of(api, person, person.rev())).commit == person.rev()


async def test_older_refs_are_kept_but_no_longer_told_about(api, storage, person):
    first = person.commit(a=b"1")
    repository = await a_repository(api, person)
    commits = [first, *(person.commit(a=str(number).encode()) for number in range(4))]
    refs = [f"{commit}:refs/heads/br_{commit}" for commit in commits]
    person.git("push", "-q", repository.remote_url, *refs)
    kept = storage.data / "git" / str(person.owner_id) / f"{repository.id}.git"
    more = "".join(f"create refs/heads/br_{n:040x} {commits[-1]}\n" for n in range(git.ADVERTISED_REFS_MAX))
    subprocess.run(
        ["git", f"--git-dir={kept}", "update-ref", "--stdin"],
        input=more.encode(),
        env=ENVIRONMENT,
        check=True,
    )

    await git.Repositories(storage.data).tidy(kept)
    tip = person.commit(a=b"tip")
    pushed = person.push(repository, None, None, "--verbose")

    advertised = person.ssh(
        f"git-receive-pack '/{person.owner_id}/{repository.id}.git'", given=b"0000"
    ).stdout
    assert advertised.count(b"refs/") <= git.ADVERTISED_REFS_MAX + 1
    assert b"refs/kept" not in advertised
    assert (await commit_of(api, person, tip)).commit == tip, pushed
    names = subprocess.run(
        ["git", f"--git-dir={kept}", "for-each-ref", "--format=%(refname)", "refs/kept"],
        env=ENVIRONMENT,
        check=True,
        capture_output=True,
    ).stdout.decode()
    assert f"refs/kept/br_{first}" in names


async def test_half_a_push_is_no_push_and_the_next_one_works(own_storage, tmp_path):
    person = a_person(own_storage, tmp_path / "one")
    commit = person.commit(a=os.urandom(100_000))
    async with Caller(own_storage.address) as api:
        repository = await a_repository(api, person)
        half = HalfPush(person, repository, commit)
        await until_incoming(own_storage, person, repository)
        own_storage.stop(signal.SIGKILL)
        await asyncio.to_thread(own_storage.start)

        assert half.process.wait(20) != 0
        assert await code_of(api, person, commit) == "commit_unknown"
        await asyncio.to_thread(person.push, repository)
        assert (await commit_of(api, person, commit)).commit == commit


async def test_a_push_in_hand_is_finished_before_the_service_stops(own_storage, tmp_path):
    person = a_person(own_storage, tmp_path / "one")
    commit = person.commit(a=os.urandom(100_000))
    async with Caller(own_storage.address) as api:
        repository = await a_repository(api, person)
        half = HalfPush(person, repository, commit)
        await until_incoming(own_storage, person, repository)
        stopping = asyncio.create_task(asyncio.to_thread(own_storage.stop))
        async with asyncio.timeout(10):
            while (await asyncio.to_thread(person.ssh, "id")).returncode != 255:
                await asyncio.sleep(0.01)
        report, status = await asyncio.to_thread(half.finish)
        stopped = await stopping
        await asyncio.to_thread(own_storage.start)

        assert b"unpack ok" in report
        assert (status, stopped) == (0, 0)
        assert (await commit_of(api, person, commit)).commit == commit

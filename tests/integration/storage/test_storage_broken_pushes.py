"""Pushes that break off: whatever they have brought until then goes at once, or the disk would fill with it."""

import asyncio
import os

import pytest

from integration.storage.git_people import HalfPush, a_repository, commit_of, until_incoming

pytestmark = pytest.mark.integration


async def until_nothing_is_left(storage, person, repository):
    kept = storage.data / "git" / str(person.owner_id) / f"{repository.id}.git"
    async with asyncio.timeout(10):
        while list(kept.glob("objects/tmp_*")) or list(kept.glob("objects/pack/tmp_*")):
            await asyncio.sleep(0.01)


async def test_a_client_that_is_killed_leaves_nothing(api, storage, person):
    commit = person.commit(a=os.urandom(200_000))
    repository = await a_repository(api, person)

    half = HalfPush(person, repository, commit)
    await until_incoming(storage, person, repository)
    half.process.kill()

    await until_nothing_is_left(storage, person, repository)
    await asyncio.to_thread(person.push, repository)
    assert (await commit_of(api, person, commit)).commit == commit


async def test_a_push_to_a_repository_that_is_not_there_leaves_nothing(storage, person):
    done = person.ssh(f"git-receive-pack '/{person.owner_id}/987654321.git'")

    assert (done.returncode, done.stderr) == (128, b"spell: no such repository\n")
    assert list((storage.data / "git-locks").glob("987654321.*")) == []


async def test_a_client_that_is_sent_away_leaves_nothing(postgres, start_storage, tmp_path):
    storage = start_storage(postgres.url("storage"), SPELL_GIT_PUSH_SILENT_SECONDS_MAX="1")
    person = storage.person(tmp_path / "one")
    commit = person.commit(a=os.urandom(200_000))
    async with storage.client() as api:
        repository = await a_repository(api, person)

        half = HalfPush(person, repository, commit)
        await until_incoming(storage, person, repository)
        await asyncio.to_thread(half.process.wait, 20)

        assert half.process.returncode == 1
        await until_nothing_is_left(storage, person, repository)

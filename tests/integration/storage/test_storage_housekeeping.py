"""Housekeeping: what no run needs goes, what one needs stays whole, whatever happens at the same time."""

import asyncio
import os
import random
import signal
import time
from datetime import UTC, datetime

import pytest
from aiohttp import web

from integration.storage.git_people import a_repository, files_of, git_in
from integration.storage.storage_room import DAY, a_room
from spell_proto import http
from spell_proto.errors import UnavailableError
from spell_storage import git
from spell_storage.housekeeping import Collected, runs_of

pytestmark = pytest.mark.integration


@pytest.fixture
async def room(postgres, tmp_path):
    async with a_room(postgres, tmp_path / "data") as made:
        yield made


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_is_named_stays_whole_and_the_rest_goes(room, seed):
    chance = random.Random(seed)
    names = room.history(25, seed)
    pushed = chance.sample(names, 8)
    await room.push(pushed)
    for number, name in enumerate(chance.sample(pushed, 3)):
        git_in(
            room.path, "-c", "user.name=x", "-c", "user.email=x@y", "tag", "-a", "-m", "x", f"t{number}", name
        )
    if chance.random() < 0.5:
        git_in(room.path, "repack", "-a", "-d", "-q")
    asked = {name for name in chance.sample(names, 10) if await room.has(name)}
    known = set(pushed) | asked
    young = set(chance.sample(sorted(known), 2))
    await room.age(known - young)
    named = set(chance.sample(sorted(known), 3))

    first = await room.keep_house(named)
    again = await room.keep_house(named)

    kept = named | young
    rows = await room.pool.fetch("SELECT commit FROM commits WHERE owner_id = $1", room.owner_id)
    assert {row["commit"] for row in rows} == kept
    assert all(room.is_whole(name) for name in kept)
    assert set(room.objects()) == room.needed()
    assert first.commits == len(known - kept)
    assert again == Collected()
    for line in git_in(
        room.path, "for-each-ref", "--format=%(refname:strip=2) %(*objectname)", "refs/tags"
    ).splitlines():
        assert room.is_whole(line.split()[1].decode())
    git_in(room.path, "fsck", "--strict", "--no-dangling")


async def test_a_commit_that_is_asked_for_at_the_last_moment_stays(room):
    names = room.history(5, 1)
    await room.push(names)
    await room.age(names)

    async def nobody_but_somebody_asks(_owner_id, _commits):
        await room.code.commit(room.owner_id, names[2])
        return set()

    await room.housekeeping(nobody_but_somebody_asks).run_once(datetime.now(UTC))

    assert await room.has(names[2])
    assert room.is_whole(names[2])
    assert set(room.objects()) == room.needed()


class Interrupted(git.Repositories):
    """Lets something happen right after the objects were packed anew."""

    async def run(self, repository, *arguments, **options):
        printed = await super().run(repository, *arguments, **options)
        if "repack" in arguments:
            await self.then()
        return printed


async def test_a_commit_that_is_found_again_while_objects_are_packed_stays(room):
    names = room.history(5, 2)
    await room.push(names)
    await room.age(names)
    whole = room.repositories
    room.repositories = Interrupted(room.data)
    room.repositories.then = lambda: room.code.commit(room.owner_id, names[3])

    first = await room.keep_house()
    whole_then = room.is_whole(names[3])
    room.repositories = whole
    await room.keep_house()

    assert first.commits == 5
    assert whole_then
    assert await room.has(names[3])
    assert room.is_whole(names[3])
    assert set(room.objects()) == room.needed()


async def test_nothing_goes_while_the_scheduler_does_not_answer(room, tmp_path):
    names = room.history(4, 3)
    await room.push(names)
    await room.age(names)

    async with http.Caller(f"unix://{tmp_path}/nobody.sock") as scheduler:
        with pytest.raises(UnavailableError):
            await room.housekeeping(runs_of(scheduler)).run_once(datetime.now(UTC))

    assert [await room.has(name) for name in names] == [True] * 4


async def test_the_scheduler_is_asked_in_portions(room, tmp_path):
    asked = []

    async def in_use(request):
        body = await request.json()
        asked.append(len(body["commits"]))
        return web.json_response({"commits": [name for name in body["commits"] if name.endswith("7")]})

    app = web.Application()
    app.router.add_post("/commits/in-use", in_use)
    commits = [f"{number:040d}" for number in range(2_500)]
    address = f"unix://{tmp_path}/s.sock"
    async with http.serve(app, address), http.Caller(address) as scheduler:
        named = await runs_of(scheduler)(1, commits)

    assert asked == [1_000, 1_000, 500]
    assert len(named) == 250


async def test_one_copy_of_the_service_keeps_house_at_a_time(room):
    names = room.history(3, 4)
    await room.push(names)
    await room.age(names)
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow(_owner_id, _commits):
        entered.set()
        await leave.wait()
        return set()

    one = asyncio.create_task(room.housekeeping(slow).run_once(datetime.now(UTC)))
    await entered.wait()
    other = await room.keep_house()
    leave.set()

    assert other == Collected()
    assert (await one).commits == 3


async def test_a_repository_without_commits_goes_and_comes_back(room):
    names = room.history(3, 5)
    await room.push(names)
    await room.age(names)
    await room.age_repository()

    collected = await room.keep_house()
    listed = await room.code.repositories(room.owner_id)
    path = room.path
    again = await room.code.put_repository(room.owner_id, f"{room.owner_id:040x}", "project")

    assert collected.repositories == 1
    assert listed == ()
    assert not path.exists()
    assert not list((room.data / "git").glob(".gone-*"))
    assert again.id != room.repository_id
    assert await room.code.for_push(room.owner_id, room.repository_id) is None


async def test_a_mirror_that_nobody_uses_is_cut_down_to_what_runs_name(room):
    room.repository_id = await room.code.put_fetched_repository(
        room.owner_id, f"https://h/{room.owner_id}", sha256=False
    )
    names = room.history(6, 6)
    refs = "".join(f"create refs/fetched/b{number} {name}\n" for number, name in enumerate(names))
    git_in(room.path, "update-ref", "--stdin", given=refs.encode())
    await room.code.pushed(room.owner_id, room.repository_id, [names[2], names[4]])
    await room.age(names)
    in_use_and_used = await room.keep_house([names[2]])
    refs_while_used = git_in(room.path, "for-each-ref", "refs/fetched").count(b"\n")
    await room.age_repository()

    await room.keep_house([names[2]])

    assert in_use_and_used.commits == 1
    assert refs_while_used == 6
    assert git_in(room.path, "for-each-ref", "refs/fetched") == b""
    assert room.is_whole(names[2])
    assert set(room.objects()) == room.needed()


async def test_what_a_crash_has_left_goes(room):
    names = room.history(3, 7)
    await room.push(names)
    await room.age(names[:1])
    old = time.time() - 2 * DAY
    left = [
        room.path / "objects" / "pack" / "tmp_pack_x",
        room.path / "objects" / "tmp_objdir-incoming-x" / "y",
        room.data / "git" / ".new-x" / "y",
        room.data / "git-hooks" / "pushed-x",
    ]
    fresh = room.data / "git-hooks" / "pushed-y"
    for path in (*left, fresh):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
        if path is not fresh:
            os.utime(path, (old, old))
            os.utime(path.parent, (old, old))

    await room.keep_house(names[1:])

    assert [path for path in left if path.exists()] == []
    assert fresh.exists()


async def test_what_a_crash_has_left_goes_where_all_else_is_in_use(room):
    names = room.history(3, 7)
    await room.push(names)
    old = time.time() - 2 * DAY
    left = room.path / "objects" / "tmp_objdir-incoming-x"
    fresh = room.path / "objects" / "pack" / "tmp_pack_y"
    left.mkdir()
    fresh.write_bytes(b"x")
    await room.keep_house(names)
    kept = left.exists()
    os.utime(left, (old, old))

    await room.keep_house(names)

    assert kept
    assert not left.exists()
    assert all(room.is_whole(name) for name in names)


async def test_pushes_go_on_while_house_is_kept(postgres, own_storage, tmp_path):
    """Each push needs objects that the one before it had and that are being removed."""
    person = own_storage.person(tmp_path / "one")
    blobs = [os.urandom(2_000) for _ in range(3)]
    root = person.commit(base=b"0")
    stop = asyncio.Event()
    passes = []
    async with own_storage.client() as api, a_room(postgres, own_storage.data) as room:
        repository = await a_repository(api, person, root)
        room.owner_id, room.repository_id = person.owner_id, repository.id

        async def keep_house():
            while not stop.is_set():
                rows = await room.pool.fetch(
                    "SELECT commit FROM commits WHERE owner_id = $1", person.owner_id
                )
                await room.age({row["commit"] for row in rows} - set(named))
                passes.append(await room.keep_house(named))

        named = []
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(keep_house())
            for number in range(24):
                person.git("checkout", "-q", "--detach", root)
                commit = person.commit(**{"f": blobs[number % 3], f"g{number % 2}": blobs[(number + 1) % 3]})
                # From here on a run may name it.
                named.append(commit)
                await asyncio.to_thread(person.push, repository, commit)
                assert len(await files_of(api, person, repository, commit)) == 3
                if number % 3 == 2:
                    named.clear()
            named.append(commit)
            stop.set()
        await room.age([root])
        await room.keep_house(named)

        assert sum(one.commits for one in passes) > 3
        assert room.is_whole(commit)
        assert set(room.objects()) == room.needed()


async def test_it_may_be_killed_at_any_line(postgres, start_storage, tmp_path):
    named = set()

    async def in_use(request):
        body = await request.json()
        return web.json_response({"commits": sorted(named & set(body["commits"]))})

    app = web.Application()
    app.router.add_post("/commits/in-use", in_use)
    address = f"unix://{tmp_path}/s.sock"
    chance = random.Random(8)
    async with http.serve(app, address):
        service = await asyncio.to_thread(
            lambda: start_storage(
                postgres.url("storage"), SPELL_SCHEDULER_URL=address, SPELL_COLLECT_SECONDS="0.05"
            )
        )
        person = service.person(tmp_path / "one")
        root = person.commit(a=b"0")
        async with service.client() as api, a_room(postgres, service.data) as room:
            repository = await a_repository(api, person, root)
            room.owner_id, room.repository_id = person.owner_id, repository.id
            pushed = []
            for _ in range(6):
                for _ in range(3):
                    pushed.append(person.commit(a=os.urandom(50_000)))
                    await asyncio.to_thread(person.push, repository)
                named.clear()
                named.update(chance.sample(pushed, 1), pushed[-1:])
                pushed = sorted(named, key=pushed.index)
                rows = await room.pool.fetch(
                    "SELECT commit FROM commits WHERE owner_id = $1", person.owner_id
                )
                await room.age({row["commit"] for row in rows})
                await asyncio.sleep(chance.random() * 0.3)  # where it is then is left to chance
                await asyncio.to_thread(service.stop, signal.SIGKILL)
                assert all(room.is_whole(name) for name in named)
                await asyncio.to_thread(service.start)
            async with asyncio.timeout(30):
                while set(room.objects()) != room.needed():
                    await asyncio.sleep(0.05)

            assert all(room.is_whole(name) for name in named)

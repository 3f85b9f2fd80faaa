"""Objects come once, whatever breaks on the way; nothing that is used is ever taken away, and nothing else is kept."""

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import pytest_asyncio

from integration.runner.workshop import workshop
from spell_proto.spec import CodeLocation
from spell_proto.state import Reason
from spell_runner import stores, trees, workspace
from spell_runner.errors import AttemptError
from spell_runner.stores import Stores
from spell_runner.trees import Trees

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def shop():
    async with workshop() as made:
        yield made


async def get(shop, code, waits=lambda: None):
    return await shop.trees.get(1, CodeLocation(**code), waits)


def git(store, *words):
    done = subprocess.run(["git", f"--git-dir={store}", *words], capture_output=True, check=False)
    return done.stdout.decode().split()


def packs(shop):
    return sorted((shop.data / "stores/1-1/objects/pack").glob("*.pack"))


async def test_code_that_is_known_needs_neither_storage_nor_a_process(shop, monkeypatch):
    given = shop.shelf.code({"a": b"x"})
    first = await get(shop, given)
    monkeypatch.setenv("PATH", "/nonexistent")
    shop.shelf.asked.clear()

    again = [await get(shop, given) for _ in range(3)]

    assert again == [first] * 3
    assert shop.shelf.asked == []


async def test_a_commit_is_asked_for_with_what_is_here(shop):
    big = {f"f{n}": os.urandom(1000) for n in range(100)}
    first = shop.shelf.code(big)
    second = shop.shelf.code({**big, "f1": b"one line\n"}, first["commit"])
    await get(shop, first)
    await get(shop, second)

    assert shop.shelf.asked[-1] == {"want": [second["commit"]], "have": [first["commit"]]}
    assert min(pack.stat().st_size for pack in packs(shop)) < 10_000


async def test_a_snapshot_and_its_commit_come_together(shop):
    commit = shop.shelf.code({"a": b"x"})
    snapshot = shop.shelf.code({"a": b"y"}, commit["commit"])
    given = {**commit, "snapshot": snapshot["commit"], "tree": snapshot["tree"]}

    code = await get(shop, given)

    assert (code.lower / "repo/a").read_bytes() == b"y"
    assert shop.shelf.asked == [{"want": [commit["commit"], snapshot["commit"]], "have": []}]
    plain = await get(shop, commit)
    assert (plain.lower / "repo/a").read_bytes() == b"x"
    assert len(shop.shelf.asked) == 1


async def test_many_who_want_the_same_make_it_come_once(shop):
    given = [shop.shelf.code({"a": b"%d" % (n % 2)}) for n in range(10)]

    found = await asyncio.gather(*(get(shop, code) for code in given))

    assert len(set(found)) == 2
    assert len(shop.shelf.asked) == 2


@pytest.mark.parametrize("cut", [0, 10, 150, 5000])
async def test_a_pack_that_breaks_off_is_asked_for_again(shop, cut):
    given = shop.shelf.code({"a": os.urandom(20_000), "b": b"x"})
    shop.storage.breaks_after = cut

    code = await get(shop, given)

    assert (code.lower / "repo/b").read_bytes() == b"x"
    assert len(shop.shelf.asked) == 2
    assert not list((shop.data / "stores/1-1/objects/pack").glob("tmp_*"))


async def test_a_wait_for_a_pack_can_be_ended_and_harms_nothing(shop):
    given = shop.shelf.code({"a": os.urandom(20_000)})
    asked, answer = asyncio.Event(), shop.shelf.pack

    async def hang(body):
        asked.set()
        await asyncio.Event().wait()

    shop.shelf.pack = hang
    task = asyncio.ensure_future(get(shop, given))
    await asyncio.wait_for(asked.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    shop.shelf.pack = answer

    assert (await get(shop, given)).lower.is_dir()


async def test_hostile_packs_are_refused_and_leave_no_commit(shop, monkeypatch):
    blob = shop.shelf.put("blob", b"x")
    dotgit = shop.shelf.raw_tree([("40000", b".git", shop.shelf.raw_tree([("100644", b"config", blob)]))])
    unsorted = shop.shelf.raw_tree([("100644", b"b", blob), ("100644", b"a", blob)])
    for tree, said in ((dotgit, "hasDotgit"), (unsorted, "treeNotSorted")):
        with pytest.raises(AttemptError) as refused:
            await get(shop, {**shop.shelf.code({}), "commit": shop.shelf.commit(tree), "tree": tree})
        assert refused.value.reason is Reason.CODE_FETCH
        assert said in refused.value.message
        assert "\n" not in refused.value.message
    fine = shop.shelf.code({"a": b"fine"})

    answer = shop.shelf.pack

    async def garbled(body):
        whole = bytearray(await answer(body))
        whole[-30] ^= 1
        return bytes(whole)

    shop.shelf.pack = garbled
    with pytest.raises(AttemptError):
        await get(shop, fine)
    shop.shelf.pack = answer

    assert not list((shop.data / "stores/1-1/refs/commits").iterdir())
    assert (await get(shop, fine)).lower.is_dir()
    assert not list(shop.data.rglob("config.lock"))


async def test_a_machine_without_git_says_so(shop, monkeypatch):
    given = shop.shelf.code({"a": b"x"})
    answer = await shop.shelf.pack(b'{"want": ["%b"], "have": []}' % given["commit"].encode())

    async def made_before(body):
        return answer

    monkeypatch.setattr(shop.shelf, "pack", made_before)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(AttemptError, match="could not be fetched: git: No such file or directory"):
        await get(shop, given)
    monkeypatch.undo()

    assert (await get(shop, given)).lower.is_dir()


async def test_a_history_of_many_small_faults_is_taken(shop):
    """Git warns about each of them, and nobody reads that meanwhile."""
    blob = shop.shelf.put("blob", b"x")
    trees_of_old = [shop.shelf.raw_tree([("100664", b"%d" % n, blob)]) for n in range(2200)]
    tree = shop.shelf.raw_tree(
        sorted((("40000", b"d%05d" % n, name) for n, name in enumerate(trees_of_old)), key=lambda one: one[1])
    )

    code = await asyncio.wait_for(
        get(shop, {**shop.shelf.code({}), "commit": shop.shelf.commit(tree), "tree": tree}), 30
    )

    assert len(list((code.lower / "repo").iterdir())) == 2200


async def test_a_store_that_lost_objects_gets_everything_again(shop):
    files = {f"f{n}": os.urandom(3000) for n in range(20)}
    first = shop.shelf.code(files)
    await get(shop, first)
    for pack in packs(shop):
        pack.unlink()
        pack.with_suffix(".idx").unlink()
    second = shop.shelf.code({**files, "f3": b"changed"}, first["commit"])

    code = await get(shop, second)

    assert (code.lower / "repo/f4").read_bytes() == files["f4"]
    assert shop.shelf.asked[-1]["have"] == []
    assert git(shop.data / "stores/1-1", "fsck", second["commit"]) == []


async def test_many_packs_become_few_while_somebody_reads(shop, monkeypatch):
    monkeypatch.setattr(stores, "PACKS_MAX", 5)
    commits = []
    for n in range(12):
        parents = [commits[-1]["commit"]] if commits else []
        commits.append(shop.shelf.code({"file": b"%d" % n * 1000}, *parents))
    await get(shop, commits[0])
    store = shop.data / "stores/1-1"
    with subprocess.Popen(
        ["git", f"--git-dir={store}", "cat-file", "--batch-check"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as reader:
        for code in commits:
            await get(shop, code)
            reader.stdin.write(f"{code['commit']}\n".encode())
            reader.stdin.flush()
            assert reader.stdout.readline().split()[:2] == [code["commit"].encode(), b"commit"]
        reader.stdin.close()
    async with asyncio.timeout(10):
        while len(packs(shop)) > 6:
            await asyncio.sleep(0.01)
    assert len(git(store, "rev-list", commits[-1]["commit"])) == 12


async def test_a_new_runner_shares_files_with_what_an_earlier_one_laid_out(shop):
    first = shop.shelf.code({"same": b"same", "other": b"1"})
    before = await get(shop, first)
    again = Trees(shop.data, shop.caller, set)
    second = shop.shelf.code({"same": b"same", "other": b"2"}, first["commit"], root="renamed")

    after = await again.get(1, CodeLocation(**second), lambda: None)

    assert (after.lower / "renamed/same").samefile(before.lower / "repo/same")
    assert (after.lower / "renamed/other").read_bytes() == b"2"
    assert (before.lower / "repo/other").read_bytes() == b"1"


async def test_what_a_run_writes_to_is_its_own(shop):
    """Two trees share a file, and two runs have it: nobody sees what another one does to it."""
    first = shop.shelf.code({"same": b"same", "n": b"1"})
    second = shop.shelf.code({"same": b"same", "n": b"2"}, first["commit"])

    for isolation, overlay in (("none", False), ("unshare", True)):
        async with workshop(isolation, overlay=overlay) as here:
            here.storage.shelf = shop.shelf
            await here.run("true", first)
            ran = await here.run("echo x >> same; chmod 600 same; touch -d @0 same; cat same", second)
            again = await here.run("cat same; git diff-files", first)
            assert (ran.output, again.output) == (b"samex\n", b"same")


# ---- what a death leaves, and what makes room ----------------------------------------------------------------


async def test_what_a_death_left_half_done_is_swept_away(shop):
    given = shop.shelf.code({"a": b"x"})
    code = await get(shop, given)
    store = shop.data / "stores/1-1"
    left = [
        shop.data / "trees/.half/files/repo",
        shop.data / "stores/.new-half/objects",
        store / "objects/pack/tmp_pack_old",
        store / "objects/pack/pack-without-index.pack",
        store / "shallow-left",
        store / "refs/commits/.new-left",
        code.repository.with_name(".new-left"),
    ]
    for path in left:
        path.write_bytes(b"x") if path in left[2:6] else path.mkdir(parents=True)
    for path in left[2:4]:
        os.utime(path, (1, 1))
    young = store / "objects/pack/tmp_pack_young"
    young.write_bytes(b"somebody may still write it")

    shop.trees.sweep()

    assert not [path for path in left if path.exists()]
    assert young.exists()
    assert await get(shop, given) == code


async def test_half_a_pack_that_a_death_left_goes_when_another_pack_comes(shop):
    first = shop.shelf.code({"a": b"1"})
    await get(shop, first)
    left = shop.data / "stores/1-1/objects/pack/tmp_pack_left"
    left.write_bytes(b"x")
    os.utime(left, (1, 1))

    await get(shop, shop.shelf.code({"a": b"2"}, first["commit"]))

    assert not left.exists()


async def test_objects_without_a_note_that_they_are_whole_come_again(shop):
    """As if the runner had died between the pack and the note."""
    given = shop.shelf.code({"a": b"x"})
    code = await get(shop, given)
    (shop.data / "stores/1-1/refs/commits" / given["commit"]).unlink()

    assert await get(shop, given) == code
    assert len(shop.shelf.asked) == 2
    ran = await shop.run("git rev-parse HEAD", given)
    assert ran.lines == [given["commit"]]


async def test_a_note_that_was_only_begun_is_no_commit(shop):
    first = shop.shelf.code({"a": b"1"})
    await get(shop, first)
    (shop.data / "stores/1-1/refs/commits" / f".new-{'1' * 40}").write_text("")
    second = shop.shelf.code({"a": b"2"}, first["commit"])

    await get(shop, second)

    assert shop.shelf.asked[-1]["have"] == [first["commit"]]


async def test_a_run_keeps_the_repository_it_began_with_when_objects_come_again(shop):
    given = shop.shelf.code({"a": b"x"})
    code = await get(shop, given)
    store = shop.data / "stores/1-1"
    seen = os.open(code.repository, os.O_RDONLY)
    try:
        (store / "refs/commits" / given["commit"]).unlink()

        assert await get(shop, given) == code

        assert not code.repository.samefile(f"/proc/self/fd/{seen}")
        there = {path.name for path in Path(f"/proc/self/fd/{seen}").iterdir()}
        assert there >= {"HEAD", "config", "index"}
    finally:
        os.close(seen)


async def test_after_a_reboot_everything_is_made_anew(shop):
    given = shop.shelf.code({"a": b"x"})
    await get(shop, given)
    again = Trees(shop.data, shop.caller, set)

    again.forget()

    assert not list((shop.data / "trees").iterdir()) + list((shop.data / "stores").iterdir())
    code = await again.get(1, CodeLocation(**given), lambda: None)
    assert (code.lower / "repo/a").read_bytes() == b"x"


async def test_what_was_not_used_for_long_makes_room_but_nothing_that_an_attempt_stands_on(shop, monkeypatch):
    monkeypatch.setattr(trees, "KEPT_MAX", 0)
    used, unused = (
        {**shop.shelf.code({"a": text}), "repository_id": n} for n, text in ((1, b"1"), (2, b"2"))
    )
    ran = await shop.run("true", used)
    await get(shop, unused)
    for path in [*(shop.data / "trees").iterdir(), *(shop.data / "stores").iterdir()]:
        os.utime(path, (1, 1))

    fresh = {**shop.shelf.code({"a": b"3"}), "repository_id": 3}
    await get(shop, fresh)

    kept = {path.name.partition(".")[0] for path in (shop.data / "trees").iterdir()}
    assert kept == {used["tree"], fresh["tree"]}
    assert {path.name for path in (shop.data / "stores").iterdir()} == {"1-1", "1-3"}
    workspace.remove(ran.directory.path)
    assert (await get(shop, unused)).lower.is_dir()


async def test_a_store_that_is_about_to_be_read_is_not_old(shop):
    given = shop.shelf.code({"a": b"x"})
    await get(shop, given)
    os.utime(shop.data / "stores/1-1", (1, 1))

    again = Stores(shop.data / "stores", shop.caller)
    await again.fill(again.get(1, 1), 1, CodeLocation(**given))

    assert (shop.data / "stores/1-1").stat().st_mtime > 1


async def test_a_disk_that_is_full_is_made_room_on_before_something_comes(shop, monkeypatch):
    await get(shop, {**shop.shelf.code({"a": b"1"}), "repository_id": 2})
    for path in [*(shop.data / "trees").iterdir(), *(shop.data / "stores").iterdir()]:
        os.utime(path, (1, 1))
    monkeypatch.setattr(trees, "DISK_FREE_SHARE_MIN", 1.1)
    answer, there = shop.shelf.pack, []

    async def seen(body):
        there.extend(path.name for path in (shop.data / "stores").iterdir())
        return await answer(body)

    shop.shelf.pack = seen
    await get(shop, shop.shelf.code({"a": b"2"}))
    shop.shelf.pack = answer

    assert there == ["1-1"]


@pytest.mark.parametrize("gone", ["trees", "stores"])
async def test_a_repository_whose_tree_or_store_was_made_anew_is_made_anew(shop, gone):
    given = shop.shelf.code({"a": b"x", "b": b"y"})
    await get(shop, given)
    for path in (shop.data / gone).iterdir():
        shutil.rmtree(path)

    ran = await shop.run("git diff-files; git log --format=%H", given)

    assert ran.lines == [given["commit"]]


async def test_owners_share_neither_objects_nor_repositories(shop):
    given = shop.shelf.code({"a": b"x"})
    mine = await shop.trees.get(1, CodeLocation(**given), lambda: None)
    theirs = await shop.trees.get(2, CodeLocation(**given), lambda: None)

    assert mine.lower == theirs.lower
    assert mine.objects != theirs.objects
    assert mine.repository != theirs.repository
    assert [one["have"] for one in shop.shelf.asked] == [[], []]


async def test_tags_that_came_with_an_earlier_commit_are_still_known(shop):
    first = shop.shelf.code({"a": b"1"})
    shop.shelf.tag("one", first["commit"])
    await get(shop, first)
    second = shop.shelf.code({"a": b"2"}, first["commit"])
    shop.shelf.tag("two", second["commit"])
    del shop.shelf.tags["one"]

    code = await get(shop, second)

    assert [line.split("/")[-1] for line in (code.repository / "packed-refs").read_text().splitlines()] == [
        "one",
        "two",
    ]
    assert Path(code.objects).name == "objects"

"""Mounts on a machine: fetched once, seen by many, written to by nobody, whoever dies meanwhile."""

import asyncio
import hashlib
import json
import os
import random
import re
from pathlib import Path

import pytest

from integration.runner import shims
from integration.runner.room import room
from integration.runner.stowing import AT, mount, stow
from spell_runner.mounts.mounting import TREES

needs_bubblewrap = pytest.mark.skipif(not shims.BWRAP, reason="bubblewrap is not installed")
#: Every way in which runs see mounts outside their workspace.
WAYS = [
    "unshare",
    "unshare copies",
    pytest.param("bubblewrap", marks=needs_bubblewrap),
    pytest.param("bubblewrap copies", marks=needs_bubblewrap),
    "docker",
    "docker copies",
]
pytestmark = pytest.mark.asyncio(loop_scope="session")
FETCHED = re.compile(r"GET /(blobs|manifests)/|POST /blobs/unpack")


def kept(here) -> dict[str, tuple[int, int, str]]:
    """Every byte of the cache that a run can come near to: mode, time and content."""
    found = {}
    for path in sorted((here.data / "mounts").rglob("*")):
        status = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path)] = (status.st_mode, status.st_mtime_ns if path.is_file() else 0, content)
    return found


@pytest.mark.parametrize("way", WAYS)
async def test_resources_are_seen_where_they_are_mounted_and_fetched_once(rooms, way):
    here = await rooms(way)
    name = way.encode()
    manifest = await stow(
        here, {"d/a": name + b"a\n", "d/e/b": name + b"b\n", "f": name + b"f\n"}, {"d/l": "e/b"}
    )
    mounts = [
        mount(here, manifest, "/mnt/all"),
        mount(here, manifest, "/data/x/y", "d"),
        mount(here, manifest, "/spell/in/d", "d"),
        mount(here, manifest, "/spell/in/one", "f", is_file=True),
        mount(here, manifest, "/mnt/one", "f", is_file=True),
    ]
    command = (
        "cat /mnt/all/d/a /data/x/y/l /spell/in/d/e/b /spell/in/one /mnt/one; readlink /mnt/all/d/l; "
        "ls /mnt /data /data/x; stat -c %y /mnt/one"
    )

    first = await here.create(command, mounts=mounts)
    view = await here.until_final(first)
    asked = [one for one in here.front.asked if FETCHED.match(one)]
    here.front.asked.clear()
    second = await here.create(command, mounts=mounts)
    await here.until_final(second)

    assert view.state == "complete", await here.lines(first)
    output = (await here.output(first)).decode().splitlines()
    assert output[:6] == [f"{way}{letter}" for letter in "abbff"] + ["e/b"]
    assert output[6:-1] == ["/data:", "x", "", "/data/x:", "y", "", "/mnt:", "all", "one"]
    assert output[-1].startswith("2001-09-09 0"), "its time is kept"
    assert output[-1].split(".")[1][:6] == f"{AT.microsecond:06}"
    assert view.state == "complete"
    assert view.saved_files == 0
    assert await here.client.states(first) == [
        "requested", "building", "mounting", "running", "saving", "pushing", "complete"
    ]  # fmt: skip
    assert [one for one in asked if "blobs" in one] == ["POST /blobs/unpack"], "no content is fetched twice"
    assert (await here.output(second)).decode().splitlines() == output
    assert not [one for one in here.front.asked if FETCHED.match(one)], "what is here is not asked for"


@pytest.mark.parametrize("way", [*WAYS, "none"])
async def test_what_a_run_changes_in_its_workspace_is_saved_and_nothing_else_is(rooms, way):
    here = await rooms(way)
    code = here.front.shelf.code({"kept": b"kept\n", "d/hidden": b"hidden\n", "m": b"old\n"})
    manifest = await stow(
        here, {"d/a": b"a\n", "d/b": b"b\n", "d/c": b"c\n", "d/e/f": b"f\n", "m": b"new\n"}, {"d/l": "a"}
    )
    root = "/spell/repo"
    mounts = [
        mount(here, manifest, f"{root}/d", "d"),
        mount(here, manifest, f"{root}/m", "m", is_file=True),
        mount(here, manifest, f"{root}/x/one", "d/a", is_file=True),
        mount(here, manifest, f"{root}/x/two", "d/b", is_file=True),
    ]
    command = (
        "ls d; cat m x/one; echo more >> d/a; touch d/c; echo new > d/hidden; rm d/b; rm -r d/e; rm x/one; echo two > x/two; "
        "echo kept > kept; echo at > d/at; mkdir d/empty"
    )

    view = await here.until_final(await here.create(command, code=code, mounts=mounts))
    again = await here.until_final(
        await here.create("find d x m -type f | sort | xargs cat", code=code, mounts=mounts)
    )
    idle = await here.until_final(await here.create("true", code=code, mounts=mounts))

    assert (await here.output(view.id)).split() == b"a b c e l new a".split()
    assert await here.files(view) == {
        "d/a": b"a\nmore\n", "d/hidden": b"new\n", "d/at": b"at\n", "x/two": b"two\n"
    }  # fmt: skip
    assert await here.deleted(view) == ["d/b", "d/e/f", "x/one"]
    assert [note.partition(":")[0] for note in view.save_notes] == ["3 files were deleted"]
    assert (await here.output(again.id)).split() == b"a b c f new a b".split()
    assert idle.manifest is None


@pytest.mark.parametrize("way", WAYS)
async def test_what_is_written_outside_the_workspace_is_named_and_gone(rooms, way):
    here = await rooms(way)
    manifest = await stow(here, {"d/a": b"a\n", "b": b"b\n"})
    mounts = [
        mount(here, manifest, "/mnt/in/d", "d"),
        mount(here, manifest, "/mnt/b", "b", is_file=True),
        mount(here, manifest, "/data/d", "d"),
    ]

    one = await here.until_final(await here.create("echo x > /mnt/in/d/x; echo y > here", mounts=mounts))
    two = await here.until_final(await here.create("rm /mnt/b; echo x >> /data/d/a", mounts=mounts))
    none = await here.until_final(await here.create("cat /mnt/in/d/a /mnt/b", mounts=mounts))

    said = "Not saved: what was written below {}, as only files below /spell are"
    assert [line for line in await here.lines(one.id) if "Not saved" in line] == [said.format("/mnt/in/d")]
    assert await here.files(one) == {"here": b"y\n"}
    (line,) = [line for line in await here.lines(two.id) if "Not saved" in line]
    assert line in {said.format("/data/d and /mnt"), said.format("/data/d and /mnt/b")}
    assert two.manifest is None
    assert await here.output(none.id) == b"a\nb\n"
    assert not [line for line in await here.lines(none.id) if "Not saved" in line]


@pytest.mark.parametrize("way", WAYS)
async def test_nobody_can_write_to_what_is_kept(rooms, way):
    """Neither where it is mounted, nor by any other path, whatever user the command is in whatever namespace."""
    here = await rooms(way)
    manifest = await stow(here, {"d/a": b"untouched " + way.encode()}, mode=0o666)
    mounts = [
        mount(here, manifest, "/mnt/d", "d"),
        mount(here, manifest, "/mnt/f", "d/a", is_file=True),
        mount(here, manifest, "/spell/d", "d"),
        mount(here, manifest, "/spell/f", "d/a", is_file=True),
    ]
    await here.until_final(await here.create("true", mounts=mounts))
    before = kept(here)
    attack = r"""
    hurt() { for f in $(find "$@" -xdev -type f 2>/dev/null); do
      chmod 777 "$f"; echo hurt >> "$f"; truncate -s 0 "$f"; touch "$f"; setfattr -n user.x -v y "$f"; ln "$f" "$f.ln"; done; }
    exec 2>/dev/null
    hurt /mnt/d /mnt/f /spell/d /spell/f
    rm -rf /mnt/d/* /spell/d/*
    for p in /proc/[0-9]*; do hurt $p/root$DATA/mounts $p/cwd/../mounts; for fd in $p/fd/*; do echo hurt >> $fd/d/a; done; done
    hurt $DATA/mounts
    mkdir m; mount -t tmpfs none m; umount -l $DATA; hurt $DATA/mounts
    mount -o remount,rw,bind /mnt; mount -o remount,rw,bind /
    unshare -Urm sh -c "umount -l $DATA; mount --make-rprivate /; umount -l /mnt/d; umount -l /mnt; echo hurt >> $DATA/mounts/trees/*/files/a"
    echo done
    """

    run_id = await here.create(attack, mounts=mounts, env={"DATA": str(here.data)})
    await here.until_final(run_id)

    assert (await here.output(run_id)).endswith(b"done\n")
    assert kept(here) == before


async def test_a_runner_that_is_killed_while_it_mounts_goes_on_where_it_was(rooms):
    """At every request that it makes for a mount: it is killed there, and its successor needs what was missing alone."""
    here = await rooms("unshare")
    small = {f"f{number}": b"%d of the killed\n" % number for number in range(4)}
    large = {f"large{number}": b"%d\n" % number * 100_000 for number in range(2)}
    content = small | large
    manifest = await stow(here, content)
    points = [
        r"GET /manifests/",
        r"POST /blobs/unpack",
        *(f"GET /blobs/{hashlib.sha256(data).hexdigest()}" for data in large.values()),
    ]

    for point in points:
        here.mend()
        here.front.gate.clear()
        here.front.held = re.compile(point)
        run_id = await here.create("cat /mnt/m/*; sleep 1", mounts=[mount(here, manifest, "/mnt/m")])
        await here.until_true(lambda point=point: any(re.match(point, one) for one in here.front.asked))
        here.runner.kill9()
        here.front.held = None
        here.front.gate.set()
        here.runner.start()
        await here.until_logged(run_id, small["f3"])
        (tree,) = json.loads((here.attempt(run_id) / TREES).read_bytes())
        view = await here.until_final(run_id)

        assert view.state == "complete", view
        assert await here.output(run_id) == b"".join(content[name] for name in sorted(content))
        await here.assert_whole(view)
        assert not list((here.data / "mounts/new").iterdir()), "nothing half done is left"
        # The next one begins from nothing.
        await here.until_gone(run_id)
        forget(here, Path(tree), content)


def forget(here, tree: Path, content: dict[str, bytes]) -> None:
    """Remove a resource from the machine, by hand, while nothing uses it."""
    tree.rename(tree.with_name(f".gone-{tree.name}-1"))
    for data in content.values():
        digest = hashlib.sha256(data).hexdigest()
        for path in (here.data / "mounts/blobs" / digest[:2]).glob(f"{digest}*"):
            path.unlink()


@pytest.mark.parametrize("way", ["unshare", pytest.param("bubblewrap", marks=needs_bubblewrap)])
async def test_a_platform_below_a_root_of_mounts_is_out_of_sight_bar_what_runs_need(services, way):
    if not os.access("/mnt", os.W_OK):
        pytest.skip("nobody but root writes to /mnt")
    async with room(services, "/mnt", SPELL_ISOLATION=way) as here:
        manifest = await stow(here, {"a": b"a\n"})

        run_id = await here.create(
            f"cat /mnt/m/a; python -c 'print(2)'; ls {here.data}; ls {here.data}/mounts && echo seen; ls /mnt",
            mounts=[mount(here, manifest, "/mnt/m")],
        )
        view = await here.until_final(run_id)

        output = (await here.output(run_id)).decode().split()
        assert view.state == "complete"
        assert output[:2] == ["a", "2"]
        assert "seen" not in output
        assert "m" in output
        assert not [line for line in await here.lines(run_id) if "Not saved" in line], (
            "it has written nothing"
        )


async def test_a_runner_that_is_killed_at_any_moment_of_mounting_leaves_nothing_half_done(rooms):
    here = await rooms("unshare")
    moments = random.Random(5)
    for number in range(5):
        here.mend()
        content = {f"d{at % 7}/f{at}": b"%d of %d\n" % (at, number) for at in range(150)}
        manifest = await stow(here, content, {"l": "d0/f0"})
        run_id = await here.create(
            "cat $(find /mnt/m -type f | sort)", mounts=[mount(here, manifest, "/mnt/m")]
        )
        await here.until_true(lambda: any("GET /manifests" in one for one in here.front.asked))
        await asyncio.sleep(moments.random() * 0.4)
        here.runner.kill9()
        here.runner.start()
        view = await here.until_final(run_id)

        assert view.state == "complete", view
        assert await here.output(run_id) == b"".join(content[path] for path in sorted(content))
        # What is not needed any more is removed while runs go on.
        await here.until_true(lambda: not list((here.data / "mounts/trees").glob(".*")))
        assert not list((here.data / "mounts/new").iterdir())
        await here.assert_whole(view)


async def test_the_log_says_how_far_a_long_mount_is(rooms):
    here = await rooms("unshare")
    large, small = b"x" * 1_500_000, b"y" * 500_000
    manifest = await stow(here, {"large": large, "small": small})
    here.front.gate.clear()
    here.front.held = re.compile(f"GET /blobs/{hashlib.sha256(small).hexdigest()}")

    run_id = await here.create("true", mounts=[mount(here, manifest, "/mnt/m")])
    await here.until_logged(run_id, b"Mounting runs/1: 1.5 MB of 2.0 MB")
    here.front.gate.set()
    view = await here.until_final(run_id)

    assert view.state == "complete"


async def test_a_file_that_comes_damaged_is_never_seen(rooms):
    here = await rooms("unshare")
    manifest = await stow(here, {"a": b"what it should be"})
    here.front.spoils = re.compile("GET /blobs/")

    run_id = await here.create("cat /mnt/m/a", mounts=[mount(here, manifest, "/mnt/m")])
    view = await here.until_final(run_id)

    assert (view.state, view.reason) == ("failed", "mount_failed")
    assert view.message == "runs/1 cannot be mounted: its file 'a' is damaged where it is kept"
    assert not list((here.data / "mounts/new").iterdir())


async def test_small_files_of_which_one_comes_damaged_together_are_all_right_by_themselves(rooms):
    here = await rooms("unshare")
    content = {f"f{number:02}": b"%d of many\n" % number for number in range(40)}
    manifest = await stow(here, content)
    here.front.spoils = re.compile("POST /blobs/unpack")

    run_id = await here.create("cat /mnt/m/*", mounts=[mount(here, manifest, "/mnt/m")])
    view = await here.until_final(run_id)

    assert view.state == "complete", view
    assert await here.output(run_id) == b"".join(content.values())


async def test_many_small_files_are_a_few_requests(rooms):
    here = await rooms("unshare")
    content = {f"d{number % 7}/f{number}": b"%d of more\n" % number for number in range(700)}
    manifest = await stow(here, content)

    run_id = await here.create("cat $(find /mnt/m -type f | sort)", mounts=[mount(here, manifest, "/mnt/m")])
    view = await here.until_final(run_id)

    assert view.state == "complete", view
    assert await here.output(run_id) == b"".join(content[path] for path in sorted(content))
    assert sum("POST /blobs/unpack" in one for one in here.front.asked) == 2
    assert not any("GET /blobs/" in one for one in here.front.asked)


@pytest.mark.parametrize("is_file", [False, True])
async def test_a_file_that_is_damaged_in_storage_is_named(rooms, is_file):
    here = await rooms("unshare")
    content = b"what %d should be" % is_file
    manifest = await stow(here, {"d/a": content})
    [kept] = here.services.storage_blobs.rglob(f"{hashlib.sha256(content).hexdigest()}.*")
    kept.write_bytes(content[:-1] + b"X")

    mounted = mount(here, manifest, "/mnt/m", "d/a" if is_file else "d", is_file=is_file)
    view = await here.until_final(await here.create("cat /mnt/m/a", mounts=[mounted]))

    assert (view.state, view.reason) == ("failed", "mount_failed")
    assert view.message == "runs/1 cannot be mounted: its file 'd/a' is damaged where it is kept"


async def test_what_is_not_in_storage_any_more_is_said_in_a_sentence(rooms):
    here = await rooms("unshare")

    run_id = await here.create("true", mounts=[mount(here, "0" * 64, "/mnt/m")])
    view = await here.until_final(run_id)

    assert (view.state, view.reason) == ("failed", "mount_failed")
    assert view.message == "runs/1 cannot be mounted: it is not in storage any more"
    assert view.message in await here.lines(run_id)


async def test_storage_that_is_away_is_waited_for(rooms):
    here = await rooms("unshare")
    manifest = await stow(here, {"a": b"late\n"})
    here.front.broken = re.compile("GET /(manifests|blobs)/")

    run_id = await here.create("cat /mnt/m/a", mounts=[mount(here, manifest, "/mnt/m")])
    await here.until_true(lambda: sum("GET /manifests" in one for one in here.front.asked) > 2)
    here.front.broken = re.compile("GET /blobs/")
    await here.until_true(lambda: sum("GET /blobs" in one for one in here.front.asked) > 2)
    here.front.broken = None
    view = await here.until_final(run_id)

    assert view.state == "complete"
    assert await here.output(run_id) == b"late\n"


async def test_a_run_that_is_killed_while_it_mounts_ends(rooms):
    here = await rooms("unshare")
    manifest = await stow(here, {"a": b"never"})
    here.front.gate.clear()
    here.front.held = re.compile("GET /blobs/")

    run_id = await here.create("true", mounts=[mount(here, manifest, "/mnt/m")])
    await here.until_state(run_id, "mounting")
    await here.client.end(run_id, "kill")
    view = await here.until_final(run_id)
    here.front.gate.set()

    assert view.state == "killed"


async def test_what_was_not_used_for_longest_makes_room_and_what_is_in_use_stays(services):
    """Room for two and a half resources: the one that a run stands on outlives younger ones."""
    async with room(
        services, SPELL_ISOLATION="unshare", SPELL_SLOTS="4", SPELL_MOUNT_CACHE_BYTES_MAX="250000"
    ) as here:
        manifests = [await stow(here, {"a": bytes([number]) * 100_000}) for number in range(4)]

        async def used(number: int) -> bool:
            here.front.asked.clear()
            run_id = await here.create("true", mounts=[mount(here, manifests[number], "/mnt/m")])
            assert (await here.until_final(run_id)).state == "complete"
            await here.until_gone(run_id)
            return not any("GET /blobs" in one for one in here.front.asked)

        holding = await here.create("echo up; sleep 60", mounts=[mount(here, manifests[0], "/mnt/m")])
        await here.until_logged(holding, b"up\n")

        assert not await used(1)
        assert not await used(2), "there is no room for three"
        assert not await used(1), "so the one that was not used for longest is gone"
        assert await used(0), "but not the one on which a run stands, which is older still"
        blobs = [path for path in (here.data / "mounts/blobs").rglob("*") if path.is_file()]
        assert sum(path.stat().st_size for path in blobs) <= 250_000
        await here.client.end(holding, "kill")
        await here.until_final(holding)

"""An environment is built once for all machines: another one fetches what was built, whatever breaks on the way."""

import json
import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from integration.runner.sharing import shared
from spell_proto.errors import ConflictError, NotFoundError
from spell_proto.http import Caller
from spell_runner.copies import FETCHING
from support.scheduler import until

pytestmark = pytest.mark.integration

SHOW = "python -c 'import alpha, sys; print(alpha.VERSION, sys.prefix)'; alpha"
ARCHIVES = re.compile("/archives/")


@pytest.fixture
async def near(services, postgres, tmp_path):
    async with shared(services, postgres, tmp_path) as made:
        made.index.add("alpha", "1.0", entry_point=True)
        yield made


async def until_stored(near, key):
    async def stored():
        return await near.digest(key)

    return await until(stored)


async def built(near):
    """An environment that is built and stored; its key and where it is."""
    ready = (await near.builder.ensure("alpha")).ready
    return ready["key"], ready["path"], await until_stored(near, ready["key"])


def copy(machine, key):
    return machine.data / "copies" / key


def flip(path: Path):
    """Damage a byte in the middle of a file."""
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("isolation", ["none", "unshare", "bubblewrap"])
async def test_what_one_machine_has_had_built_another_one_fetches(near, isolation):
    first = await near.machine(sees=True, isolation=isolation)
    second = await near.machine(sees=False, isolation=isolation)

    view, said, _ = await near.ran(first, SHOW, pip=["alpha"])
    there, again, lines = await near.ran(second, SHOW, pip=["alpha"])
    _, third, more = await near.ran(second, SHOW, pip=["alpha"])

    assert (view.state, there.state) == ("complete", "complete")
    key = (await near.builder.ensure("alpha")).ready["key"]
    path = near.builder.data / "environments" / key
    seen = copy(second, key) if isolation == "none" else path
    assert said == f"1.0 {path}\n1.0\n"
    assert again == third == f"1.0 {seen}\n1.0\n"
    assert FETCHING in lines
    assert FETCHING not in more
    assert near.told("environment built", key) == 1
    assert await first.client.states(view.id) == [
        *("requested", "building", "running", "saving", "pushing", "complete")
    ]


async def test_what_a_run_makes_and_sees_on_another_machine_is_as_it_is_anywhere(near):
    """The directory in which environments are is put together anew where it is not there: nothing else is."""
    second = await near.machine(sees=False, isolation="unshare")
    (near.directory / "beside").mkdir()
    (near.directory / "beside" / "file").write_text("seen\n")
    command = f"cat {near.directory}/beside/file; echo x > out; ls {near.builder.data}"

    view, said, _ = await near.ran(second, command, pip=["alpha"])

    assert said == "seen\nenvironments\n"
    assert view.state == "complete"
    assert list(await second.files(view)) == ["out"]


async def test_an_archive_that_is_damaged_is_made_anew_and_told_where_that_does_not_help(near):
    key, _, digest = await built(near)
    (stored,) = [path for path in near.stored() if path.name == digest]
    flip(stored)
    second = await near.machine(sees=False)
    third = await near.machine(sees=False)
    third.front.spoils = ARCHIVES

    view, said, _ = await near.ran(second, SHOW, pip=["alpha"])
    refused, _, lines = await near.ran(third, SHOW, pip=["alpha"])

    assert (view.state, said) == ("complete", f"1.0 {copy(second, key)}\n1.0\n")
    assert near.told("environment built", key) == 1
    assert (refused.state, refused.reason) == ("failed", "build_failed")
    assert "reaches this machine damaged: its SHA-256 is" in refused.message
    assert sum("is damaged; fetching it again" in line for line in lines) == 1
    assert not list((third.data / "copies").glob("*"))


async def test_a_copy_that_was_changed_is_fetched_again(near):
    key, _, _ = await built(near)
    second = await near.machine(sees=False)
    await near.ran(second, SHOW, pip=["alpha"])
    second.runner.kill9()  # what it believes, it forgets
    flip(next(copy(second, key).glob("lib/python*/site-packages/alpha.py")))
    second.runner.start()

    view, said, lines = await near.ran(second, SHOW, pip=["alpha"])

    assert (view.state, said) == ("complete", f"1.0 {copy(second, key)}\n1.0\n")
    assert any("is damaged; fetching it again" in line for line in lines)
    assert near.told("environment built", key) == 1


async def test_a_machine_that_dies_while_it_unpacks_begins_anew(near):
    near.index.add_large("alpha", "2.0", 4000)
    key = (await near.builder.ensure("alpha")).ready["key"]
    await until_stored(near, key)
    second = await near.machine(sees=False)
    copies = second.data / "copies"

    run_id = await second.create(
        "python -c 'import alpha; print(alpha.VERSION)'", environment={"pip": ["alpha"]}
    )
    await second.until_true(lambda: list(copies.glob(".new-*/lib/*/*/alpha_data/9*")))
    second.runner.kill9()
    assert not list(copies.glob("*.json"))
    second.runner.start()
    view = await second.until_final(run_id)

    assert view.state == "complete"
    assert await second.output(run_id) == b"2.0\n"
    assert sorted(path.name for path in copies.iterdir()) == [key, f"{key}.json"]


async def test_equal_runs_at_once_fetch_once(near):
    _, _, digest = await built(near)
    second = await near.machine(sees=False, SPELL_SLOTS="8")

    runs = [await second.create(SHOW, environment={"pip": ["alpha"]}) for _ in range(6)]
    views = [await second.until_final(run_id) for run_id in runs]

    assert {view.state for view in views} == {"complete"}
    assert second.front.asked.count(f"GET /archives/{digest}") == 1


async def test_a_run_stays_in_pushing_until_its_environment_is_stored(near):
    near.front.held = ARCHIVES
    first = await near.machine(sees=True)
    second = await near.machine(sees=False)

    run_id = await first.create("echo ran", environment={"pip": ["alpha"]})
    killed = await first.create("echo ran", environment={"pip": ["alpha"]})
    for number in (run_id, killed):
        await first.until_state(number, "pushing")
    waiting = await second.create(SHOW, environment={"pip": ["alpha"]})
    await second.until_logged(waiting, b"on its way to the shared cache; waiting for it")
    await first.client.end(killed, "kill")
    gone = await first.until_final(killed)
    assert (await first.client.get(run_id)).state == "pushing"
    assert (gone.state, gone.manifest) == ("killed", None)
    first.runner.kill9()
    first.runner.start()
    near.front.gate.set()
    views = [await first.until_final(run_id), await second.until_final(waiting)]

    assert {view.state for view in views} == {"complete"}
    assert (await second.output(waiting)).endswith(b"\n1.0\n")
    await first.assert_whole(views[0])


async def test_a_builder_that_dies_while_it_stores_begins_anew_and_leaves_nothing(near):
    near.front.held = re.compile("PUT /archives/")
    first = await near.machine(sees=True)
    run_id = await first.create("echo ran", environment={"pip": ["alpha"]})
    await first.until_state(run_id, "pushing")
    await first.until_true(lambda: any(asked.startswith("PUT /archives/") for asked in near.front.asked))
    spool = near.builder.data / "archives"

    await near.builder.end()
    left = list(spool.iterdir())
    near.front.held = None
    near.front.gate.set()
    await near.builder.start()
    view = await first.until_final(run_id)

    assert view.state == "complete"
    assert left == []
    (row,) = await near.rows(
        "SELECT archives.* FROM builder.archives JOIN builder.uses USING (key) WHERE packed_at IS NOT NULL"
    )
    assert row["digest"] in [path.name for path in near.stored()]


async def test_an_environment_that_cannot_be_stored_is_told_and_fails_nobody(near):
    near.front.full = ARCHIVES
    first = await near.machine(sees=True)

    view, said, lines = await near.ran(first, "echo ran", pip=["alpha"])

    assert (view.state, said) == ("complete", "ran\n")
    wanted = "The environment is not saved for other machines: the environment could not be shared: the disk of storage is full"
    assert wanted in lines


async def test_storage_and_builder_that_are_away_are_waited_for(near):
    key, _, _ = await built(near)
    second = await near.machine(sees=False)
    second.front.broken = ARCHIVES

    run_id = await second.create(SHOW, environment={"pip": ["alpha"]})
    await second.until_logged(run_id, b"Storage does not answer; waiting for it")
    await near.builder.end()
    second.front.broken = None
    await near.builder.start()
    view = await second.until_final(run_id)

    assert view.state == "complete"
    assert copy(second, key).is_dir()


async def test_a_builder_elsewhere_unpacks_what_was_built(near):
    key, _, digest = await built(near)
    other = await near.other_builder()

    ready = (await other.ensure("alpha")).ready
    check = await other.verify("alpha")

    assert (ready["key"], ready["cached"]) == (key, True)
    assert ready["path"].startswith(str(other.data))
    assert '"event":"environment fetched"' in other.log.read_text()
    assert f'"key":"{key}"' not in "".join(
        line for line in other.log.read_text().splitlines() if "environment built" in line
    )
    assert check.ok, check
    assert await near.digest(key) == digest


@pytest.mark.parametrize("how", ["damaged", "away"])
async def test_a_builder_that_cannot_have_an_archive_builds_again(near, how):
    key, path, digest = await built(near)
    Path(path).rename(near.directory / "elsewhere")
    if how == "damaged":
        flip(next(each for each in near.stored() if each.name == digest))
    else:
        near.front.broken = re.compile("GET /archives/")

    answer = await near.builder.ensure("alpha")

    assert answer.ready["key"] == key
    assert near.told("environment built", key) == 2
    assert any("shared cache" in line for line in answer.lines), answer.lines


async def test_a_disk_without_room_for_an_archive_is_told_as_that(near):
    _, path, _ = await built(near)
    Path(path).rename(near.directory / "elsewhere")
    spool = near.builder.data / "archives"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", str(spool)], check=True)
    try:
        answer = await near.builder.ensure("alpha")
    finally:
        subprocess.run(["umount", "--lazy", str(spool)], check=True)

    assert "The disk has no room for what the shared cache has; the environment is built here" in answer.lines
    assert answer.ready


async def test_archives_go_with_their_environments_but_not_while_somebody_may_fetch_them(near):
    key, _, digest = await built(near)
    await near.rows("UPDATE builder.uses SET over = true")

    await near.builder.call("DELETE", f"/environments/{key}")
    await near.builder.call("POST", "/environments/collect")
    kept = [path.name for path in near.stored()]
    await near.rows(
        "UPDATE builder.archives SET removed_at = now() - interval '2 hours', asked_at = now() WHERE digest = $1",
        digest,
    )
    await near.builder.call("POST", "/environments/collect")
    still = [path.name for path in near.stored()]
    await near.rows("UPDATE builder.archives SET asked_at = now() - interval '2 hours'")
    await near.builder.call("POST", "/environments/collect")
    left = [path.name for path in near.stored()]

    assert await near.digest(key) is None
    assert digest in kept
    assert digest in still
    assert digest not in left
    assert not await near.rows("SELECT 1 FROM builder.archives WHERE digest = $1", digest)
    again = (await near.builder.ensure("alpha")).ready
    assert (again["key"], near.told("environment built", key)) == (key, 2)


async def test_copies_that_nobody_uses_make_room(near):
    near.index.add("beta", "1.0")
    second = await near.machine(sees=False, SPELL_ENVIRONMENTS_BYTES_MAX="1")
    await near.ran(second, "true", pip=["alpha"])
    records = list((second.data / "copies").glob("*.json"))
    await near.ran(second, "true", pip=["beta"])
    assert all(record.exists() for record in records)  # used lately
    for record in records:
        os.utime(record, (time.time() - 7200,) * 2)

    await near.ran(second, "true", pip=["alpha", "beta"])

    assert not any(record.exists() or record.with_suffix("").exists() for record in records)


async def test_conda_packages_see_their_own_path_and_are_refused_where_that_cannot_be(near):
    near.channel.add_python()
    near.channel.add("delta", "1.0")
    near.channel.add_data("epsilon", "1.0")
    text = "dependencies: [python, delta, epsilon]\n"
    ready = (await near.builder.ensure(conda=text)).ready
    await until_stored(near, ready["key"])
    second = await near.machine(sees=False, isolation="unshare")
    third = await near.machine(sees=False)

    view, said, _ = await near.ran(second, "delta; epsilon; echo $CONDA_PREFIX", conda=text)
    refused, _, _ = await near.ran(third, "delta", conda=text)

    assert view.state == "complete"
    assert said.splitlines()[-1] == ready["path"]
    assert ready["path"] in said.splitlines()[1]
    assert refused.reason == "build_failed"
    assert "conda packages work only where they were installed" in refused.message


async def test_without_sharing_a_machine_elsewhere_is_told_so(near):
    await near.builder.end()
    near.builder.environment["SPELL_SHARE_ENVIRONMENTS"] = "0"
    await near.builder.start()
    second = await near.machine(sees=False)

    view, _, _ = await near.ran(second, "true", pip=["alpha"])

    assert view.reason == "build_failed"
    assert "is on another machine, and the builder shares none" in view.message
    assert not near.stored()


async def test_a_machine_elsewhere_is_told_that_system_packages_stay_where_they_are(near):
    key = "e" * 64
    about = {"path": "/python", "version": "3.12", "platform": "x", "libc": "y", "base": "machine sha256:0"}
    query = "INSERT INTO builder.environments (key, resolved, interpreter) VALUES ($1, '', $2)"
    await near.rows(query, key, json.dumps(about))

    with pytest.raises(ConflictError, match="its system packages are those of the server's machine"):
        await near.builder.call("POST", f"/environments/{key}/archive", fetching=True)


async def test_no_owner_can_read_an_archive(near):
    _, _, digest = await built(near)

    async with Caller(near.services.storage_url) as caller:
        for owner_id in (1, 2):
            with pytest.raises(NotFoundError):
                async with caller.open("GET", f"/blobs/{digest}", params={"owner_id": owner_id}):
                    pass

"""Buckets in runs: fetched once for as long as they stay the same, whoever dies meanwhile; what goes wrong is named."""

import re

import pytest
from aiohttp import web

from spell_proto import http
from spell_proto.journal import Decoder
from spell_proto.mounts import Mount
from spell_runner.directory import Directory
from spell_runner.mounts.bucket_source import BucketSource
from spell_runner.notes import Notes
from support import buckets

pytestmark = pytest.mark.asyncio(loop_scope="session")
TREE = {
    "annual/2024.csv": b"rain\n",
    "annual/2025.csv": b"sun\n",
    "annual/deep/x": b"x\n",
    "readme": b"read me\n",
}


@pytest.fixture
def clouds(services, tmp_path):
    with buckets.clouds(tmp_path, services.clouds_port) as made:
        yield made


def mount(url, target):
    """A mount as the gateway hands it on."""
    return Mount(resource=url, target=target, bucket=url).model_dump()


def asked(here, what):
    """How often storage was asked for this since the last time."""
    count = sum(one == f"GET /buckets/{what}" for one in here.front.asked)
    here.front.asked[:] = [one for one in here.front.asked if one != f"GET /buckets/{what}"]
    return count


async def ended(here, command, *mounts):
    run_id = await here.create(command, mounts=list(mounts))
    return run_id, await here.until_final(run_id)


@pytest.mark.parametrize("scheme", ["s3", "gs"])
async def test_a_bucket_is_seen_where_it_is_mounted_and_fetched_once(rooms, clouds, scheme):
    here = await rooms("unshare")
    name = f"mounted{scheme}"
    clouds.bucket(name, {key: scheme.encode() + data for key, data in TREE.items()})
    mounts = [
        mount(f"{scheme}://{name}", "/mnt/all"),
        mount(f"{scheme}://{name}/annual", "/data/annual"),
        mount(f"{scheme}://{name}/readme", "/spell/readme"),
    ]
    command = (
        "cat /mnt/all/annual/deep/x /data/annual/2025.csv /spell/readme; cd /mnt/all; find . -type f | sort"
    )

    run_id, view = await ended(here, command, *mounts)
    first = (asked(here, "list"), asked(here, "object"))
    again, _ = await ended(here, command, *mounts)

    assert view.state == "complete", view
    assert view.saved_files == 0
    output = (await here.output(run_id)).decode().splitlines()
    assert output == [f"{scheme}x", f"{scheme}sun", f"{scheme}read me", *(f"./{key}" for key in sorted(TREE))]
    assert first == (3, 4), "each object once, however often it is mounted"
    assert (await here.output(again)).decode().splitlines() == output
    assert (asked(here, "list"), asked(here, "object")) == (3, 0), "what is here is known by its ETags alone"


async def test_only_what_has_changed_is_fetched_again(rooms, clouds):
    here = await rooms("unshare")
    clouds.bucket("growing", {"a": b"one\n", "b": b"two\n"})
    await ended(here, "true", mount("s3://growing", "/mnt/m"))
    asked(here, "object")
    clouds.put("growing", "b", b"three\n")
    clouds.put("growing", "c", b"four\n")

    run_id, _ = await ended(here, "cat /mnt/m/*", mount("s3://growing", "/mnt/m"))

    assert await here.output(run_id) == b"one\nthree\nfour\n"
    assert asked(here, "object") == 2


async def test_what_a_run_writes_stays_its_own(rooms, clouds):
    here = await rooms("unshare")
    clouds.bucket("shared", {"a": b"as it is\n"})
    spoil = "echo mine > a; rm -f /mnt/m/a; echo b > /mnt/m/b; cat a"

    run_id, view = await ended(
        here, f"cd /spell/m; {spoil}", *(mount("s3://shared", at) for at in ("/spell/m", "/mnt/m"))
    )
    again, _ = await ended(here, "cat /mnt/m/*", mount("s3://shared", "/mnt/m"))

    assert await here.output(run_id) == b"mine\n"
    assert view.saved_files == 1
    assert await here.output(again) == b"as it is\n"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("s3://nowhere", "'s3://nowhere': there is no such bucket"),
        ("s3://there/nothing", "'s3://there/nothing': no such object, nor any below it"),
        ("s3://empty", "there is nothing in it"),
        ("s3://locked", "'s3://locked/secret' may not be read: it is not public, and none are stored for it; an administrator can: spell cluster add-bucket s3://locked"),
        ("gs://locked/secret", "'gs://locked/secret' may not be read: it is not public, and none are stored for it; an administrator can: spell cluster add-bucket gs://locked"),
        ("s3://paths", "'s3://paths' holds an object whose key is no path: 'a//b'; name what is beside it"),
        ("s3://long", "a path that is too long: 'xxx"),
    ],
)  # fmt: skip
async def test_what_cannot_be_mounted_is_named_with_the_cause(rooms, clouds, url, why):
    here = await rooms("unshare")
    clouds.bucket("there", {"a": b"x"})
    clouds.bucket("empty")
    clouds.bucket("locked", {"secret": b"x"}, public=False)
    clouds.bucket("paths", {"a//b": b"x"})
    clouds.bucket("long", {"x" * 300: b"x"})

    run_id, view = await ended(here, "true", mount(url, "/mnt/m"))

    assert (view.state, view.reason) == ("failed", "mount_failed")
    assert view.message.startswith(f"{url} cannot be mounted: {why}")
    assert view.message in await here.lines(run_id)


async def test_a_file_beside_a_directory_of_its_name_is_left_out_and_said(rooms, clouds):
    here = await rooms("unshare")
    clouds.bucket("both", {"d": b"file", "d/x": b"x", "e/": b"", "e/y": b"y", "nothing/": b""})

    run_id, _ = await ended(here, "cd /mnt/m; find . -type f | sort", mount("s3://both", "/mnt/m"))

    assert await here.output(run_id) == b"./d/x\n./e/y\n"
    assert "Not mounted: d: there is a directory of that name" in await here.lines(run_id)


async def test_an_object_that_changes_while_it_is_mounted_is_not_mixed_with_what_was_listed(rooms, clouds):
    here = await rooms("unshare")
    clouds.bucket("moving", {"a": b"listed"})
    here.front.gate.clear()
    here.front.held = re.compile("GET /buckets/object")

    run_id = await here.create("cat /mnt/m/a", mounts=[mount("s3://moving", "/mnt/m")])
    await here.until_true(lambda: asked(here, "object"))
    clouds.put("moving", "a", b"other!")
    here.front.gate.set()
    view = await here.until_final(run_id)

    assert (view.reason, view.message) == (
        "mount_failed",
        "s3://moving cannot be mounted: 's3://moving/a' is another object by now",
    )


async def test_the_rest_of_an_object_is_asked_for_where_it_broke_off(services, clouds, tmp_path):
    clouds.bucket("broken", {"dir/digits": b"0123456789"})
    async with http.Caller(services.storage_url) as storage:
        source = BucketSource(storage, "s3://broken/dir", Notes(Directory(tmp_path), lambda: None))
        look = await source.look()
        (item,) = await source.content()

        async with source.read(item, 4) as pieces:
            rest = b"".join([piece async for piece in pieces])

    assert (look.is_file, item.path, item.size, item.sha256) == (False, "digits", 10, None)
    assert rest == b"456789"


async def test_a_long_listing_is_told_of_in_the_log(tmp_path):
    """What answers here is the listing of a bucket, with nothing behind it."""
    line = b'{"key":"k%d","size":1,"etag":"e","modified_at":"2026-11-22T00:00:00Z"}\n'

    async def listing(_request):
        return web.Response(body=b"".join(line % at for at in range(3)) + b'\n{"end":3}\n')

    app = web.Application()
    app.router.add_get("/buckets/list", listing)
    directory = Directory(tmp_path)
    async with (
        http.serve(app, f"unix://{tmp_path}/s.sock"),
        http.Caller(f"unix://{tmp_path}/s.sock") as storage,
    ):
        await BucketSource(storage, "s3://many", Notes(directory, lambda: None), progress_seconds=0).look()

    said = [one.json()["text"] for one in Decoder().feed((tmp_path / "journal").read_bytes())]
    assert said == [f"Listing s3://many: {count} objects so far" for count in (0, 1, 2, 3, 3)]


async def test_a_runner_that_is_killed_while_it_fetches_a_bucket_goes_on_where_it_was(rooms, clouds):
    here = await rooms("unshare")
    clouds.bucket("killed", {"a": b"a of the killed\n", "b": b"b of the killed\n"})
    for point in ("list", "object"):
        here.mend()
        here.front.gate.clear()
        here.front.held = re.compile(f"GET /buckets/{point}")
        run_id = await here.create("cat /mnt/m/*", mounts=[mount("s3://killed", "/mnt/m")])
        await here.until_true(lambda point=point: asked(here, point))
        here.runner.kill9()
        here.front.held = None
        here.front.gate.set()
        here.runner.start()
        view = await here.until_final(run_id)

        assert view.state == "complete", view
        assert await here.output(run_id) == b"a of the killed\nb of the killed\n"
        clouds.put("killed", "a", b"a of the killed\n")


async def test_a_cloud_that_is_away_is_waited_for_and_named(rooms, services, tmp_path):
    here = await rooms("unshare")

    run_id = await here.create("cat /mnt/m/a", mounts=[mount("s3://late", "/mnt/m")])
    await here.until_logged(run_id, b"s3://late does not answer; waiting for it")
    here.front.gate.clear()
    here.front.held = re.compile("GET /buckets/list")
    with buckets.clouds(tmp_path, services.clouds_port) as clouds:
        clouds.bucket("late", {"a": b"late\n"})
        here.front.gate.set()
        view = await here.until_final(run_id)

    assert (view.state, await here.output(run_id)) == ("complete", b"late\n")

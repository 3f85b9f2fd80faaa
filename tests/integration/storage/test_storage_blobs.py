"""Blobs and manifests through the real service."""

import asyncio
import hashlib
import itertools
import json
import os

import pytest
from aiohttp import ClientError
from pydantic import TypeAdapter

from spell_proto.blob_packs import pack
from spell_proto.errors import GoneError, RefusedError
from spell_proto.views import Manifest, ManifestStored, Verdict

pytestmark = pytest.mark.integration

STORED = TypeAdapter(ManifestStored)
MANIFEST = TypeAdapter(Manifest)
VERDICT = TypeAdapter(Verdict)
_owners = itertools.count(5_000)


@pytest.fixture
def owner_id():
    return next(_owners)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


async def put(api, owner_id, data, digest=None):
    path = f"/blobs/{digest or sha256(data)}"
    async with api.open("PUT", path, params={"owner_id": owner_id}, data=data) as response:
        assert response.status == 201
        assert await response.read() == b"{}"
    return digest or sha256(data)


async def get(api, owner_id, digest, **headers):
    async with api.open(
        "GET", f"/blobs/{digest}", params={"owner_id": owner_id}, headers=headers
    ) as response:
        return response.status, await response.read()


async def missing(api, owner_id, *digests):
    async with api.open(
        "POST",
        "/blobs/missing",
        params={"owner_id": owner_id},
        data=json.dumps({"digests": digests}),
        headers={"Content-Type": "application/json"},
    ) as response:
        return json.loads(await response.read())["missing"]


def entry(path, data, **more):
    return {
        "path": path,
        "size": len(data),
        "sha256": sha256(data),
        "mode": 0o644,
        "modified_at": "2026-01-02T03:04:05+00:00",
        **more,
    }


async def put_manifest(api, owner_id, *entries, deleted=()):
    async with api.open(
        "PUT",
        "/manifests",
        params={"owner_id": owner_id},
        data=json.dumps({"entries": entries, "deleted": deleted}),
        headers={"Content-Type": "application/json"},
    ) as response:
        return STORED.validate_json(await response.read())


async def manifest_check(api, owner_id, digest):
    [check] = await manifest_checks(api, owner_id, digest)
    return check


async def manifest_checks(api, owner_id, *digests):
    asked = "".join(f"&manifest={digest}" for digest in digests)
    async with api.open("GET", f"/verify?owner_id={owner_id}{asked}") as response:
        return VERDICT.validate_json(await response.read()).checks


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, 20_000_000])
async def test_a_blob_comes_back_as_it_went_in(api, owner_id, size):
    data = os.urandom(size)

    digest = await put(api, owner_id, data)

    assert await get(api, owner_id, digest) == (200, data)


async def test_a_blob_is_served_in_ranges(api, owner_id):
    data = os.urandom(3_000_000)
    digest = await put(api, owner_id, data)

    assert await get(api, owner_id, digest, Range="bytes=10-19") == (206, data[10:20])
    assert await get(api, owner_id, digest, Range="bytes=2000000-") == (206, data[2_000_000:])
    assert await get(api, owner_id, digest, Range="bytes=5-", **{"If-Range": '"other"'}) == (200, data)
    async with api.open("HEAD", f"/blobs/{digest}", params={"owner_id": owner_id}) as response:
        assert response.headers["Content-Length"] == str(len(data))
        assert response.headers["ETag"] == f'"{digest}"'


@pytest.mark.parametrize("size", [100, 12_000_000])
async def test_a_blob_with_another_digest_is_refused_and_not_kept(api, storage, owner_id, size):
    digest = sha256(os.urandom(8))

    with pytest.raises(RefusedError) as refused:
        await put(api, owner_id, os.urandom(size), digest)

    assert (refused.value.status, refused.value.code) == (422, "digest_mismatch")
    assert await missing(api, owner_id, digest) == [digest]
    assert not list((storage.data / "blobs").rglob(f"{digest}*"))


async def test_what_another_owner_has_is_missing_and_unknown(api, owner_id):
    data = os.urandom(100)
    digest = await put(api, owner_id, data)
    other = next(_owners)

    assert await missing(api, owner_id, digest) == []
    assert await missing(api, other, digest, digest) == [digest]
    with pytest.raises(RefusedError) as refused:
        await get(api, other, digest)
    assert (refused.value.status, refused.value.code) == (404, "blob_unknown")


async def test_a_blob_whose_file_was_lost_is_missing(api, storage, owner_id):
    digest = await put(api, owner_id, os.urandom(100))
    [path] = (storage.data / "blobs").rglob(f"{digest}.*")
    path.unlink()

    assert await missing(api, owner_id, digest) == [digest]


async def test_equal_manifests_have_equal_digests(api, owner_id):
    one, two = os.urandom(10), os.urandom(20)
    for data in (one, two):
        await put(api, owner_id, data)
    link = entry("link", b"", link="a/one")

    stored = await put_manifest(
        api, owner_id, entry("a/one", one), entry("two", two), link, deleted=["x", "y"]
    )
    again = await put_manifest(
        api,
        owner_id,
        link,
        entry("two", two, modified_at="2026-01-02T05:04:05+02:00"),
        entry("a/one", one),
        deleted=["y", "x", "x"],
    )

    assert stored == again
    assert (stored.files, stored.bytes) == (2, 30)
    async with api.open("GET", f"/manifests/{stored.digest}", params={"owner_id": owner_id}) as response:
        body = await response.read()
    assert sha256(body) == stored.digest
    assert [item.path for item in MANIFEST.validate_json(body).entries] == ["a/one", "link", "two"]


async def test_a_manifest_needs_all_its_blobs(api, owner_id):
    there, lacking = os.urandom(10), os.urandom(10)
    await put(api, owner_id, there)

    with pytest.raises(RefusedError) as refused:
        await put_manifest(api, owner_id, entry("a", there), entry("b", lacking))

    assert (refused.value.status, refused.value.code) == (422, "blob_missing")
    assert sha256(lacking) in refused.value.message


@pytest.mark.parametrize("path", ["", "/etc/passwd", "a/../b", "./a", "a//b", "nul\0", ".."])
async def test_a_manifest_names_only_paths_below_its_resource(api, owner_id, path):
    data = os.urandom(10)
    await put(api, owner_id, data)

    with pytest.raises(RefusedError) as refused:
        await put_manifest(api, owner_id, entry(path, data))

    assert (refused.value.status, refused.value.code) == (422, "manifest_invalid")


async def test_another_owner_sees_no_manifest(api, owner_id):
    stored = await put_manifest(api, owner_id)

    with pytest.raises(RefusedError) as refused:
        async with api.open("GET", f"/manifests/{stored.digest}", params={"owner_id": next(_owners)}):
            pass

    assert (refused.value.status, refused.value.code) == (404, "manifest_unknown")


async def test_verification_reads_every_saved_file_again(api, storage, owner_id):
    data = os.urandom(1000)
    await put(api, owner_id, data)
    stored = await put_manifest(api, owner_id, entry("out/a", data))

    whole = await manifest_check(api, owner_id, stored.digest)
    [path] = (storage.data / "blobs").rglob(f"{sha256(data)}.*")
    path.write_bytes(data[:-1] + b"!")
    rotten = await manifest_check(api, owner_id, stored.digest)
    await put(api, owner_id, data)
    healed = await manifest_check(api, owner_id, stored.digest)
    for path in (storage.data / "blobs").rglob(f"{sha256(data)}.*"):
        path.unlink()
    lost = await manifest_check(api, owner_id, stored.digest)

    assert (whole.ok, whole.checked) == (True, 1)
    assert not rotten.ok
    assert "out/a" in rotten.detail
    assert healed.ok
    assert not lost.ok


async def test_each_of_several_manifests_has_its_own_verdict(api, storage, owner_id):
    same, other, bad = os.urandom(100), os.urandom(100), os.urandom(100)
    for data in (same, other, bad):
        await put(api, owner_id, data)
    whole = await put_manifest(api, owner_id, entry("a", same), entry("b", other))
    rotten = await put_manifest(api, owner_id, entry("a", same), entry("c", bad), entry("d", bad))
    [path] = (storage.data / "blobs").rglob(f"{sha256(bad)}.*")
    path.write_bytes(bad[:-1] + b"!")

    checks = await manifest_checks(api, owner_id, rotten.digest, whole.digest, sha256(b"none"), whole.digest)

    assert [(check.ok, check.checked) for check in checks] == [(False, 3), (True, 2), (False, 0), (True, 2)]
    assert checks[0].detail == "c: the blob is damaged or lost; d: the blob is damaged or lost"
    assert checks[2].detail.startswith("the manifest cannot be read")


@pytest.mark.parametrize("size", [100, 3_000_000])
async def test_a_flipped_bit_is_never_given_out_and_asked_for_again(api, storage, owner_id, size):
    data = os.urandom(size)
    digest = await put(api, owner_id, data)
    [path] = (storage.data / "blobs").rglob(f"{digest}.*")
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))

    part = await get(api, owner_id, digest, Range="bytes=0-9") if size > 1 << 20 else None
    with pytest.raises((RefusedError, ClientError)):
        await get(api, owner_id, digest)
    with pytest.raises(GoneError) as refused:
        await get(api, owner_id, digest, Range="bytes=-1")
    lacking = await missing(api, owner_id, digest)
    await put(api, owner_id, data)

    assert part in {None, (206, data[:10])}
    assert refused.value.code == "blob_damaged"
    assert lacking == [digest]
    assert await missing(api, owner_id, digest) == []
    assert await get(api, owner_id, digest) == (200, data)


async def test_what_one_owner_sends_again_is_whole_for_the_other_too(api, storage, owner_id):
    data, other = os.urandom(100), next(_owners)
    for owner in (owner_id, other):
        await put(api, owner, data)
    [path] = (storage.data / "blobs").rglob(f"{sha256(data)}.*")
    path.unlink()

    with pytest.raises(GoneError):
        await get(api, owner_id, sha256(data))
    await put(api, other, data)

    assert await get(api, owner_id, sha256(data)) == (200, data)


async def put_pack(api, owner_id, blobs):
    async with api.open("POST", "/blobs/pack", params={"owner_id": owner_id}, data=pack(blobs)) as response:
        assert response.status == 201


async def test_small_blobs_come_together_and_all_of_them_are_there(api, owner_id):
    contents = {sha256(data): data for data in (os.urandom(number) for number in range(300))}

    await put_pack(api, owner_id, contents.items())
    await put_pack(api, owner_id, [*contents.items(), (sha256(b"one more"), b"one more")])

    assert await missing(api, owner_id, *contents, sha256(b"one more")) == []
    for digest in list(contents)[::50]:
        assert await get(api, owner_id, digest) == (200, contents[digest])


async def test_of_a_pack_with_another_digest_nothing_is_kept(api, owner_id):
    good, bad = os.urandom(10), os.urandom(10)

    with pytest.raises(RefusedError) as refused:
        await put_pack(api, owner_id, [(sha256(good), good), (sha256(b"other"), bad)])

    assert refused.value.code == "digest_mismatch"
    assert await missing(api, owner_id, sha256(good), sha256(bad)) == [sha256(good), sha256(bad)]


async def test_packs_with_the_same_blobs_may_come_at_once(api, owner_id):
    contents = [(sha256(data), data) for data in (os.urandom(50) for _ in range(100))]
    others = [next(_owners) for _ in range(4)]

    async with asyncio.TaskGroup() as tasks:
        for number, owner in enumerate(others):
            tasks.create_task(put_pack(api, owner, contents if number % 2 else contents[::-1]))

    for owner in others:
        assert await missing(api, owner, *(digest for digest, _ in contents)) == []

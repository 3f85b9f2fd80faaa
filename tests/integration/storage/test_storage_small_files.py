"""Many small files at once through the real service: given out together, and brought together into an upload."""

import hashlib
import itertools
import json
import os

import pytest
from pydantic import TypeAdapter

from spell_proto.blob_packs import BLOB_BYTES_MAX, PACK_BLOBS_MAX, pack, unpack
from spell_proto.errors import GoneError, InvalidError, NotFoundError
from spell_proto.uploads import UploadView

pytestmark = pytest.mark.integration
UPLOAD = TypeAdapter(UploadView)
JSON = {"Content-Type": "application/json"}
_owners = itertools.count(71_000)


@pytest.fixture
def owner_id():
    return next(_owners)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def named(*contents):
    return {sha256(data): data for data in contents}


async def put(api, owner_id, blobs):
    async with api.open("POST", "/blobs/pack", params={"owner_id": owner_id}, data=pack(blobs.items())):
        pass


async def got(api, owner_id, digests):
    body, params = json.dumps({"digests": list(digests)}), {"owner_id": owner_id}
    async with api.open("POST", "/blobs/unpack", params=params, data=body, headers=JSON) as answer:
        return unpack(await answer.read())


async def missing(api, owner_id, digests):
    body, params = json.dumps({"digests": list(digests)}), {"owner_id": owner_id}
    async with api.open("POST", "/blobs/missing", params=params, data=body, headers=JSON) as answer:
        return json.loads(await answer.read())["missing"]


def place(storage, data):
    [path] = (storage.data / "blobs").rglob(f"{sha256(data)}.*")
    return path


async def test_small_blobs_are_given_out_together(api, owner_id):
    blobs = named(b"", *(os.urandom(number * 30) for number in range(1, PACK_BLOBS_MAX)))
    await put(api, owner_id, blobs)

    assert await got(api, owner_id, blobs) == blobs
    assert await got(api, owner_id, []) == {}


async def test_what_is_not_ones_own_or_not_small_is_left_out(api, owner_id):
    mine, theirs, large = os.urandom(10), os.urandom(10), os.urandom(BLOB_BYTES_MAX + 1)
    await put(api, owner_id, named(mine))
    await put(api, next(_owners), named(theirs))
    async with api.open("PUT", f"/blobs/{sha256(large)}", params={"owner_id": owner_id}, data=large):
        pass

    assert await got(api, owner_id, named(mine, theirs, large, b"nobody's")) == named(mine)


async def test_what_is_damaged_or_lost_is_left_out_and_says_so_by_itself(api, storage, owner_id):
    whole, damaged, shorter, lost = (os.urandom(100) for _ in range(4))
    blobs = named(whole, damaged, shorter, lost)
    await put(api, owner_id, blobs)
    place(storage, damaged).write_bytes(damaged[:-1] + bytes([damaged[-1] ^ 1]))
    place(storage, shorter).write_bytes(shorter[:-1])
    place(storage, lost).unlink()

    assert await got(api, owner_id, blobs) == named(whole)
    for data in (damaged, shorter, lost):
        with pytest.raises(GoneError, match=sha256(data)):
            async with api.open("GET", f"/blobs/{sha256(data)}", params={"owner_id": owner_id}):
                pass


@pytest.mark.parametrize(
    ("digests", "code"),
    [
        ([f"{number:064x}" for number in range(PACK_BLOBS_MAX + 1)], "too_many_digests"),
        (["../../etc/passwd"], "sha256_invalid"),
        (["A" * 64], "sha256_invalid"),
        ([7], "field_invalid"),
    ],
)
async def test_what_cannot_be_asked_for_is_refused_in_a_sentence(api, owner_id, digests, code):
    with pytest.raises(InvalidError) as refused:
        await got(api, owner_id, digests)

    assert refused.value.code == code
    assert refused.value.message.startswith("digests")


async def begun(api, owner_id, name="many", **more):
    params = {"owner_id": owner_id}
    return (await api.call("POST", "/uploads", UPLOAD, params=params, body={"name": name} | more)).id


async def bring(api, owner_id, upload_id, body):
    params = {"owner_id": owner_id}
    async with api.open("POST", f"/uploads/{upload_id}/pack", params=params, data=body) as answer:
        assert answer.status == 204


async def complete(api, owner_id, upload_id, files):
    entries = [
        {
            "path": path,
            "size": len(data),
            "sha256": sha256(data),
            "mode": 0o644,
            "modified_at": "2026-01-02T03:04:05Z",
        }
        for path, data in files.items()
    ]
    body, params = {"entries": entries, "deleted": []}, {"owner_id": owner_id}
    return await api.call("POST", f"/uploads/{upload_id}/complete", UPLOAD, params=params, body=body)


async def test_files_of_an_upload_are_brought_together(api, owner_id):
    files = {f"d/{number}": os.urandom(20) for number in range(50)}
    blobs = named(*files.values())
    upload_id = await begun(api, owner_id)

    await bring(api, owner_id, upload_id, pack(blobs.items()))
    await bring(api, owner_id, upload_id, pack(list(blobs.items())[:10]))
    done = await complete(api, owner_id, upload_id, files)

    assert (done.files, done.bytes) == (50, 1_000)
    assert await got(api, owner_id, blobs) == blobs


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (pack([("ab" * 32, b"of another digest"), *named(b"whole").items()]), "digest_mismatch"),
        (pack(named(b"whole").items())[:-1], "pack_invalid"),
        (bytes.fromhex("ab" * 32) + b"\xff\xff\xff\xff" + b"x", "pack_invalid"),
        (pack(named(b"x" * (BLOB_BYTES_MAX + 1)).items()), "pack_invalid"),
        (pack((f"{number:064x}", b"") for number in range(PACK_BLOBS_MAX + 1)), "pack_invalid"),
        (b"no pack", "pack_invalid"),
    ],
)
async def test_of_a_pack_that_lies_nothing_is_kept(api, owner_id, body, code):
    upload_id = await begun(api, owner_id)

    with pytest.raises(InvalidError) as refused:
        await bring(api, owner_id, upload_id, body)

    assert refused.value.code == code
    assert await missing(api, owner_id, named(b"whole")) == [sha256(b"whole")]


async def test_a_pack_needs_an_upload_of_ones_own_that_waits_for_files(api, owner_id):
    blobs = named(b"a")
    theirs = await begun(api, next(_owners))
    finished = await begun(api, owner_id)
    await bring(api, owner_id, finished, pack(blobs.items()))
    await complete(api, owner_id, finished, {"a": b"a"})

    for upload_id in (theirs, finished, 2**40):
        with pytest.raises(NotFoundError, match=f"no upload {upload_id}"):
            await bring(api, owner_id, upload_id, pack(blobs.items()))

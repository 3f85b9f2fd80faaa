"""Limits of what one owner may have saved, through the real service."""

import asyncio
import hashlib
import itertools
import json
import os

import pytest
from pydantic import TypeAdapter

from spell_proto.errors import RefusedError
from spell_proto.views import FilesUse, ManifestStored

pytestmark = pytest.mark.integration
STORED = TypeAdapter(ManifestStored)
USE = TypeAdapter(FilesUse)
_owners = itertools.count(71_000)


@pytest.fixture(scope="module")
def limited(postgres, module_storage):
    return module_storage(postgres.url("storage"), SPELL_OWNER_BYTES_MAX="100000", SPELL_OWNER_FILES_MAX="5")


@pytest.fixture
async def api(limited):
    async with limited.client() as caller:
        yield caller


@pytest.fixture
def owner():
    return next(_owners)


async def save(api, owner, *, beyond=0, **files):
    entries = []
    for path, data in files.items():
        digest = hashlib.sha256(data).hexdigest()
        async with api.open("PUT", f"/blobs/{digest}", params={"owner_id": owner}, data=data):
            pass
        entry = {"path": path, "size": len(data), "sha256": digest, "mode": 0o644}
        entries.append({**entry, "modified_at": "2026-01-02T03:04:05+00:00"})
    body = {"entries": entries}
    params = {"owner_id": owner, "beyond": beyond}
    return await api.call("PUT", "/manifests", STORED, params=params, body=body)


async def used(api, owner):
    return await api.call("GET", f"/files/{owner}/use", USE)


async def test_contents_count_once_however_often_they_are_saved(api, owner):
    data = os.urandom(60_000)

    await save(api, owner, a=data)
    await save(api, owner, b=data, c=data, d=b"x")

    assert await used(api, owner) == FilesUse(files=2, bytes=60_001, files_max=5, bytes_max=100_000)


async def test_what_would_pass_a_limit_is_refused_and_leaves_no_manifest(api, owner):
    await save(api, owner, a=os.urandom(60_000))

    with pytest.raises(RefusedError) as too_large:
        await save(api, owner, b=os.urandom(60_000))
    with pytest.raises(RefusedError) as too_many:
        await save(api, owner, **{f"f{number}": b"%d" % number for number in range(5)})

    assert (too_large.value.status, too_large.value.code) == (413, "quota_exceeded")
    assert "117.2 KB, 97.66 KB are allowed" in too_large.value.message
    assert "6 files, 5 are allowed" in too_many.value.message
    assert (await used(api, owner)).files == 1
    await save(api, next(_owners), b=os.urandom(60_000))


async def refusal(attempt):
    try:
        await attempt()
    except RefusedError as error:
        return error
    return None


async def test_what_a_run_has_made_is_kept_beyond_a_limit_and_nothing_new_begins(api, owner):
    async def begin():
        async with api.open("GET", f"/files/{owner}/room"):
            pass

    below = await save(api, owner, a=os.urandom(60_000))
    await begin()
    beyond = await save(api, owner, beyond=1, b=os.urandom(60_000))

    with pytest.raises(RefusedError) as refused:
        await save(api, owner, c=b"c")
    # What was found a moment ago is believed for so long.
    async with asyncio.timeout(30):
        while (error := await refusal(begin)) is None:
            await asyncio.sleep(0.2)
    assert below.full is None
    assert beyond.full.startswith("your saved files are 117.2 KB, 97.66 KB are allowed; 'spell archive'")
    assert refused.value.code == "quota_exceeded"
    assert (error.status, error.code, error.message) == (413, "quota_exceeded", beyond.full)
    assert (await used(api, owner)).files == 2


async def test_two_saves_at_once_do_not_both_take_the_last_of_the_room(api, owner):
    async def one(name):
        try:
            await save(api, owner, **{name: os.urandom(60_000)})
        except RefusedError as error:
            return error.code
        return "saved"

    outcomes = await asyncio.gather(*(one(f"f{number}") for number in range(4)))

    assert sorted(outcomes) == ["quota_exceeded"] * 3 + ["saved"]


async def upload(api, owner, name, **more):
    body, headers = json.dumps({"name": name, **more}), {"Content-Type": "application/json"}
    async with api.open("POST", "/uploads", params={"owner_id": owner}, data=body, headers=headers) as answer:
        return json.loads(await answer.read())["id"]


@pytest.mark.parametrize("names", [("one", "one"), ("one", "another")])
async def test_an_upload_is_refused_before_its_bytes_are_sent(api, owner, names):
    """All that is on its way counts, in however many uploads it is."""
    uploads = {name: await upload(api, owner, name) for name in names}

    async def begin(name, path, length):
        upload_id = uploads[name]
        headers = {"Tus-Resumable": "1.0.0", "Upload-Length": str(length), "Upload-Metadata": f"path {path}"}
        place = f"/uploads/{upload_id}/files"
        async with api.open("POST", place, params={"owner_id": owner}, headers=headers) as answer:
            return answer.status

    assert await begin(names[0], "YQ==", 60_000) == 201
    assert await begin(names[0], "YQ==", 60_000) == 201, "it is the same file"
    with pytest.raises(RefusedError) as refused:
        await begin(names[1], "Yg==", 60_000)
    with pytest.raises(RefusedError) as refused_whole:
        await upload(api, owner, "third", files=1, bytes=60_000)
    assert (refused.value.status, refused.value.code) == (413, "quota_exceeded")
    assert refused_whole.value.code == "quota_exceeded"
    await upload(api, owner, names[0], files=1, bytes=60_000)

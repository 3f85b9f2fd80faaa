"""Archives of environments in storage: whole or not there, of no owner, and removed without a trace."""

import hashlib
import os

import pytest

from spell_proto.errors import InvalidError, NotFoundError

pytestmark = pytest.mark.integration


def sha256(data):
    return hashlib.sha256(data).hexdigest()


async def put(api, data, digest=None):
    async with api.open("PUT", f"/archives/{digest or sha256(data)}", data=data) as answer:
        assert answer.status == 201
    return sha256(data)


async def get(api, digest, **headers):
    async with api.open("GET", f"/archives/{digest}", headers=headers) as answer:
        return answer.status, await answer.read()


async def test_an_archive_is_read_back_whole_and_from_where_it_broke_off(api):
    data = os.urandom(3 << 20)

    digest = await put(api, data)
    await put(api, data)

    assert await get(api, digest) == (200, data)
    assert await get(api, digest, Range="bytes=1000000-") == (206, data[1_000_000:])


async def test_what_is_not_what_it_says_is_not_kept(api):
    digest = sha256(b"wanted")

    with pytest.raises(InvalidError, match="its SHA-256 is"):
        await put(api, b"something else", digest)
    with pytest.raises(NotFoundError):
        await get(api, digest)


async def test_it_is_nobodys_blob_and_a_blob_is_no_archive(api):
    data = os.urandom(1000)
    digest = await put(api, data)

    for owner_id in (0, 1, 2):
        with pytest.raises(NotFoundError):
            async with api.open("GET", f"/blobs/{digest}", params={"owner_id": owner_id}):
                pass
    with pytest.raises(InvalidError):
        async with api.open("GET", f"/blobs/{digest}", params={"owner_id": -1}):
            pass
    other = os.urandom(1000)
    async with api.open("PUT", f"/blobs/{sha256(other)}", params={"owner_id": 1}, data=other):
        pass
    with pytest.raises(NotFoundError):
        await get(api, sha256(other))


async def test_what_is_removed_is_gone_and_the_same_blob_of_an_owner_stays(api):
    data = os.urandom(1000)
    digest = await put(api, data)
    async with api.open("PUT", f"/blobs/{digest}", params={"owner_id": 1}, data=data):
        pass

    for _ in range(2):
        async with api.open("DELETE", f"/archives/{digest}"):
            pass

    with pytest.raises(NotFoundError):
        await get(api, digest)
    async with api.open("GET", f"/blobs/{digest}", params={"owner_id": 1}) as answer:
        assert await answer.read() == data

"""Large files through the real service: what it holds in memory does not grow with them, on disk and in a bucket."""

import asyncio
import hashlib
import os

import pytest
from pydantic import TypeAdapter

from spell_proto.blob_packs import FILE_UNREACHABLE, identity, look, version
from spell_proto.errors import InvalidError
from spell_proto.views import ManifestStored, Verdict
from spell_runner.taking import New
from support import stores
from support.memory import peak_bytes

pytestmark = pytest.mark.integration

GROWTH_BYTES_MAX = 64 << 20
FILE_BYTES = 1 << 30
PIECE_BYTES = 1 << 20
OWNER = {"owner_id": 81_000}
STORED = TypeAdapter(ManifestStored)
VERDICT = TypeAdapter(Verdict)
NEW = TypeAdapter(New)


def digest_of(path):
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


async def pieces(path):
    with path.open("rb") as file:
        while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
            yield piece


async def put(api, digest, path):
    headers = {"Content-Length": str(path.stat().st_size)}
    async with api.open(
        "PUT", f"/blobs/{digest}", params=OWNER, data=pieces(path), headers=headers, stream=True
    ):
        pass


async def put_open(api, digest, path):
    """As a runner of the same machine does."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        named = {"file": file.fileno(), "identity": identity(status), "size": status.st_size}
        async with api.open("POST", f"/blobs/{digest}/file", params=OWNER | named, seconds=120):
            pass


async def take_open(api, digest, path):
    """As a runner of the same machine does with what is new."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        named = {"file": file.fileno(), "identity": identity(status), "version": version(status)}
        async with api.open("POST", "/blobs/file", params=OWNER | named, seconds=120) as response:
            assert (await response.json())["sha256"] == digest


async def received(api, digest):
    """The digest and the size of what comes back."""
    hashing, size = hashlib.sha256(), 0
    async with api.open("GET", f"/blobs/{digest}", params=OWNER, stream=True) as answer:
        async for piece in answer.content.iter_chunked(PIECE_BYTES):
            hashing.update(piece)
            size += len(piece)
    return hashing.hexdigest(), size


@pytest.mark.parametrize("bring", [put, put_open, take_open])
async def test_memory_stays_as_it_is_however_large_a_file_is(own_storage, tmp_path, bring):
    pid = own_storage.process.pid
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(os.urandom(2 << 20))
    with large.open("wb") as file:
        # Sparse: it takes no room here, and the service does not know.
        file.truncate(FILE_BYTES)
        file.seek(FILE_BYTES // 2)
        file.write(os.urandom(1000))
    digest = await asyncio.to_thread(digest_of, large)
    async with own_storage.client() as api:
        await bring(api, digest_of(small), small)
        await received(api, digest_of(small))
        before = peak_bytes(pid)

        await bring(api, digest, large)
        entry = {"path": "large", "size": FILE_BYTES, "sha256": digest, "mode": 0o644}
        body = {"entries": [{**entry, "modified_at": "2026-01-02T03:04:05+00:00"}]}
        stored = await api.call("PUT", "/manifests", STORED, params=OWNER, body=body, seconds=120)
        back = await received(api, digest)
        asked = {**OWNER, "manifest": stored.digest}
        verdict = await api.call("GET", "/verify", VERDICT, params=asked, seconds=120)

        assert back == (digest, FILE_BYTES)
        assert [check for check in verdict.checks if not check.ok] == []
        assert peak_bytes(pid) - before < GROWTH_BYTES_MAX


async def test_a_service_keeps_its_files_in_a_bucket(postgres, start_storage, clouds, tmp_path):
    clouds.bucket("teamfiles", public=False)
    account = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "eu-west-1"}
    service = await asyncio.to_thread(
        lambda: start_storage(
            postgres.url("storage"),
            SPELL_BLOB_STORE="s3://teamfiles/spell",
            AWS_ENDPOINT_URL=clouds.amazon.url,
            AWS_ALLOW_HTTP="true",
            **account,
        )
    )
    name = await stores.name_of(postgres.url("storage"))
    assert name is not None
    # The database is that of other tests as well, whose store knows it by this.
    clouds.s3.put_object(Bucket="teamfiles", Key=f"spell/store/{name}", Body=name.encode())
    path = tmp_path / "file"
    path.write_bytes(os.urandom(20_000_000))
    digest = digest_of(path)
    async with service.client() as api:
        await put(api, digest, path)
        back = await received(api, digest)
        async with api.open("GET", f"/blobs/{digest}", params=OWNER, headers={"Range": "bytes=-5"}) as answer:
            last = answer.status, await answer.read()
        body = {"files": [look(30_000_000, [b"x" * PIECE_BYTES] * 3)]}
        told = await api.call("POST", "/blobs/new", NEW, params=OWNER, body=body)
        with pytest.raises(InvalidError) as refused:
            await take_open(api, digest, path)

    objects = clouds.s3.list_objects_v2(Bucket="teamfiles", Prefix="spell/blobs/")["Contents"]
    keys = [one["Key"] for one in objects]
    assert back == (digest, 20_000_000)
    # Bytes that go elsewhere are sent under their digest.
    assert (told.new, refused.value.code) == ((False,), FILE_UNREACHABLE)
    assert last == (206, path.read_bytes()[-5:])
    assert [key.rpartition(".")[0] for key in keys] == [f"spell/blobs/{digest[:2]}/{digest}"]

"""Blobs that are files of storage's own machine, through the real service: read where they are, trusted no more for it."""

import hashlib
import os

import pytest
from pydantic import TypeAdapter

from spell_proto import blob_packs
from spell_proto.errors import InvalidError
from spell_proto.views import ManifestStored

pytestmark = pytest.mark.integration

OWNER = {"owner_id": 82_000}
STORED = TypeAdapter(ManifestStored)
SIZES = [0, 1, (256 << 10) - 1, (1 << 20) + 17, 70_000_000]


def sha256(data):
    return hashlib.sha256(data).hexdigest()


async def name(api, file, digest, size=None, **more):
    """Say which open file it is."""
    status = os.fstat(file.fileno())
    params = {
        "file": file.fileno(),
        "identity": blob_packs.identity(status),
        "size": status.st_size if size is None else size,
        **OWNER,
        **more,
    }
    async with api.open("POST", f"/blobs/{digest}/file", params=params) as response:
        assert response.status == 201


async def get(api, digest):
    async with api.open("GET", f"/blobs/{digest}", params=OWNER, stream=True) as response:
        return await response.read()


def left(storage):
    """Files that are no object: neither whole nor to be."""
    return [path for path in (storage.data / "blobs").rglob("*#*") if path.is_file()]


@pytest.mark.parametrize("size", SIZES)
async def test_a_file_that_its_caller_has_open_comes_back_as_it_is(api, storage, tmp_path, size):
    data = os.urandom(size)
    path = tmp_path / "file"
    path.write_bytes(data)

    with path.open("rb") as file:
        # It has no name any more, and whoever has it open has read from it.
        path.unlink()
        file.read(10)
        await name(api, file, sha256(data))

    assert await get(api, sha256(data)) == data
    assert left(storage) == []


async def test_what_is_here_already_is_read_and_not_written_again(api, storage, tmp_path):
    data = os.urandom(2_000_000)
    path = tmp_path / "file"
    path.write_bytes(data)
    with path.open("rb") as file:
        await name(api, file, sha256(data))
        await name(api, file, sha256(data), owner_id=82_001)

    assert len(list((storage.data / "blobs").rglob(f"{sha256(data)}.*"))) == 1
    async with api.open("GET", f"/blobs/{sha256(data)}", params={"owner_id": 82_001}) as response:
        assert sha256(await response.read()) == sha256(data)


@pytest.mark.parametrize("known", [False, True])
async def test_a_file_with_another_digest_is_refused_and_leaves_nothing(api, storage, tmp_path, known):
    data, wanted = os.urandom(2_000_000), os.urandom(2_000_000)
    path = tmp_path / "file"
    if known:
        path.write_bytes(wanted)
        with path.open("rb") as file:
            await name(api, file, sha256(wanted), owner_id=82_001)
    path.write_bytes(data)

    with path.open("rb") as file, pytest.raises(InvalidError) as refused:
        await name(api, file, sha256(wanted))
    with pytest.raises(Exception, match="no blob"):
        await get(api, sha256(wanted))

    assert refused.value.code == "digest_mismatch"
    assert left(storage) == []


async def test_a_file_that_became_shorter_is_refused(api, tmp_path):
    data = os.urandom(2_000_000)
    path = tmp_path / "file"
    path.write_bytes(data[:-1])

    with path.open("rb") as file, pytest.raises(InvalidError) as refused:
        await name(api, file, sha256(data), size=len(data))

    assert refused.value.code == "digest_mismatch"


async def test_what_was_added_to_a_file_since_is_no_harm(api, tmp_path):
    data = os.urandom(2_000_000)
    path = tmp_path / "file"
    path.write_bytes(data + b"more")

    with path.open("rb") as file:
        await name(api, file, sha256(data), size=len(data))

    assert await get(api, sha256(data)) == data


@pytest.mark.parametrize("what", ["another", "directory", "pipe", "closed", "none"])
async def test_what_is_not_the_file_that_is_meant_is_not_opened(api, tmp_path, what):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10)
    (tmp_path / "other").write_bytes(b"x" * 10)
    reading, writing = os.pipe()
    numbers = {
        "another": os.open(tmp_path / "other", os.O_RDONLY),
        "directory": os.open(tmp_path, os.O_RDONLY),
        "pipe": reading,
    }
    number = numbers.get(what, 999_999)
    identity = blob_packs.identity(path.stat() if what == "another" else os.fstat(numbers.get(what, reading)))
    params = {"file": number, "size": 10, **({"identity": identity} if what != "none" else {})}

    with pytest.raises(InvalidError) as refused:
        async with api.open("POST", f"/blobs/{sha256(b'x' * 10)}/file", params={**OWNER, **params}):
            pass
    for each in (*numbers.values(), writing):
        os.close(each)

    assert refused.value.code == blob_packs.FILE_UNREACHABLE

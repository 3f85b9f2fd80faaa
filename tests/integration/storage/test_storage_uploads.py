"""Uploads and links through the real service: begun, completed, found, taken away."""

import asyncio
import hashlib
import itertools
import json

import pytest
from pydantic import TypeAdapter

from spell_proto.errors import ConflictError, InvalidError, NotFoundError
from spell_proto.uploads import LinkList, LinkView, UploadList, UploadView

pytestmark = pytest.mark.integration

UPLOAD = TypeAdapter(UploadView)
UPLOADS = TypeAdapter(UploadList)
LINK = TypeAdapter(LinkView)
LINKS = TypeAdapter(LinkList)
NOTHING = TypeAdapter(dict[str, None])
PLATFORM = 0
_owners = itertools.count(61_000)


class Somebody:
    """An owner who brings files, straight to storage."""

    def __init__(self, api, owner_id):
        self.api = api
        self.owner_id = owner_id

    async def call(self, method, path, answer=UPLOAD, **given):
        params = {"owner_id": self.owner_id} | given.pop("params", {})
        return await self.api.call(method, path, answer, params=params, **given)

    async def begin(self, name, **more):
        return await self.call("POST", "/uploads", body={"name": name, **more})

    async def blob(self, data):
        digest = hashlib.sha256(data).hexdigest()
        params = {"owner_id": self.owner_id}
        async with self.api.open("PUT", f"/blobs/{digest}", params=params, data=data):
            return digest

    async def entries(self, files):
        return [
            {
                "path": path,
                "size": len(data),
                "sha256": await self.blob(data),
                "mode": 0o644,
                "modified_at": "2026-01-02T03:04:05+00:00",
            }
            for path, data in files.items()
        ]

    async def complete(self, upload_id, files):
        body = {"entries": await self.entries(files), "deleted": []}
        return await self.call("POST", f"/uploads/{upload_id}/complete", body=json.loads(json.dumps(body)))

    async def bring(self, name, files):
        return await self.complete((await self.begin(name)).id, files)

    async def at(self, path):
        return await self.call("GET", "/uploads/named", params={"path": path})

    async def names(self):
        return [upload.name for upload in (await self.call("GET", "/uploads", UPLOADS)).uploads]

    async def remove(self, name):
        await self.call("DELETE", "/uploads/named", NOTHING, params={"path": name})


@pytest.fixture
def somebody(api):
    return Somebody(api, next(_owners))


@pytest.fixture
async def platform(api):
    """What is published; a test begins with nothing."""
    everybody = Somebody(api, PLATFORM)
    for name in await everybody.names():
        await everybody.remove(name)
    return everybody


async def test_an_upload_is_a_resource_once_it_is_complete(somebody):
    begun = await somebody.begin("cifar")
    again = await somebody.begin("cifar")

    assert (begun.id, begun.manifest) == (again.id, None)
    assert await somebody.names() == []
    with pytest.raises(NotFoundError):
        await somebody.at("cifar")

    done = await somebody.complete(begun.id, {"a": b"1", "d/b": b"22"})

    assert (done.files, done.bytes) == (2, 3)
    assert await somebody.complete(begun.id, {"other": b"x"}) == done, "what is complete stays as it is"
    assert await somebody.at("cifar") == done
    assert await somebody.names() == ["cifar"]
    with pytest.raises(ConflictError, match="uploads/cifar is there already") as refused:
        await somebody.begin("cifar")
    assert refused.value.code == "upload_exists"
    assert "spell rm uploads/cifar" in refused.value.hint


async def test_requests_for_one_name_at_once_begin_one_upload(somebody):
    begun = await asyncio.gather(*(somebody.begin("same") for _ in range(20)))

    assert len({upload.id for upload in begun}) == 1


async def test_what_is_another_owners_is_not_there(api, somebody):
    upload = await somebody.bring("mine", {"a": b"1"})
    other = Somebody(api, next(_owners))

    for call in (
        other.at("mine"),
        other.call("GET", f"/uploads/{upload.id}"),
        other.complete(upload.id, {"a": b"1"}),
        other.remove("mine"),
    ):
        with pytest.raises(NotFoundError):
            await call
    assert (await other.begin("mine")).id != upload.id


async def test_a_name_that_is_taken_away_is_free_again(somebody):
    first = await somebody.bring("data", {"a": b"1"})
    await somebody.remove("data")

    with pytest.raises(NotFoundError):
        await somebody.remove("data")
    second = await somebody.bring("data", {"a": b"2"})
    assert second.id != first.id


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "a:b", "a\nb", "x" * 256])
async def test_a_name_that_is_no_name_is_refused(somebody, name):
    with pytest.raises(InvalidError) as refused:
        await somebody.begin(name)

    assert refused.value.code == "upload_name_invalid"


@pytest.mark.parametrize(
    ("files", "code", "said"),
    [
        ({}, "upload_empty", "Upload can not be empty"),
        ({"a/../b": b""}, "manifest_invalid", "is not a path below a resource"),
        ({"a": b"", "a/b": b""}, "manifest_invalid", "'a/b' is below 'a', which is no directory"),
        ({"x" * 256: b""}, "manifest_invalid", "is longer than 255 bytes"),
        ({"é" * 128: b""}, "manifest_invalid", "is longer than 255 bytes"),
        ({"/".join(["x" * 200] * 21): b""}, "manifest_invalid", "is longer than 4096 bytes"),
    ],
)
async def test_what_no_directory_could_hold_is_refused_by_name(somebody, files, code, said):
    upload = await somebody.begin("bad")

    with pytest.raises(InvalidError) as refused:
        await somebody.complete(upload.id, files)

    assert (refused.value.code, said in refused.value.message) == (code, True), refused.value


async def test_names_of_every_kind_are_kept_as_they_are(somebody):
    names = ["a\nb", "x" * 255, "é", "e\u0301", "\\", "*?[", " ", "-rf", "%2e", "漢字", "\U0001f4a9"]
    done = await somebody.bring("names", {name: name.encode() for name in names})

    manifest = await somebody.call(
        "GET", f"/manifests/{done.manifest}", TypeAdapter(dict[str, object]), params={}
    )
    assert sorted(entry["path"] for entry in manifest["entries"]) == sorted(names)


async def test_what_is_published_is_found_from_below(platform):
    done = await platform.bring("image/mnist", {"train/1.png": b"1"})
    await platform.bring("audio", {"a.wav": b"1"})

    assert await platform.at("image/mnist") == done
    assert await platform.at("image/mnist/train/1.png") == done
    for path in ("image", "image/mnist2", "", "nothing"):
        with pytest.raises(NotFoundError):
            await platform.at(path)


@pytest.mark.parametrize("name", ["image", "image/mnist/more"])
async def test_what_is_published_is_never_in_something_else_that_is(platform, name):
    await platform.begin("image/mnist")

    with pytest.raises(ConflictError, match="one cannot be in the other"):
        await platform.begin(name)
    await platform.begin("image/mnist2")
    await platform.begin("image/mnis")


@pytest.mark.parametrize("name", ["", "a//b", "../a", "a/", "/a", "a/../b", "a:b", "a/" + "x" * 256])
async def test_what_cannot_be_a_path_below_public_is_refused(platform, name):
    if name == "a/":
        assert (await platform.begin(name)).name == "a"
        return
    with pytest.raises(InvalidError) as refused:
        await platform.begin(name)

    assert refused.value.code == "upload_name_invalid"


async def test_links_are_kept_per_owner(api, somebody):
    other = Somebody(api, next(_owners))
    made = await somebody.call("PUT", "/links/model é", LINK, body={"target": "runs/4/model"})

    assert await somebody.call("PUT", "/links/model é", LINK, body={"target": "runs/4/model"}) == made
    assert (await somebody.call("GET", "/links", LINKS)).links == (made,)
    assert (await other.call("GET", "/links", LINKS)).links == ()
    with pytest.raises(NotFoundError):
        await other.call("GET", "/links/model é", LINK)
    with pytest.raises(ConflictError, match="leads to 'runs/4/model' already"):
        await somebody.call("PUT", "/links/model é", LINK, body={"target": "runs/5"})
    await somebody.call("DELETE", "/links/model é", NOTHING)
    with pytest.raises(NotFoundError, match="No links with alias"):
        await somebody.call("DELETE", "/links/model é", NOTHING)


@pytest.mark.parametrize("alias", ["runs", "a.b", "a:b", "a,b", "a=b", "x" * 101])
async def test_an_alias_that_would_be_a_path_is_refused(somebody, alias):
    with pytest.raises(InvalidError) as refused:
        await somebody.call("PUT", f"/links/{alias}", LINK, body={"target": "runs/4"})

    assert refused.value.code in {"alias_invalid", "alias_forbidden"}

"""Uploads over raw HTTP: tus 1.0.0, what goes wrong on the way, and what becomes of it."""

import asyncio
import base64
import hashlib
import io
import itertools
import os
import tarfile

import pytest

from integration.gateway.stage import until

pytestmark = pytest.mark.integration
_numbers = itertools.count(1)
TUS = {"Tus-Resumable": "1.0.0"}
BYTES = {"Content-Type": "application/offset+octet-stream"}
MIB = 1 << 20


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def metadata(path, announced=None):
    members = {"path": path} | ({"sha256": announced} if announced else {})
    return ",".join(f"{name} {base64.b64encode(value.encode()).decode()}" for name, value in members.items())


class Sender:
    """Somebody who brings an upload, request by request."""

    def __init__(self, client, name, **more):
        self.client = client
        self.name = name
        self.more = more
        self.id = None

    async def begin(self, **query):
        status, upload = await self.client.ask(
            "POST", "/api/uploads", json={"name": self.name, **self.more}, params=query
        )
        assert status in {200, 201}, upload
        self.id = upload["id"]
        return self

    async def create(self, path, length, announced=None, data=None):
        headers = TUS | {"Upload-Length": str(length), "Upload-Metadata": metadata(path, announced)}
        headers |= BYTES if data is not None else {}
        url = f"/api/uploads/{self.id}/files"
        async with self.client.session.post(url, headers=headers, data=data) as response:
            answer = await response.read()
            return response.status, response.headers, answer

    async def place(self, path, length, announced=None):
        status, headers, answer = await self.create(path, length, announced)
        assert status == 201, answer
        return headers["Location"]

    async def head(self, place):
        async with self.client.session.head(place, headers=TUS) as response:
            return response.status, int(response.headers.get("Upload-Offset", -1))

    async def patch(self, place, offset, data, headers=None):
        sent = TUS | BYTES | {"Upload-Offset": str(offset)} if headers is None else headers
        async with self.client.session.patch(place, headers=sent, data=data) as response:
            answer = await response.read()
            return response.status, int(response.headers.get("Upload-Offset", -1)), answer

    async def complete(self, manifest=None):
        given = {} if manifest is None else {"json": manifest}
        return await self.client.ask("POST", f"/api/uploads/{self.id}/complete", **given)

    async def content(self, path):
        return await self.client.ask("GET", f"/api/files/uploads/{self.name}/{path}")


def entry(path, data, **more):
    return {
        "path": path,
        "size": len(data),
        "sha256": sha256(data),
        "mode": 0o755,
        "modified_at": "2026-01-02T03:04:05Z",
        **more,
    }


@pytest.fixture
async def sender(client):
    return await Sender(client, f"sent{next(_numbers)}").begin()


async def test_files_are_sent_in_pieces_and_become_what_they_were_called(sender):
    place = await sender.place("a/b", 10)

    assert await sender.head(place) == (200, 0)
    assert (await sender.patch(place, 0, b"01234"))[:2] == (204, 5)
    assert await sender.place("a/b", 10) == place, "the same file has the same place"
    assert await sender.head(place) == (200, 5)
    assert (await sender.patch(place, 5, b"56789"))[:2] == (204, 10)
    empty = await sender.create("empty", 0)
    assert (empty[0], empty[1]["Upload-Offset"]) == (201, "0")
    status, done = await sender.complete()
    assert (status, done["files"], done["bytes"]) == (200, 2, 10)
    assert await sender.complete() == (200, done), "completing twice is completing once"
    assert await sender.content("a/b") == (200, b"0123456789")
    assert await sender.content("empty") == (200, b"")


async def test_what_is_here_already_is_not_sent_again(client, sender):
    data = os.urandom(3 * MIB)
    place = await sender.place("one", len(data), sha256(data))
    for offset in range(0, len(data), MIB):
        assert (await sender.patch(place, offset, data[offset : offset + MIB]))[0] == 204
    _, asked = await client.ask(
        "POST", f"/api/uploads/{sender.id}/missing", json={"digests": [sha256(data), sha256(b"?" * 9)]}
    )
    status, headers, _ = await sender.create("two", len(data), sha256(data))

    assert asked == {"missing": [sha256(b"?" * 9)]}
    assert (status, headers["Upload-Offset"]) == (201, str(len(data)))


async def test_a_small_file_is_sent_with_its_first_request_and_the_manifest_says_what_it_is(sender):
    data = b"#!/bin/sh\n"
    status, headers, _ = await sender.create(sha256(data), len(data), sha256(data), data)
    link = entry("latest", b"", link="bin/run")
    status_done, done = await sender.complete({"entries": [entry("bin/run", data), link]})
    _, listed = await sender.client.ask("GET", f"/api/resources/uploads/{sender.name}?recursive=1")

    assert (status, headers["Upload-Offset"]) == (201, str(len(data)))
    assert (status_done, done["files"], done["bytes"]) == (200, 1, len(data))
    assert [(one["path"], one["mode"], one["link"]) for one in listed["entries"]] == [
        ("bin/run", 0o755, None),
        ("latest", 0o755, "bin/run"),
    ]


async def test_bytes_that_are_not_what_was_announced_are_asked_for_again(sender):
    data = os.urandom(2 * MIB)
    place = await sender.place("x", len(data), sha256(data))
    assert (await sender.patch(place, 0, data[:MIB]))[0] == 204
    status, _, answer = await sender.patch(place, MIB, bytes(MIB))
    again = await sender.head(place)
    await sender.patch(place, 0, data)
    small = await sender.create("small", 3, sha256(b"abc"), b"abd")

    assert (status, b"upload_file_changed" in answer) == (409, True), answer
    assert again == (200, 0)
    assert await sender.head(place) == (200, len(data))
    assert (small[0], b"upload_file_changed" in small[2]) == (409, True)
    status, done = await sender.complete()
    assert (status, done["files"]) == (200, 1), "what was refused is no part of it"


async def test_an_upload_with_a_file_that_is_not_whole_is_not_complete(sender):
    place = await sender.place("x", 10)
    await sender.patch(place, 0, b"0123")
    status, answer = await sender.complete()

    assert (status, answer["code"]) == (409, "upload_incomplete")
    assert answer["message"].startswith("'x' of upload ")


async def test_requests_that_make_no_sense_are_refused_and_change_nothing(sender):
    place = await sender.place("x", 10)
    await sender.patch(place, 0, b"0123")
    sent = TUS | BYTES

    refused = [
        await sender.patch(place, 0, b"0123"),
        await sender.patch(place, 5, b"5"),
        await sender.patch(place, 4, b"4567890"),
        await sender.patch(place, 4, b"4", BYTES | {"Upload-Offset": "4"}),
        await sender.patch(place, 4, b"4", sent | {"Tus-Resumable": "0.2.0", "Upload-Offset": "4"}),
        await sender.patch(place, 4, b"4", TUS | {"Upload-Offset": "4"}),
        await sender.patch(place, 4, b"4", sent),
        await sender.patch(place, 4, b"4", sent | {"Upload-Offset": "-4"}),
    ]

    assert [status for status, *_ in refused] == [409, 409, 422, 412, 412, 415, 422, 422], refused
    assert await sender.head(place) == (200, 4)
    other = await sender.create("x", 11)
    assert (other[0], b"upload_file_changed" in other[2]) == (409, True)


@pytest.mark.parametrize(
    ("length", "given"),
    [
        ("10", "path a\x7f"),
        ("10", "path !!"),
        ("10", ""),
        ("10", metadata("")),
        ("10", metadata("x" * 4097)),
        ("10", metadata("a\0b")),
        ("10", metadata("../x")),
        ("10", metadata("/x")),
        ("10", metadata("a//b")),
        ("10", metadata("a/./b")),
        ("10", metadata("x" * 300)),
        ("10", metadata("d/" * 256 + "x")),
        ("10", "path /w=="),
        ("10", metadata("x", "abc")),
        ("-1", metadata("x")),
        ("1e3", metadata("x")),
        ("", metadata("x")),
    ],
)
async def test_a_file_that_is_described_badly_is_refused(client, sender, length, given):
    headers = TUS | {"Upload-Length": length, "Upload-Metadata": given.replace("\x7f", "?")}
    status, answer = await client.ask("POST", f"/api/uploads/{sender.id}/files", headers=headers)

    assert status == 422, answer


async def test_a_file_is_taken_out_of_an_upload_and_begun_anew_as_another_one(client, sender):
    """One that was changed meanwhile, and one that cannot be beside another one."""
    place = await sender.place("a", 10)
    await sender.patch(place, 0, b"0123")
    below = await sender.place("a/b", 2)
    await sender.patch(below, 0, b"22")
    async with client.session.delete(place, headers=TUS) as response:
        removed = response.status
    gone = await sender.head(place)
    async with client.session.delete(below, headers=TUS) as response:
        removed_below = response.status
    again = await sender.place("a", 3)
    await sender.patch(again, 0, b"new")
    status, done = await sender.complete()

    assert (removed, gone[0], removed_below) == (204, 404, 204)
    assert (status, done["files"]) == (200, 1)
    assert await sender.content("a") == (200, b"new")
    async with client.session.delete(again, headers=TUS) as response:
        assert response.status == 404, "what is complete stays as it is"


async def test_what_a_file_will_be_may_be_said_later(sender):
    """With its SHA-256 it is gone on with, and then it is that or nothing."""
    data = os.urandom(10)
    place = await sender.place("a", len(data))
    await sender.patch(place, 0, data[:5])

    assert await sender.place("a", len(data), sha256(data)) == place
    assert (await sender.create("a", len(data), sha256(b"other")))[0] == 409
    assert (await sender.patch(place, 5, data[5:]))[:2] == (204, 10)
    assert await sender.place("a", len(data), sha256(data)) == place
    assert (await sender.complete())[0] == 200


async def test_two_who_send_one_file_at_once_do_not_mix(sender):
    ones, twos = b"1" * (8 * MIB), b"2" * (8 * MIB)
    place = await sender.place("x", 8 * MIB)

    answers = await asyncio.gather(sender.patch(place, 0, ones), sender.patch(place, 0, twos))
    statuses = sorted(status for status, *_ in answers)
    status, _ = await sender.complete()

    assert statuses[0] == 204, answers
    assert statuses[1] in {409, 423}, answers
    assert status == 200
    _, content = await sender.content("x")
    assert content in {ones, twos}


async def test_an_upload_goes_on_after_storage_was_killed(stage, sender):
    data = os.urandom(20 * MIB)
    place = await sender.place("big", len(data))
    killed = 0
    offset = 0
    while offset < len(data):
        sending = asyncio.create_task(sender.patch(place, offset, data[offset : offset + 5 * MIB]))
        if killed < 3:
            await asyncio.sleep(0.005 * killed)
            stage.storage.kill9()
            stage.storage.start()
            killed += 1
        status, *_ = await sending
        assert status in {204, 503}
        await stage.until_up(stage.storage)
        before = offset
        _, offset = await sender.head(place)
        assert offset >= before

    assert killed == 3
    status, done = await sender.complete()
    assert (status, done["bytes"]) == (200, len(data))
    assert (await sender.content("big"))[1] == data


async def test_completing_goes_on_after_storage_was_killed(stage, client):
    data = [os.urandom(2 * MIB) for _ in range(4)]
    sender = await Sender(client, f"sent{next(_numbers)}").begin()
    for number, content in enumerate(data):
        place = await sender.place(f"f{number}", len(content))
        await sender.patch(place, 0, content)
    completing = asyncio.create_task(sender.complete())
    stage.storage.kill9()
    stage.storage.start()
    await completing
    await stage.until_up(stage.storage)

    async def completed():
        status, _ = await sender.complete()
        return status == 200

    await until(completed)
    assert [(await sender.content(f"f{number}"))[1] for number in range(4)] == data


async def test_a_connection_that_breaks_off_loses_at_most_what_was_on_its_way(stage, sender):
    data = os.urandom(12 * MIB)
    place = await sender.place("x", len(data))
    host, _, port = stage.url.removeprefix("http://").partition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    head = f"PATCH {place} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {stage.tokens['ada']}\r\n"
    head += f"Tus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\nContent-Type: {BYTES['Content-Type']}\r\n"
    writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data[: 9 * MIB])
    await writer.drain()

    async def some():
        return (await sender.head(place))[1] >= 8 * MIB

    await until(some)
    writer.transport.abort()

    async def rest():
        _, offset = await sender.head(place)
        return (await sender.patch(place, offset, data[offset:]))[0] == 204

    await until(rest)
    await sender.complete()
    assert (await sender.content("x"))[1] == data


async def test_an_upload_is_taken_away_by_its_owner_alone(stage, client, sender):
    await sender.create("x", 1, sha256(b"x"), b"x")
    await sender.complete()
    path = f"/api/resources/uploads/{sender.name}"
    async with stage.client("bob") as bob:
        foreign = await bob.ask("DELETE", path)
    inside = await client.ask("DELETE", f"{path}/x")
    gone = await client.ask("DELETE", path)
    again = await client.ask("DELETE", path)
    _, listing = await client.ask("GET", "/api/resources/uploads")
    lists = await client.ask("DELETE", "/api/resources/uploads")

    assert (foreign[0], foreign[1]["code"]) == (404, "resource_not_found")
    assert (inside[0], inside[1]["message"]) == (422, "You must specify an uploaded resource.")
    assert gone[0] == 204
    assert (again[0], again[1]["code"]) == (404, "resource_not_found")
    assert sender.name not in [one["path"] for one in listing["entries"]]
    assert lists[0] == 422


async def test_only_administrators_publish(stage, client):
    name = f"image/set{next(_numbers)}"
    async with stage.client("bob") as bob:
        refused = await bob.ask("POST", "/api/uploads", json={"name": name}, params={"public": 1})
        sender = await Sender(client, name).begin(public=1)
        place = (await sender.create("x", 1))[1]
        foreign = await bob.ask("GET", f"/api/uploads/{sender.id}")
        hidden = await bob.ask("GET", f"/api/resources/public/{name}")
        _, upload = await client.ask("GET", f"/api/uploads/{sender.id}", params={"public": 1})
        made = await client.ask(
            "POST",
            f"/api/uploads/{sender.id}/files?public=1",
            headers=TUS | BYTES | {"Upload-Length": "2", "Upload-Metadata": metadata("x", sha256(b"ab"))},
            data=b"ab",
        )
        done = await client.ask("POST", f"/api/uploads/{sender.id}/complete?public=1")
        content = await bob.ask("GET", f"/api/files/public/{name}/x")
        removed = await bob.ask("DELETE", f"/api/resources/public/{name}")
    gone = await client.ask("DELETE", f"/api/resources/public/{name}")

    assert (refused[0], refused[1]["code"]) == (403, "admin_only")
    assert "Location" not in place, "without the parameter it is no upload of ada's"
    assert foreign[0] == hidden[0] == 404
    assert upload["manifest"] is None
    assert made[0] == 201, made
    assert done[0] == 200, done
    assert content == (200, b"ab")
    assert (removed[0], removed[1]["code"]) == (422, "upload_needed")
    assert gone[0] == 204


def packed(members, root="upload"):
    """A tar.gz of these files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for path, content in members.items():
            member = tarfile.TarInfo(f"{root}/{path}")
            member.size, member.mode, member.mtime = len(content), 0o640, 1_700_000_000
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


@pytest.fixture
async def compressed(client):
    return await Sender(client, f"packed{next(_numbers)}", compressed=True).begin()


async def test_an_archive_is_unpacked_when_it_is_whole(compressed):
    big = os.urandom(3 * MIB)
    data = packed({"a/b": b"one", "c": big, "d": b"one", "empty": b""})
    place = await compressed.place("upload.tar.gz", len(data), sha256(data))
    early = await compressed.complete()
    assert (await compressed.patch(place, 0, data))[0] == 204
    status, done = await compressed.complete()

    assert (early[0], early[1]["code"]) == (409, "upload_incomplete")
    assert (status, done["files"], done["bytes"]) == (200, 4, 6 + len(big)), done
    assert await compressed.complete() == (200, done)
    assert await compressed.content("c") == (200, big)
    assert await compressed.content("a/b") == (200, b"one")


async def test_another_archive_takes_the_place_of_the_one_begun(compressed):
    first, second = packed({"a": b"1"}), packed({"b": os.urandom(1000)})
    place = await compressed.place("upload.tar.gz", len(first), sha256(first))
    await compressed.patch(place, 0, first[:10])
    place = await compressed.place("upload.tar.gz", len(second), sha256(second))

    assert await compressed.head(place) == (200, 0)
    await compressed.patch(place, 0, second)
    assert (await compressed.complete())[0] == 200
    assert (await compressed.content("b"))[0] == 200


async def test_an_archive_that_may_not_be_is_refused_by_name_and_nothing_is_kept(compressed):
    marker = os.urandom(100)
    data = packed({"fine": marker, "../out": b"x"})
    place = await compressed.place("upload.tar.gz", len(data), sha256(data))
    await compressed.patch(place, 0, data)
    status, answer = await compressed.complete()
    _, asked = await compressed.client.ask(
        "POST", f"/api/uploads/{compressed.id}/missing", json={"digests": [sha256(marker)]}
    )

    assert (status, answer["code"]) == (422, "archive_refused")
    assert "'upload/../out' is not a path below 'upload/'" in answer["message"]
    assert asked["missing"] == [sha256(marker)]

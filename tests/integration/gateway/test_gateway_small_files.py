"""Many small files at once, over HTTP and as typed: brought and fetched together, each as safe as by itself."""

import asyncio
import hashlib
import os
from urllib.parse import urlsplit

import pytest

from integration.gateway.bringing import bring
from spell_cli import main
from spell_proto.blob_packs import BLOB_BYTES_MAX, PACK_BLOBS_MAX, PACK_BYTES_MAX, pack, unpack

pytestmark = pytest.mark.integration


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def named(*contents):
    return {sha256(data): data for data in contents}


async def my_id(client):
    return (await client.ask("GET", "/api/me"))[1]["user"]["id"]


async def got(client, path, digests):
    status, answer = await client.ask("POST", f"/api/files/{path}", json={"digests": list(digests)})
    return status, unpack(answer) if status == 200 else answer["code"]


async def begun(client, name):
    return (await client.ask("POST", "/api/uploads", json={"name": name}))[1]["id"]


@pytest.fixture
def spell(stage, tmp_path, monkeypatch, capfd):
    """Run a command line in this process: its exit code, and what it said."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("SPELL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SPELL_DIR", str(tmp_path / "spell"))
    monkeypatch.setenv("SPELL_API_URL", stage.url)
    monkeypatch.setenv("SPELL_TOKEN", stage.tokens["ada"])

    async def call(*words):
        code = await asyncio.to_thread(main._guarded, list(words))
        said = capfd.readouterr()
        return code, said.out, said.err

    return call


async def test_files_of_a_resource_are_got_together_and_those_of_others_are_not(stage, client):
    mine, other, large = os.urandom(30), os.urandom(30), os.urandom(BLOB_BYTES_MAX + 1)
    await bring(stage, await my_id(client), "got", {"d/a": mine, "d/b": b"", "large": large, "l": "d/a"})
    await bring(stage, await my_id(client), "other", {"a": other})
    async with stage.client("bob") as bob:
        theirs = await got(bob, "uploads/got", named(mine))

    wanted = [*named(mine, other, large, b""), "ab" * 32]
    assert await got(client, "uploads/got", wanted) == (200, named(mine, b""))
    assert await got(client, "uploads/got/d", wanted) == (200, named(mine, b""))
    assert await got(client, "uploads/got", []) == (200, {})
    assert theirs == (404, "resource_not_found")
    for path in ("uploads/got/nothing", "uploads", "uploads/none", ""):
        assert await got(client, path, wanted) == (404, "resource_not_found"), path


@pytest.mark.parametrize(
    "digests", [[f"{number:064x}" for number in range(PACK_BLOBS_MAX + 1)], ["../x"], ["A" * 64], [1], None]
)
async def test_digests_that_are_none_or_too_many_are_refused_in_a_sentence(stage, client, digests):
    name = f"asked{hash(str(digests))}"
    await bring(stage, await my_id(client), name, {"a": b"a"})
    status, answer = await client.ask("POST", f"/api/files/uploads/{name}", json={"digests": digests})

    assert (status, answer["field"][:7]) == (422, "digests")
    assert "\n" not in answer["message"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (pack([("ab" * 32, b"other")]), 422, "digest_mismatch"),
        (pack(named(b"x").items())[:-1], 422, "pack_invalid"),
        (bytes.fromhex("ab" * 32) + b"\xff\xff\xff\xff", 422, "pack_invalid"),
        (pack((f"{number:064x}", b"") for number in range(PACK_BLOBS_MAX + 1)), 422, "pack_invalid"),
        (bytes(PACK_BYTES_MAX + 1), 413, "body_too_large"),
    ],
)
async def test_a_pack_that_lies_is_refused_as_a_whole(client, body, status, code):
    upload_id = await begun(client, f"lies{len(body)}")
    found, answer = await client.ask("POST", f"/api/uploads/{upload_id}/pack", data=body)

    assert (found, answer["code"]) == (status, code)


async def test_a_pack_into_an_upload_of_somebody_else_is_refused(stage, client):
    upload_id = await begun(client, "not-bobs")
    async with stage.client("bob") as bob:
        status, answer = await bob.ask("POST", f"/api/uploads/{upload_id}/pack", data=pack([]))

    assert (status, answer["code"]) == (404, "upload_not_found")


async def test_a_pack_that_breaks_off_leaves_nothing_and_is_sent_again(stage, client):
    blobs = named(*(os.urandom(1_000) for _ in range(50)))
    upload_id, body = await begun(client, "broken-off"), pack(blobs.items())
    place, address = f"/api/uploads/{upload_id}", urlsplit(stage.url)
    _, writer = await asyncio.open_connection(address.hostname, address.port)
    head = f"POST {place}/pack HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    writer.write(f"{head}Authorization: Bearer {stage.tokens['ada']}\r\n\r\n".encode() + body[:-1])
    await writer.drain()
    writer.close()

    _, asked = await client.ask("POST", f"{place}/missing", json={"digests": list(blobs)})
    first, _ = await client.ask("POST", f"{place}/pack", data=body)
    _, again = await client.ask("POST", f"{place}/missing", json={"digests": list(blobs)})

    assert set(asked["missing"]) == set(blobs)
    assert (first, again["missing"]) == (204, [])


async def test_many_small_files_are_brought_and_fetched_in_a_few_requests(client, spell, tmp_path):
    source = tmp_path / "many"
    for number in range(1_200):
        (source / f"d{number % 5}").mkdir(parents=True, exist_ok=True)
        (source / f"d{number % 5}" / f"f{number}").write_bytes(b"%d" % (number % 1_100))
    (source / "large").write_bytes(os.urandom(BLOB_BYTES_MAX + 1))

    brought = await spell("upload", "-n", "many", "many")
    fetched = await spell("cp", "uploads/many", "copy")

    assert brought[0] == 0, brought
    assert fetched[:2] == (0, "✔ Copied 1201 files.\n"), fetched
    for path in source.rglob("*"):
        assert (
            path.is_dir() or (tmp_path / "copy" / path.relative_to(source)).read_bytes() == path.read_bytes()
        )


async def test_of_many_small_files_the_damaged_one_is_named_and_the_others_are_fetched(
    stage, client, spell, tmp_path
):
    files = {f"f{number}": os.urandom(40) for number in range(30)}
    await bring(stage, await my_id(client), "rotten", files)
    for name, ruin in (("f7", lambda path: path.write_bytes(b"x" * 40)), ("f9", lambda path: path.unlink())):
        [path] = stage.directory.rglob(f"{sha256(files[name])}.*")
        ruin(path)

    code, said, complaint = await spell("cp", "uploads/rotten", "out")

    assert (code, said) == (1, "✖ Copied 28 files. Skipped 2 files.\n"), complaint
    said_of = " ".join(complaint.split())
    for name in ("f7", "f9"):
        assert f"File '{name}' ignored: the bytes of {sha256(files[name])} are damaged or lost" in said_of
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == {
        name: data for name, data in files.items() if name not in {"f7", "f9"}
    }


async def test_a_file_that_changes_before_it_is_sent_is_named(client, spell, tmp_path, monkeypatch):
    source = tmp_path / "moving"
    source.mkdir()
    for number in range(20):
        (source / f"f{number}").write_bytes(b"%03d" % number)
    from spell_cli.sending import Sender

    plain = Sender.missing

    def changed(self, by_digest):
        found = plain(self, by_digest)
        (source / "f7").write_bytes(b"abc")
        return found

    monkeypatch.setattr(Sender, "missing", changed)
    first = await spell("upload", "-n", "moving", "moving")
    monkeypatch.setattr(Sender, "missing", plain)
    second = await spell("upload", "-n", "moving", "moving")

    assert (first[0], "'f7' changed while it was uploaded" in first[2]) == (1, True), first
    assert second[0] == 0, second
    assert await client.ask("GET", "/api/files/uploads/moving/f7") == (200, b"abc")

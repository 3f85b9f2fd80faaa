"""Buckets without a bucket: what is a file in a listing, what an error means, and what Google is told."""

import asyncio
import base64
import json
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from obstore.exceptions import GenericError, InvalidPathError, PermissionDeniedError

from spell_proto.errors import InvalidError, SettingsError
from spell_storage import bucket_complaints, bucket_keys, bucket_listing
from spell_storage.amazon import Lent
from spell_storage.bucket_api import lines_of
from spell_storage.bucket_roles import Roles
from spell_storage.bucket_stores import Endpoints, read_endpoints
from support import buckets

AT = datetime(2026, 11, 22, tzinfo=UTC)


def thing(path, size=1):
    return {"path": path, "size": size, "e_tag": '"x"', "last_modified": AT}


@pytest.mark.parametrize(
    ("prefix", "objects", "wanted"),
    [
        ("", [], []),
        ("", [thing("a")], ["a"]),
        ("", [thing("a", 0)], ["a"]),
        ("", [thing("d", 0), thing("d/x")], ["d/x"]),
        ("", [thing("d", 0), thing("d/e", 0), thing("d/e/x")], ["d/e/x"]),
        ("", [thing("d", 5), thing("d", 0), thing("d/x")], ["d", "d/x"]),
        ("", [thing("d", 0), thing("d-x")], ["d", "d-x"]),
        ("d", [thing("d", 0)], []),
        ("d", [thing("d", 0), thing("d/x")], ["d/x"]),
    ],
)
def test_what_only_marks_a_directory_is_left_out_wherever_a_page_ends(prefix, objects, wanted):
    for cut in range(len(objects) + 1):
        markers = bucket_listing.Markers(prefix)

        found = [*markers.feed(objects[:cut]), *markers.feed(objects[cut:]), *markers.end()]

        assert [entry.key for entry in found] == wanted


def test_a_level_is_sorted_as_keys_are_and_has_directories():
    found = bucket_listing.level(
        "d", ["d/b/", "d/a"], [thing("d", 0), thing("d/c"), thing("d/a", 0), thing("d/b-x")]
    )

    assert [(entry.key, entry.size) for entry in found] == [
        ("d/a", None),
        ("d/b-x", 1),
        ("d/b", None),
        ("d/c", 1),
    ]


LEVELS = [
    ("", [], []),
    ("", ["a", "b"], ["a", "b"]),
    ("", ["a/x", "a/y", "b"], ["a/", "b"]),
    ("", ["a-x", "a/x", "a/y/z", "b/x"], ["a-x", "a/", "b/"]),
    ("d", ["d", "d/a", "d/a/x", "d/b"], ["d/a", "d/a/", "d/b"]),
]


@pytest.mark.parametrize(("prefix", "keys", "wanted"), LEVELS)
def test_a_level_is_made_of_all_that_is_below_it_wherever_a_page_ends(prefix, keys, wanted):
    objects = [thing(key, 0 if key == prefix else 1) for key in keys]
    for cut in range(len(objects) + 1):
        level = bucket_listing.Level(prefix)

        found = [*level.feed(objects[:cut]), *level.feed(objects[cut:]), *level.end()]

        assert [bucket_listing.rank(entry) for entry in found] == wanted


def test_an_empty_object_that_marks_a_directory_is_none_of_a_level():
    level = bucket_listing.Level("")

    found = level.feed([thing("d", 0), thing("d/x"), thing("e", 5), thing("e", 0), thing("e/x")])

    assert [bucket_listing.rank(entry) for entry in found] == ["d/", "e", "e/"]


def test_the_rest_of_a_directory_is_passed_over():
    level = bucket_listing.Level("")
    level.feed([thing("a/x")])
    assert "a/zzz" < level.beyond < "a0"
    level.feed([thing("b")])
    assert level.beyond is None


NOISE = " <Message>AKIASECRET</Message> Error performing GET http://10.0.0.1/x "


@pytest.mark.parametrize(
    ("error", "code", "holds"),
    [
        (GenericError(f"status code: 404 Not Found: <Code>NoSuchBucket</Code>{NOISE}"), "bucket_not_found", "'s3://b'"),
        (FileNotFoundError(f"status code: 404{NOISE}"), "resource_not_found", "'s3://b/k'"),
        (PermissionDeniedError(NOISE), "bucket_denied", "the credentials that are stored for it may not"),
        (GenericError(f"status code: 403 <Code>AccessDenied</Code>{NOISE}"), "bucket_denied", "'s3://b/k'"),
        (GenericError(f"status code: 503 Slow Down{NOISE}"), "bucket_unreachable", "try again"),
        (GenericError(f"HTTP error: error sending request{NOISE}"), "bucket_unreachable", "try again"),
        (GenericError(f"status code: 400 <Code>Odd</Code>{NOISE}"), "bucket_odd", "it answers 400 Odd"),
        (InvalidPathError(f'Path "a//b" contained{NOISE}'), "bucket_key_invalid", "'a//b'"),
    ],
)  # fmt: skip
def test_an_error_is_told_with_the_bucket_and_nothing_that_others_said(error, code, holds):
    refused = bucket_complaints.refusal(error, "s3://b/k", stored=True)

    assert refused.code == code
    assert holds in refused.message
    assert "AKIASECRET" not in refused.message
    assert "10.0.0.1" not in refused.message


def test_who_has_stored_nothing_is_told_how_to():
    refused = bucket_complaints.denied("gs://team-data/a/b", stored=False)

    assert refused.message.endswith("an administrator can: spell cluster add-bucket gs://team-data")


def test_google_is_told_who_asks_what_for_and_until_when():
    account = buckets.service_account()

    token, ends = bucket_keys.token(bucket_keys.service_account(buckets.as_text(account)), AT)

    signed, _, signature = token.rpartition(".")
    key = load_pem_private_key(account["private_key"].encode(), None).public_key()
    key.verify(_bytes(signature), signed.encode(), PKCS1v15(), SHA256())
    head, claims = (json.loads(_bytes(part)) for part in signed.split("."))
    assert head == {"alg": "RS256", "typ": "JWT", "kid": "0123abcd"}
    assert claims["iss"] == claims["sub"] == "reader@project.example.org"
    assert claims["scope"].endswith("devstorage.read_only")
    assert (claims["exp"] - claims["iat"], ends.timestamp()) == (3600, claims["exp"])


def test_of_a_service_account_only_what_signs_is_kept():
    kept = bucket_keys.service_account(buckets.as_text(buckets.service_account()))

    assert json.loads(kept.password).keys() == {"private_key", "private_key_id"}
    assert "PRIVATE" not in repr(kept)


@pytest.mark.parametrize("text", [None, "", "{", "[]", "7", '{"client_email": "a@b", "private_key": "x"}'])
def test_what_is_no_service_account_is_not_echoed(text):
    with pytest.raises(InvalidError, match="is not the JSON key of a service account"):
        bucket_keys.service_account(text)


@pytest.mark.parametrize(
    "value",
    ["minio", "ftp://x", "https://", "https://u:hunter2@x", "http://x?y", "http://x:99999", "http://[x"],
)
def test_an_endpoint_that_is_none_is_refused_without_its_password(value):
    with pytest.raises(SettingsError, match="SPELL_GS_ENDPOINT must be an address") as caught:
        read_endpoints("https://minio.example.org:9000/", value)

    assert "hunter2" not in str(caught.value)


def test_endpoints_are_where_the_operator_says_or_the_clouds_own():
    assert read_endpoints("https://minio.example.org:9000/", "") == Endpoints(
        "https://minio.example.org:9000", ""
    )


async def test_a_listing_that_takes_long_gives_signs_of_life_and_says_at_its_end_that_it_is_whole():
    ready = asyncio.Event()

    async def pages():
        await ready.wait()
        yield [bucket_listing.object_entry(thing("a"))]

    lines = lines_of(pages(), 0.01)
    first = [await anext(lines), await anext(lines)]
    ready.set()
    rest = b"".join([line async for line in lines])

    assert first == [b"\n", b"\n"]
    assert [json.loads(line) for line in rest.split(b"\n") if line][1:] == [{"end": 1}]


async def test_what_is_lent_for_a_role_is_got_once_and_anew_before_it_ends():
    now, lent = [1e9], []

    async def lend(role):
        await asyncio.sleep(0)
        lent.append(role)
        return Lent("key", f"secret {len(lent)}", None, now[0] + 600)

    roles = Roles(lend, lambda: now[0])
    async with asyncio.TaskGroup() as several:
        for _ in range(5):
            several.create_task(roles.renew("role"))
    now[0] += 400
    await roles.renew("role")
    assert lent == ["role"]
    now[0] += 100
    await roles.renew("role")

    assert roles.current("role").secret_key == "secret 2"
    assert "secret" not in repr(roles.current("role"))


def _bytes(part):
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))

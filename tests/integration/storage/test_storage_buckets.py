"""Buckets of others, on a real server for them: listed, read and tried; what is refused, and what is never told."""

import base64
import json
import signal
from datetime import UTC, datetime

import orjson
import pytest
from pydantic import TypeAdapter

from spell_proto import database
from spell_proto.buckets import BucketList, BucketView
from spell_proto.errors import ConflictError, InvalidError, NotFoundError, RefusedError
from spell_storage import bucket_listing, bucket_stores
from spell_storage import buckets as buckets_of_storage
from support import amazon, buckets, web

pytestmark = pytest.mark.integration
VIEW = TypeAdapter(BucketView)
LIST = TypeAdapter(BucketList)
NOTHING = TypeAdapter(dict[str, None])
TREE = {
    "readme.txt": b"read me",
    "annual/2024.csv": b"rain" * 1000,
    "annual/2025.csv": b"sun",
    "annual/deep/x": b"x",
    "annual-old/1999.csv": b"old",
    "with blank/é%2F.txt": b"odd",
}


@pytest.fixture(scope="module")
def clouds(tmp_path_factory):
    with buckets.clouds(tmp_path_factory.mktemp("clouds")) as made:
        yield made


@pytest.fixture(scope="module")
def reading(postgres, module_storage, clouds):
    # Who the service is itself must never be shown to a bucket.
    own = {
        "AWS_ACCESS_KEY_ID": "OWN",
        "AWS_SECRET_ACCESS_KEY": "own-own-own",
        "AWS_SESSION_TOKEN": "own-token",
    }
    return module_storage(postgres.url("storage"), **clouds.settings, **own)


@pytest.fixture
async def api(reading):
    async with reading.client() as caller:
        yield caller


async def lines(api, url, *, recursive=False):
    params = {"url": url, "recursive": int(recursive)}
    async with api.open("GET", "/buckets/list", params=params, stream=True) as answer:
        found = [orjson.loads(line) for line in (await answer.read()).splitlines() if line]
    assert found[-1] == {"end": len(found) - 1}
    return found[:-1]


async def listed(api, url, **how):
    return [(entry["key"], entry["size"]) for entry in await lines(api, url, **how)]


async def read(api, url, etag=None, **headers):
    params = {"url": url} | ({"etag": etag} if etag else {})
    async with api.open("GET", "/buckets/object", params=params, headers=headers, stream=True) as answer:
        return answer.status, answer.headers, await answer.read()


async def refused(kind, call):
    with pytest.raises(kind) as caught:
        await call
    return caught.value


@pytest.mark.parametrize("scheme", ["s3", "gs"])
async def test_a_public_bucket_is_listed_and_read_by_anybody(api, clouds, scheme):
    clouds.bucket("publicdata", TREE)
    at = f"{scheme}://publicdata"

    assert await listed(api, at) == [
        ("annual-old", None),
        ("annual", None),
        ("readme.txt", 7),
        ("with blank", None),
    ]
    assert await listed(api, f"{at}/annual/") == [
        ("annual/2024.csv", 4000),
        ("annual/2025.csv", 3),
        ("annual/deep", None),
    ]
    everything = await lines(api, at, recursive=True)
    assert [entry["key"] for entry in everything] == sorted(TREE, key=str.encode)
    for entry in everything:
        assert (await read(api, f"{at}/{entry['key']}", entry["etag"]))[2] == TREE[entry["key"]]
        assert abs((datetime.now(UTC) - datetime.fromisoformat(entry["modified_at"])).total_seconds()) < 600
    assert await listed(api, f"{at}/annual/2025.csv", recursive=True) == [("annual/2025.csv", 3)]


async def test_a_part_of_an_object_is_read_alone(api, clouds):
    clouds.bucket("parts", {"digits": b"0123456789"})
    url = "s3://parts/digits"

    status, headers, data = await read(api, url, Range="bytes=3-5")
    assert (status, headers["Content-Range"], data) == (206, "bytes 3-5/10", b"345")
    assert (await read(api, url, Range="bytes=7-"))[2] == b"789"
    assert (await read(api, url, Range="bytes=-2"))[2] == b"89"
    assert (await refused(RefusedError, read(api, url, Range="bytes=10-"))).status == 416


async def test_an_object_that_has_changed_is_not_taken_for_the_one_that_was_listed(api, clouds):
    clouds.bucket("changing", {"a": b"before"})
    (entry,) = await lines(api, "s3://changing")
    clouds.put("changing", "a", b"after!")

    error = await refused(ConflictError, read(api, "s3://changing/a", entry["etag"]))
    also = await refused(ConflictError, read(api, "s3://changing/a", entry["etag"], Range="bytes=1-"))

    assert (error.code, also.code) == ("object_changed", "object_changed")
    assert error.message == "'s3://changing/a' is another object by now"


async def test_an_object_of_many_pieces_and_a_listing_of_many_pages_come_whole(api, clouds):
    data = bytes(range(256)) * (12 << 12)
    many = {f"many/{number:04}": b"x" for number in range(1010)}
    clouds.bucket("large", {"big": data} | many)

    assert (await read(api, "s3://large/big"))[2] == data
    assert len(await listed(api, "s3://large/many", recursive=True)) == 1010
    assert len(await listed(api, "s3://large/many")) == 1010


MANY = {
    "large directories and many objects": (
        [
            *(f"large{at}/{number:02}" for at in range(2) for number in range(25)),
            *(f"object{number:02}" for number in range(35)),
            "zz/last",
        ],
        ["large0/", "large1/", *(f"object{number:02}" for number in range(35)), "zz/"],
    ),
    "directories alone": (
        [*(f"d{at:02}/{number:02}" for at in range(14) for number in range(8)), "readme"],
        [*(f"d{at:02}/" for at in range(14)), "readme"],
    ),
}


@pytest.mark.parametrize("scheme", ["s3", "gs"])
@pytest.mark.parametrize("what", MANY)
async def test_a_level_of_many_pages_is_told_whole(clouds, scheme, what):
    """What is in a directory is passed over; of a level of nothing but directories the bucket itself is asked."""
    keys, wanted = MANY[what]
    clouds.bucket("levels", dict.fromkeys(keys, b"x"))
    stores = bucket_stores.Stores(bucket_stores.Endpoints(clouds.amazon.url, clouds.amazon.url))
    store = await stores.open(scheme, "levels", None)

    found = [entry async for page in buckets_of_storage.level_below(store, "", 10) for entry in page]

    assert [bucket_listing.rank(entry) for entry in found] == wanted


@pytest.mark.parametrize("recursive", [False, True])
async def test_what_consoles_make_for_a_directory_is_no_file(api, clouds, recursive):
    clouds.bucket(
        "marked", {"d/": b"", "d/e/": b"", "d/e/x": b"1", "d/empty/": b"", "d/file": b"", "f": b"2"}
    )

    found = await listed(api, "s3://marked/d", recursive=recursive)

    assert found == [
        *([("d/e/x", 1)] if recursive else [("d/e", None), ("d/empty", None)]),
        ("d/file", 0),
    ]


@pytest.mark.parametrize("key", ["d//x", "d/../x", "d/./x", "d/tab\tx"])
async def test_a_key_that_is_no_path_is_refused_by_its_name(api, clouds, key):
    clouds.bucket("odd", {"fine/a": b"1", key: b"2"})

    error = await refused(InvalidError, lines(api, "s3://odd", recursive=True))

    assert error.code == "bucket_key_invalid"
    assert "'s3://odd' holds an object whose key is no path: 'd/" in error.message
    assert await listed(api, "s3://odd/fine") == [("fine/a", 1)]


@pytest.mark.parametrize("scheme", ["s3", "gs"])
async def test_what_is_not_there_and_what_may_not_be_read_are_told_apart(api, clouds, scheme):
    clouds.bucket("closed", {"secret": b"x"}, public=False)
    clouds.bucket("open", {"a": b"x"})

    missing = await refused(NotFoundError, lines(api, f"{scheme}://nowhere"))
    nothing = await refused(NotFoundError, lines(api, f"{scheme}://open/b"))
    unread = await refused(NotFoundError, read(api, f"{scheme}://open/b"))
    closed = await refused(RefusedError, read(api, f"{scheme}://closed/secret"))

    assert (missing.code, missing.message) == (
        "bucket_not_found",
        f"'{scheme}://nowhere': there is no such bucket",
    )
    assert nothing.code == unread.code == "resource_not_found"
    assert (closed.status, closed.code) == (403, "bucket_denied")
    assert f"spell cluster add-bucket {scheme}://closed" in closed.message
    assert await listed(api, f"{scheme}://open") == [("a", 1)]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "runs/1",
        "s3://",
        "s3://UPPER_",
        "s3://a",
        "s3://a..b/x",
        "s3://169.254.169.254:80/x",
        "s3://user:pw@host/x",
        "s3://bucket/a/../b",
        "s3://bucket/a//b",
        "http://bucket/x",
        "file:///etc/passwd",
        "gs://b\n/x",
    ],
)
async def test_what_names_no_bucket_is_asked_nowhere(api, url):
    error = await refused(InvalidError, lines(api, url))

    assert error.code == "bucket_invalid"


async def put(api, url, **given):
    return await api.call("PUT", "/buckets", VIEW, params={"url": url}, body=given, seconds=60)


async def remove(api, url):
    await api.call("DELETE", "/buckets", NOTHING, params={"url": url})


async def test_an_access_key_that_may_read_is_stored_and_used_and_never_told(api, reading, clouds, postgres):
    clouds.bucket("team-data", {"a/b": b"private"}, public=False)
    key, secret = clouds.amazon.person("reader", "s3:ListBucket", "s3:GetObject")
    lister, listers = clouds.amazon.person("lister", "s3:ListBucket")
    nobody, nobodys = clouds.amazon.person("nobody", "ec2:*")
    clouds.amazon.guard()
    try:
        for given in (
            (nobody, nobodys),
            (lister, listers),
            (key, "wrong-wrong-wrong"),
            ("AKIANOBODY", secret),
        ):
            error = await refused(
                InvalidError,
                put(api, "s3://team-data", access_key_id=given[0], secret_access_key=given[1]),
            )
            assert error.code == "bucket_credentials_refused"
            assert "nothing was stored" in error.message
            assert given[1] not in error.message
        stored = await put(api, "s3://team-data", access_key_id=key, secret_access_key=secret)

        assert (stored.url, stored.kind, stored.username) == ("s3://team-data", "aws_key", key)
        assert await listed(api, "s3://team-data/a") == [("a/b", 7)]
        assert (await read(api, "s3://team-data/a/b"))[2] == b"private"
    finally:
        clouds.amazon.unguard()
    async with api.open("GET", "/buckets") as answer:
        assert secret not in await answer.text()
    async with database.pool(postgres.url("storage"), "storage") as pool:
        row = await pool.fetchrow("SELECT * FROM buckets WHERE url = 's3://team-data'")
    assert secret.encode() not in row["secret"]
    assert base64.b64encode(secret.encode()) not in row["secret"]
    assert not [text for text in (secret, "own-own-own", "own-token") if text in reading.log]
    await remove(api, "s3://team-data")
    assert (await refused(RefusedError, read(api, "s3://team-data/a/b"))).code == "bucket_denied"
    assert (await refused(NotFoundError, remove(api, "s3://team-data"))).code == "credentials_not_found"


async def test_the_key_of_a_service_account_reads_buckets_of_google(api, reading, clouds):
    """Moto reads no token of Google's; that it came with one is all that can be seen of it here."""
    clouds.bucket("gsteam", {"a": b"google"})
    account = buckets.service_account()

    stored = await put(api, "gs://gsteam", service_account_key=buckets.as_text(account))

    assert (stored.kind, stored.username) == ("google_key", "reader@project.example.org")
    assert (await read(api, "gs://gsteam/a"))[2] == b"google"
    assert (await api.call("GET", "/buckets", LIST)).buckets == (stored,)
    assert account["private_key"].splitlines()[3] not in reading.log
    await remove(api, "gs://gsteam")


SECRET = "hunter2-hunter2"
BAD = [
    ("s3://team-data", {"secret_access_key": SECRET}, "access_key_id"),
    ("s3://team-data", {"access_key_id": SECRET, "secret_access_key": ""}, "secret_access_key"),
    ("s3://team-data", {"access_key_id": f"{SECRET}\n", "secret_access_key": SECRET}, "access_key_id"),
    ("s3://team-data", {"access_key_id": "AKIA", "secret_access_key": f"{SECRET} x"}, "secret_access_key"),
    ("gs://gsteam", {"access_key_id": "AKIA", "secret_access_key": SECRET}, "service_account_key"),
    *(
        ("gs://gsteam", {"service_account_key": text}, "service_account_key")
        for text in (
            SECRET,
            "[]",
            "{}",
            json.dumps({"client_email": "a@b.c", "private_key": SECRET}),
            json.dumps({"client_email": "a@b.c", "private_key": 7}),
            json.dumps({"client_email": 7, "private_key": SECRET}),
        )
    ),
]


@pytest.mark.parametrize(("url", "given", "field"), BAD)
async def test_credentials_that_are_none_are_sent_nowhere_and_not_echoed(api, url, given, field):
    error = await refused(InvalidError, put(api, url, **given))

    assert (error.code, error.field) == ("secret_invalid", field)
    assert "hunter2" not in error.message


READER = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ["s3:ListBucket", "s3:GetObject"], "Resource": "*"}]}'


async def test_the_role_of_the_cluster_reads_a_bucket_once_it_may(postgres, start_storage, clouds):
    """Signatures and policies count: the server itself may only become the role."""
    clouds.amazon.reset()
    clouds.bucket("role-data", {"a": b"for the role"}, public=False)
    server = clouds.amazon.person("server", "sts:AssumeRole", "sts:GetCallerIdentity")
    admin = clouds.amazon.person("admin", "iam:*")
    settings = {**clouds.settings, **clouds.amazon.variables(*server), "SPELL_AWS_ROLE": amazon.ROLE}
    service = start_storage(postgres.url("storage"), **settings)
    clouds.amazon.guard()
    try:
        async with service.client() as caller:
            error = await refused(InvalidError, put(caller, "s3://role-data"))
            assert (error.code, error.message) == (
                "bucket_credentials_refused",
                f"s3://role-data does not let the role {amazon.ROLE} list and read it; nothing was stored",
            )
            clouds.amazon.client("iam", *admin).put_role_policy(
                RoleName="spell-cluster", PolicyName="x", PolicyDocument=READER
            )

            stored = await put(caller, "s3://role-data")

            assert (stored.kind, stored.username) == ("aws_role", amazon.ROLE)
            assert (await read(caller, "s3://role-data/a"))[2] == b"for the role"
            assert server[1] not in service.log
            await remove(caller, "s3://role-data")
    finally:
        clouds.amazon.unguard()


async def test_a_server_that_cannot_be_the_role_says_why(postgres, start_storage, clouds):
    settings = {"SPELL_AWS_ROLE": amazon.ROLE, "AWS_EC2_METADATA_DISABLED": "true"}
    service = start_storage(postgres.url("storage"), **clouds.settings, **settings)
    async with service.client() as caller:
        error = await refused(RefusedError, put(caller, "s3://role-data"))

    assert error.code == "bucket_role_failed"
    assert "the server has no AWS identity of its own" in error.message


async def test_a_cluster_without_a_role_is_told_what_else_there_is(api):
    error = await refused(InvalidError, put(api, "s3://team-data"))

    assert error.code == "bucket_role_missing"
    assert "--access-key-id" in error.message


async def test_a_bucket_that_has_moved_is_found_again(api, clouds):
    """Where it is was looked up once; that it was gone meanwhile is noticed."""
    clouds.bucket("moving-house", {"a": b"here"})
    assert await listed(api, "s3://moving-house") == [("a", 4)]
    clouds.s3.delete_object(Bucket="moving-house", Key="a")
    clouds.s3.delete_bucket(Bucket="moving-house")
    assert (await refused(NotFoundError, lines(api, "s3://moving-house"))).code == "bucket_not_found"
    clouds.bucket("moving-house", {"b": b"there"})

    assert await listed(api, "s3://moving-house") == [("b", 5)]


async def test_credentials_are_for_a_whole_bucket(api):
    error = await refused(
        InvalidError, put(api, "s3://team-data/a", access_key_id="AKIA", secret_access_key=SECRET)
    )

    assert error.message == "url: 's3://team-data/a' is in a bucket; s3://team-data is one"


async def test_credentials_are_good_for_their_own_row_and_with_their_own_key_alone(
    postgres, start_storage, clouds
):
    clouds.bucket("mine", {"a": b"x"})
    service = start_storage(postgres.url("storage"), **clouds.settings)
    async with service.client() as caller, database.pool(postgres.url("storage"), "storage") as pool:
        await put(caller, "s3://mine", access_key_id="AKIAMINE", secret_access_key=SECRET)
        await pool.execute(
            "INSERT INTO buckets SELECT 's3://other', kind, username, secret FROM buckets WHERE url = 's3://mine'"
        )
        assert (
            await refused(RefusedError, lines(caller, "s3://other"))
        ).code == "bucket_credentials_unreadable"

        service.stop(signal.SIGKILL)
        (service.data / "git-credentials.key").unlink()
        service.start()
        error = await refused(RefusedError, lines(caller, "s3://mine"))

        assert "an administrator must store them again" in error.message
        for url in ("s3://mine", "s3://other"):
            await remove(caller, url)


async def test_a_cloud_that_is_away_is_said_to_be_away(postgres, start_storage):
    service = start_storage(
        postgres.url("storage"),
        SPELL_S3_ENDPOINT="http://127.0.0.1:1",
        SPELL_GS_ENDPOINT="http://127.0.0.1:1",
    )
    async with service.client() as caller:
        for url in ("s3://anything", "gs://anything"):
            error = await refused(RefusedError, lines(caller, url))
            assert (error.status, error.message) == (
                424,
                f"'{url}' cannot be reached right now; try again",
            )


async def test_buckets_are_reached_through_the_operators_proxy_with_his_authority(
    postgres, start_storage, tmp_path
):
    """This machine does not know the name of the cloud."""
    name = "cloud.example.org"
    with (
        buckets.clouds(tmp_path, names=(name,)) as clouds,
        web.proxy(
            {f"{name}:443": int(clouds.amazon.url.rpartition(":")[2])}, "robot:pr0xy-password"
        ) as between,
    ):
        clouds.bucket("behind", {"a": b"far away"})
        settings = {
            "SPELL_S3_ENDPOINT": f"https://{name}",
            "SPELL_GS_ENDPOINT": f"https://{name}",
            "SPELL_HTTPS_PROXY": between.url,
        }
        trusting = start_storage(
            postgres.url("storage"), **settings, SPELL_CA_BUNDLE=str(tmp_path / "ca.pem")
        )
        doubting = start_storage(postgres.url("storage"), **settings)
        for scheme in ("s3", "gs"):
            async with trusting.client() as caller:
                assert await listed(caller, f"{scheme}://behind") == [("a", 8)]
                assert (await read(caller, f"{scheme}://behind/a"))[2] == b"far away"
            async with doubting.client() as caller:
                assert (await refused(RefusedError, lines(caller, f"{scheme}://behind"))).status == 424

    assert between.connects.keys() == {f"{name}:443"}
    assert "pr0xy" not in trusting.log + doubting.log


async def test_the_region_of_a_bucket_is_found_out(clouds):
    clouds.bucket("far-away", {"a": b"x"})
    stores = bucket_stores.Stores(bucket_stores.Endpoints(clouds.amazon.url, clouds.amazon.url))

    store = await stores.open("s3", "far-away", None)

    assert store.config["region"] == buckets.REGION

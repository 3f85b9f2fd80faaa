"""Logins of private registries: tried at a real registry, stored encrypted, told to services; what is not asked, and why."""

import asyncio
import base64
import signal
import socket
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from pydantic import TypeAdapter

from spell_proto import database, http
from spell_proto.errors import InvalidError, NotFoundError, RefusedError
from spell_proto.registries import RegistryList, RegistryView, login_for
from support import registries
from support import web as web_support

pytestmark = pytest.mark.integration
VIEW = TypeAdapter(RegistryView)
LIST = TypeAdapter(RegistryList)
NOTHING = TypeAdapter(dict[str, None])
SECRET = "hunter2-hunter2"


@pytest.fixture(scope="module")
def keeping(postgres, module_storage):
    """A service whose operator lets images come from this machine."""
    return module_storage(
        postgres.url("storage"), SPELL_DOCKER_REGISTRIES="docker.io,127.0.0.1:*,localhost:*"
    )


@pytest.fixture
async def api(keeping):
    async with keeping.client() as caller:
        yield caller


@pytest.fixture(scope="module")
def private(tmp_path_factory):
    with registries.registry(tmp_path_factory.mktemp("private"), "ada", SECRET) as host:
        yield host


@asynccontextmanager
async def odd_registry(answer):
    """A registry on this machine that answers as the test says."""
    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    async with http.serve(app, "http://127.0.0.1:0") as port:
        yield f"127.0.0.1:{port}"


async def put(api, registry, username="ada", password=SECRET):
    body = {"username": username, "password": password}
    return await api.call("PUT", f"/registries/{registry}", VIEW, body=body, seconds=60)


async def refusal(api, registry, *words):
    with pytest.raises(InvalidError) as caught:
        await put(api, registry, *words)
    assert SECRET not in caught.value.message
    return caught.value


async def known(api):
    return {one.registry for one in (await api.call("GET", "/registries", LIST)).registries}


async def test_a_login_that_the_registry_takes_is_stored_and_told_to_services_alone(
    api, keeping, private, postgres
):
    stored = await put(api, private)

    assert (stored.registry, stored.kind, stored.username) == (private, "login", "ada")
    async with api.open("GET", "/registries") as answer:
        assert SECRET not in await answer.text()
    told = await login_for(api, private)
    assert told is not None
    assert (told.username, told.password) == ("ada", SECRET)
    async with database.pool(postgres.url("storage"), "storage") as pool:
        row = await pool.fetchrow("SELECT * FROM registries WHERE registry = $1", private)
    assert SECRET.encode() not in row["secret"]
    assert base64.b64encode(SECRET.encode()) not in row["secret"]
    assert SECRET not in keeping.log
    await api.call("DELETE", f"/registries/{private}", NOTHING)
    assert await login_for(api, private) is None


async def test_a_login_is_told_to_nobody_without_the_token_of_the_cluster(api, keeping, private):
    await put(api, private)
    for token in ("", "another-token-of-tests", f"{registries.TOKEN}x"):
        async with keeping.client(token) as other:
            with pytest.raises(RefusedError, match="SPELL_REGISTRY_TOKEN") as caught:
                await login_for(other, private)
            assert (caught.value.status, caught.value.code) == (403, "registry_login_withheld")
            assert await login_for(other, "registry.example.org") is None, "images of others are pulled"
    await api.call("DELETE", f"/registries/{private}", NOTHING)


async def test_without_a_token_storage_tells_nobody_any_login(postgres, start_storage, private):
    service = start_storage(
        postgres.url("storage"), SPELL_DOCKER_REGISTRIES="127.0.0.1:*", SPELL_REGISTRY_TOKEN=""
    )
    async with service.client("") as caller:
        await put(caller, private)
        with pytest.raises(RefusedError, match="SPELL_REGISTRY_TOKEN"):
            await login_for(caller, private)
        await caller.call("DELETE", f"/registries/{private}", NOTHING)


async def test_a_wrong_password_is_told_at_once_and_the_stored_one_stays(api, private):
    await put(api, private)

    error = await refusal(api, private, "ada", "wrong-wrong")
    also = await refusal(api, private, "eve", SECRET)

    assert (error.code, error.field) == ("registry_login_refused", "password")
    assert (
        error.message == f"registry: {private} does not take this user name and password; nothing was stored"
    )
    assert also.code == "registry_login_refused"
    assert (await login_for(api, private)).password == SECRET
    await api.call("DELETE", f"/registries/{private}", NOTHING)


async def test_a_registry_that_asks_nobody_takes_everything(api, tmp_path):
    with registries.registry(tmp_path) as host:
        await put(api, host)

    assert host in await known(api)
    await api.call("DELETE", f"/registries/{host}", NOTHING)


async def test_the_key_of_a_service_account_is_a_password_like_any_other(api, tmp_path):
    """Google's registries know it by the user name `_json_key`."""
    key = '{"type":"service_account","client_email":"a@b","private_key":"-----BEGIN\\n' + "x" * 24 + '\\n"}'
    with registries.registry(tmp_path, "_json_key", key) as host:
        await put(api, host, "_json_key", key)
        assert (await login_for(api, host)).password == key
        assert (
            await refusal(api, host, "_json_key", key.replace("a@b", "c@d"))
        ).code == "registry_login_refused"
    await api.call("DELETE", f"/registries/{host}", NOTHING)


async def test_tokens_are_got_from_where_the_registry_says(api):
    """As Docker does: the login goes to whoever hands out tokens, the token goes to the registry."""
    asked = []

    async def answer(request):
        asked.append(
            (request.path, dict(request.query), request.headers.get("Authorization", "").split(" ")[0])
        )
        if request.path == "/token":
            good = request.headers["Authorization"] == "Basic " + base64.b64encode(b"ada:right").decode()
            return web.json_response(
                {"token": "t0ken"} if good else {"details": "no"}, status=200 if good else 401
            )
        if request.headers.get("Authorization") == "Bearer t0ken":
            return web.Response()
        challenge = f'Bearer realm="http://{request.host}/token",service="things",scope="x"'
        return web.Response(status=401, headers={"WWW-Authenticate": challenge})

    async with odd_registry(answer) as host:
        await put(api, host, "ada", "right")
        assert (await refusal(api, host, "ada", SECRET)).code == "registry_login_refused"

    assert asked[:3] == [
        ("/v2/", {}, ""),
        ("/token", {"account": "ada", "service": "things"}, "Basic"),
        ("/v2/", {}, "Bearer"),
    ]
    await api.call("DELETE", f"/registries/{host}", NOTHING)


async def test_a_registry_with_a_certificate_of_the_operators_own_authority_is_trusted_where_he_says_so(
    api, postgres, start_storage, tmp_path
):
    with registries.registry(tmp_path, "ada", SECRET, tls=True) as host:
        trusting = start_storage(
            postgres.url("storage"),
            SPELL_DOCKER_REGISTRIES="127.0.0.1:*",
            SPELL_CA_BUNDLE=str(tmp_path / "ca.pem"),
        )
        assert (await refusal(api, host)).code == "registry_odd"
        async with trusting.client() as caller:
            await put(caller, host)
            assert (await refusal(caller, host, "ada", "wrong-wrong")).code == "registry_login_refused"
            await caller.call("DELETE", f"/registries/{host}", NOTHING)


@pytest.mark.parametrize("login", ["", "proxy-user:pr0xy-password"])
async def test_a_registry_behind_the_operators_proxy_is_asked_through_it(
    postgres, start_storage, tmp_path, login
):
    """This machine need not know its name, nor whether the address behind it is public."""
    name = "registry.example.org"
    with (
        registries.registry(tmp_path, "ada", SECRET, tls=True, name=name) as host,
        web_support.proxy({f"{name}:443": int(host.rpartition(":")[2])}, login) as between,
    ):
        service = start_storage(
            postgres.url("storage"), SPELL_CA_BUNDLE=str(tmp_path / "ca.pem"), SPELL_HTTPS_PROXY=between.url
        )
        async with service.client() as caller:
            await put(caller, name)
            assert (await refusal(caller, name, "ada", "wrong-wrong")).code == "registry_login_refused"
            elsewhere = await refusal(caller, "elsewhere.example.org")
            private = await refusal(caller, "localhost:5000")
            await caller.call("DELETE", f"/registries/{name}", NOTHING)

    assert between.connects == {f"{name}:443": 2}
    assert elsewhere.code == "registry_unreachable"
    assert private.code == "registry_not_public"
    assert "pr0xy" not in service.log + elsewhere.message


ODD = [
    (302, {"Location": "http://127.0.0.1:1/"}, "sends us elsewhere, which is not followed"),
    (307, {"Location": "https://example.org/v2/"}, "HTTP 307"),
    (404, {}, "HTTP 404"),
    (500, {}, "HTTP 500"),
    (401, {}, "HTTP 401"),
    (401, {"WWW-Authenticate": "Negotiate"}, "HTTP 401"),
    (401, {"WWW-Authenticate": 'Bearer realm="ftp://127.0.0.1/x"'}, "read by others on the way"),
    (401, {"WWW-Authenticate": 'Bearer realm="/token"'}, "read by others on the way"),
    (401, {"WWW-Authenticate": 'Bearer realm="http://127.0.0.1:1/"'}, "nobody answers there"),
]


@pytest.mark.parametrize(("status", "headers", "words"), ODD)
async def test_what_does_not_answer_as_a_registry_does_is_named_and_never_followed(
    api, status, headers, words
):
    seen = []

    async def answer(request):
        seen.append(request.headers.get("Authorization"))
        return web.Response(status=status, headers=headers)

    async with odd_registry(answer) as host:
        error = await refusal(api, host)

    assert error.code in {"registry_odd", "registry_unreachable"}
    assert words in error.message
    assert seen == [None]
    assert host not in await known(api)


@pytest.mark.parametrize(
    "body", [b"", b"no json", b"[]", b"null", b'{"token": 1}', b'{"token": "a\\nb"}', b"x" * (1 << 20)]
)
async def test_a_token_that_is_none_is_not_sent_on(api, body):
    seen = []

    async def answer(request):
        seen.append(request.path)
        if request.path == "/token":
            return web.Response(body=body)
        challenge = f'Bearer realm="http://{request.host}/token"'
        return web.Response(status=401, headers={"WWW-Authenticate": challenge})

    async with odd_registry(answer) as host:
        assert (await refusal(api, host)).code == "registry_odd"
    assert seen == ["/v2/", "/token"]


async def test_a_registry_that_is_silent_is_given_up(api):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = asyncio.get_running_loop().time()
        error = await refusal(api, f"127.0.0.1:{silent.getsockname()[1]}")

    assert error.code == "registry_unreachable"
    assert "does not answer within 10 s" in error.message
    assert asyncio.get_running_loop().time() - began < 20


async def test_a_closed_port_and_a_name_that_nobody_has_are_told_apart_where_they_may_be_asked(api):
    assert "nobody answers there" in (await refusal(api, "127.0.0.1:1")).message
    assert "there is no host of this name" in (await refusal(api, "nowhere.invalid")).message


PRIVATE = [
    "127.0.0.1:{port}",
    "127.1:{port}",
    "2130706433.:{port}",
    "localhost:{port}",
    "10.0.0.1:{port}",
    "169.254.169.254",
    "192.168.0.1:5000",
    "0.0.0.0:{port}",
]


@pytest.mark.parametrize("registry", PRIVATE)
async def test_what_is_not_public_is_not_asked_unless_an_operator_listed_it(storage, registry):
    """One sentence for open and closed ports, and nothing reaches either."""
    reached = []

    async def answer(request):
        reached.append(request.path)
        return web.Response()

    async with odd_registry(answer) as host, storage.client() as caller:
        error = await refusal(caller, registry.format(port=host.rpartition(":")[2]))

    assert error.code in {"registry_not_public", "registry_unreachable", "registry_invalid"}, error.message
    assert reached == []


async def test_an_open_and_a_closed_port_of_this_machine_give_the_same_answer(storage, private):
    async with storage.client() as caller:
        opened, closed = [await refusal(caller, host) for host in (private, "127.0.0.1:1")]

    assert opened.code == closed.code == "registry_not_public"
    assert opened.message.replace(private, "x") == closed.message.replace("127.0.0.1:1", "x")


@pytest.mark.parametrize(
    ("username", "password", "code", "field"),
    [
        ("", SECRET, "secret_invalid", "username"),
        ("a:b", SECRET, "secret_invalid", "username"),
        ("a\nb", SECRET, "secret_invalid", "username"),
        ("ä", SECRET, "secret_invalid", "username"),
        ("x" * 256, SECRET, "secret_invalid", "username"),
        ("ada", "", "secret_invalid", "password"),
        ("ada", SECRET + "\n", "secret_invalid", "password"),
        ("ada", SECRET + "\0", "secret_invalid", "password"),
        ("ada", SECRET + "ü", "secret_invalid", "password"),
        ("ada", SECRET * 2000, "secret_invalid", "password"),
        ("oauth2accesstoken", SECRET, "registry_login_fleeting", "username"),
    ],
)
async def test_a_login_that_makes_no_sense_is_sent_nowhere(api, private, username, password, code, field):
    error = await refusal(api, private, username, password)

    assert (error.code, error.field) == (code, field)


async def test_nothing_is_known_of_a_registry_that_was_never_added(api):
    assert await login_for(api, "registry.example.org") is None
    with pytest.raises(NotFoundError, match="no login is stored for the registry"):
        await api.call("DELETE", "/registries/registry.example.org", NOTHING)
    for odd in ("team", "a%20b", "-x.org"):
        with pytest.raises(InvalidError, match="is no registry"):
            await api.call("DELETE", f"/registries/{odd}", NOTHING)


async def test_a_login_is_good_for_its_own_row_and_with_its_own_key_alone(postgres, start_storage, private):
    service = start_storage(postgres.url("storage"), SPELL_DOCKER_REGISTRIES="127.0.0.1:*")
    async with service.client() as caller, database.pool(postgres.url("storage"), "storage") as pool:
        await put(caller, private)
        move = "INSERT INTO registries SELECT 'evil.example.org', kind, username, secret FROM registries WHERE registry = $1"
        await pool.execute(move, private)
        with pytest.raises(RefusedError, match="an administrator must store it again"):
            await login_for(caller, "evil.example.org")

        service.stop(signal.SIGKILL)
        (service.data / "git-credentials.key").unlink()
        service.start()
        with pytest.raises(RefusedError, match="an administrator must store it again"):
            await login_for(caller, private)
        await put(caller, private)
        assert (await login_for(caller, private)).password == SECRET
        await pool.execute("DELETE FROM registries")

"""HTTP between services and to the world: one error shape, one way to listen, one way to call (shell).

Addresses are `unix:///path/to.sock` or `http://host:port`.
"""

import asyncio
import errno
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import aiohttp
import orjson
from aiohttp import web
from pydantic import BaseModel, TypeAdapter, ValidationError

from spell_proto import logs
from spell_proto.errors import BY_STATUS, FullError, InvalidError, RefusedError, UnavailableError, shown

log = logs.get()
T = TypeVar("T")

BODY_BYTES_MAX = 1 << 20
#: Of a body with more wrong members than this, the first are named.
PROBLEMS_MAX = 20
#: Any other answer is there within this time, whatever is asked for it elsewhere.
CALL_SECONDS_MAX = 30.0
#: An answer that is read as it comes begins within this time, or the other side has hung.
HEADERS_SECONDS_MAX = 10.0
#: It may pause for so long, and the work that follows an upload may take so long.
SILENT_SECONDS_MAX = 600.0
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def json_response(value: BaseModel | dict[str, Any], status: int = 200) -> web.Response:
    """An answer with a JSON body."""
    plain = value.model_dump() if isinstance(value, BaseModel) else value
    return web.Response(body=orjson.dumps(plain), status=status, content_type="application/json")


def refusal_response(error: RefusedError) -> web.Response:
    """The answer that says why a request was not carried out."""
    headers = {"Retry-After": "1"} if error.status == 503 else None
    return web.Response(
        body=orjson.dumps(error.body()), status=error.status, content_type="application/json", headers=headers
    )


#: Errors of asyncpg that say nothing about the request. By name: not every service has a database.
_DATABASE_AWAY = frozenset(
    {
        "AdminShutdownError",
        "CannotConnectNowError",
        "ConnectionDoesNotExistError",
        "ConnectionFailureError",
        "CrashShutdownError",
        "DiskFullError",
        "InterfaceError",
        "InternalClientError",
        "LockNotAvailableError",
        "OutOfMemoryError",
        "PostgresConnectionError",
        "QueryCanceledError",
        "ReadOnlySQLTransactionError",
        "TooManyConnectionsError",
    }
)


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def says_full(error: Exception) -> bool:
    """Whether a disk is full. The database has a class for it, the object store a sentence only."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    return type(error).__name__ == "DiskFullError" or any(
        f"(os error {number})" in str(error) for number in _FULL
    )


@web.middleware
async def errors_to_answers(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every refusal becomes its JSON body; whatever else goes wrong is logged and answered without details."""
    try:
        return await handler(request)
    except RefusedError as error:
        return refusal_response(error)
    except web.HTTPException as error:
        code = (error.reason or "error").lower().replace(" ", "_")
        refused = RefusedError(code, f"{request.method} {shown(request.path)}: {error.reason}")
        refused.status = error.status
        return refusal_response(refused)
    except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
        if request.transport is None or request.transport.is_closing():
            raise
        log.warning("a part that is needed does not answer", path=request.path, problem=repr(error))
        return refusal_response(
            UnavailableError("unavailable", "a service does not answer right now; try again")
        )
    except Exception as error:
        if says_full(error):
            log.warning("the disk is full", path=request.path, problem=repr(error))
            return refusal_response(FullError("disk_full", "the disk of the server is full"))
        if type(error).__name__ in _DATABASE_AWAY:
            log.warning("the database does not answer", path=request.path, problem=repr(error))
            return refusal_response(
                UnavailableError("unavailable", "the database does not answer; try again")
            )
        log.exception("a request failed", path=request.path)
        refused = RefusedError("internal", "this is a bug of the server; its log has the details")
        refused.status = 500
        return refusal_response(refused)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise RefusedError("duplicate_key", f"body: the member {shown(twice)} is there twice")
    return members


def _strict(data: bytes) -> None:
    """Refuse what parsers accept although two of them may read it differently: duplicate members, endless depth."""
    try:
        json.loads(data, object_pairs_hook=_unique)
    except RecursionError:
        raise RefusedError("json_invalid", "body: nested too deep") from None
    except ValueError as error:
        raise RefusedError("json_invalid", f"body: no valid JSON: {shown(error)}") from None


async def read_json(request: web.Request, adapter: TypeAdapter[T], *, secret: bool = False) -> T:
    """The body of a request as a shape. A refusal quotes nothing of it where it holds a `secret`.

    Raises:
        RefusedError: 415 for another content type, 413 above 1 MiB, 400 for what is no JSON.
        InvalidError: 422 with all wrong members in one sentence.
    """
    # Read here: aiohttp's own reading of this header stumbles over what is no media type.
    media_type = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        refused = RefusedError("content_type", f"body: {shown(media_type)}, application/json is allowed")
        refused.status = 415
        raise refused
    return parse_json(await request.read(), adapter, secret=secret)


def parse_json(data: bytes, adapter: TypeAdapter[T], *, secret: bool = False) -> T:
    """JSON bytes as a shape; see `read_json` for what it raises."""
    _strict(data)
    try:
        return adapter.validate_json(data)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        if problems[0]["type"] == "json_invalid":
            raise RefusedError("json_invalid", f"body: {problems[0]['msg']}") from None
        raise _all_wrong(problems, secret=secret) from None


def _all_wrong(problems: Sequence[Any], *, secret: bool) -> InvalidError:
    """One refusal that names every wrong member by its JSON path; code and field are those of the first."""
    code, parts = "field_invalid", []
    for number, problem in enumerate(problems[:PROBLEMS_MAX]):
        where = _place(problem["loc"]) or "body"
        refused = problem.get("ctx", {}).get("error")
        if isinstance(refused, InvalidError):
            # A rule of our own: its sentence stands for itself.
            parts.append(refused.message)
            code = refused.code if number == 0 else code
        else:
            silent = secret or problem["type"] == "missing"
            found = "" if silent else f" (found {shown(problem['input'], 40)})"
            parts.append(f"{where}: {problem['msg']}{found}")
    first = problems[0].get("ctx", {}).get("error")
    # A rule about several members has no path; it names the one to look at.
    named = first.field if isinstance(first, InvalidError) else None
    return InvalidError(code, "; ".join(parts), field=_place(problems[0]["loc"]) or named)


def _place(loc: Sequence[str | int]) -> str:
    """The JSON path of a member; a name that somebody made up is escaped and cut like any value."""
    return shown(".".join(str(part) for part in loc))[1:-1]


@asynccontextmanager
async def serve(app: web.Application, address: str) -> AsyncIterator[int | None]:
    """Listen on `address` while the context is open; yields the port of a TCP listener."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0, handler_cancellation=True)
    await runner.setup()
    site: web.BaseSite
    port: int | None = None
    if address.startswith("unix://"):
        path = Path(address.removeprefix("unix://"))
        path.unlink(missing_ok=True)
        site = web.UnixSite(runner, str(path))
        await site.start()
        path.chmod(0o600)
    else:
        host, _, text = address.removeprefix("http://").rpartition(":")
        site = web.TCPSite(runner, host, int(text), reuse_address=True)
        await site.start()
        port = runner.addresses[0][1]
    try:
        yield port
    finally:
        await runner.cleanup()


class Caller:
    """A client of one service. Connections are kept; a refusal comes back as the error it was on the other side. `token`
    says to it who we are.
    """

    def __init__(self, address: str, *, timeout_seconds: float = CALL_SECONDS_MAX, token: str = "") -> None:
        unix = address.startswith("unix://")
        self._base = "http://service" if unix else address.rstrip("/")
        self._path = address.removeprefix("unix://") if unix else None
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds, sock_connect=5)
        self._headers = {"Authorization": f"Bearer {token}"} if token else None
        self._session: aiohttp.ClientSession | None = None

    @property
    def near(self) -> bool:
        """Whether the service listens on this machine, as far as its address says."""
        return self._path is not None

    async def __aenter__(self) -> Self:
        connector = (
            aiohttp.UnixConnector(self._path, limit=0) if self._path else aiohttp.TCPConnector(limit=0)
        )
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=self._timeout, auto_decompress=False, headers=self._headers
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()

    @asynccontextmanager
    async def open(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, Any] | None = None,
        data: Any = None,
        headers: dict[str, str] | None = None,
        stream: bool = False,
        seconds: float | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response to read from. `stream` lifts the total time limit: only its beginning must come soon. `seconds`
        is another total limit than the usual one.

        Raises:
            RefusedError: the other side refused, with its own code and sentence.
            UnavailableError: it does not answer.
        """
        assert self._session is not None
        timeout = self._timeout if seconds is None else aiohttp.ClientTimeout(total=seconds, sock_connect=5)
        if stream:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=SILENT_SECONDS_MAX)
        # A body on its way there takes as long as it takes, and so does making it durable.
        begins_within = HEADERS_SECONDS_MAX if stream and data is None else None
        given = (
            None
            if params is None
            else {name: str(value) for name, value in params.items() if value is not None}
        )
        try:
            async with asyncio.timeout(begins_within):
                response = await self._session.request(
                    method, self._base + path, params=given, data=data, headers=headers, timeout=timeout
                )
            async with response:
                if response.status >= 400:
                    raise _refusal(response.status, await response.read())
                yield response
        except (aiohttp.ClientConnectionError, TimeoutError) as error:
            raise UnavailableError("unavailable", "a service does not answer right now; try again") from error

    async def call(
        self,
        method: str,
        path: str,
        answer: TypeAdapter[T],
        *,
        params: dict[str, Any] | None = None,
        body: BaseModel | dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        seconds: float | None = None,
    ) -> T:
        """Send a JSON request and parse the JSON answer. `seconds` is for work that may take longer than usual."""
        data = None
        sent = dict(headers or {})
        if body is not None:
            data = orjson.dumps(body.model_dump() if isinstance(body, BaseModel) else body)
            sent["Content-Type"] = "application/json"
        async with self.open(
            method, path, params=params, data=data, headers=sent, seconds=seconds
        ) as response:
            return answer.validate_json(await response.read())


def _refusal(status: int, body: bytes) -> RefusedError:
    try:
        members = orjson.loads(body)
        error = BY_STATUS.get(status, RefusedError)(
            str(members["code"]),
            str(members["message"]),
            field=members.get("field"),
            hint=members.get("hint"),
        )
    except (ValueError, KeyError, TypeError):
        error = RefusedError("internal", f"a service answered {status}")
    error.status = status
    return error


async def until_listening(path: Path, seconds: float) -> bool:
    """Whether something accepts connections on a unix socket within `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                try:
                    _, writer = await asyncio.open_unix_connection(str(path))
                except OSError:
                    await asyncio.sleep(0.01)
                else:
                    writer.close()
                    return True
    except TimeoutError:
        return False

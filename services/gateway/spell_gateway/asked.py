"""What a request asks for: path parts, query and body become typed values, or a refusal that names the field."""

import asyncio
import difflib
from collections.abc import Mapping
from typing import TypeVar

from aiohttp import web
from pydantic import TypeAdapter

from spell_gateway.routes import Param
from spell_proto import checks
from spell_proto.errors import InvalidError, RefusedError, shown
from spell_proto.http import read_json

T = TypeVar("T")

#: A client that needs longer to send 1 MiB only wants to hold a connection.
BODY_SECONDS_MAX = 30.0
#: How much of a name that nobody knows is given back.
FIELD_CHARS_MAX = 80


async def body(request: web.Request, adapter: TypeAdapter[T], *, secret: bool = False) -> T:
    """The JSON body of a request. Nothing of it is echoed where it holds a `secret`."""
    if request.headers.get("Content-Encoding", "identity") != "identity":
        refused = RefusedError("content_encoding", "body: it is compressed; plain JSON is allowed")
        refused.status = 415
        raise refused
    try:
        async with asyncio.timeout(BODY_SECONDS_MAX):
            return await read_json(request, adapter, secret=secret)
    except TimeoutError:
        late = RefusedError("request_timeout", f"body: it did not arrive in {BODY_SECONDS_MAX:.0f} seconds")
        late.status = 408
        raise late from None


def query_members(request: web.Request, allowed: Mapping[str, Param]) -> None:
    """Refuse members of the query that mean nothing here, and those that are there twice and hold one value."""
    for name in request.query:
        if name not in allowed:
            near = difflib.get_close_matches(name[:FIELD_CHARS_MAX], allowed, 1)
            raise InvalidError(
                "query_unknown",
                f"{shown(name)}: the query has no such member; {', '.join(allowed) or 'none'} can be given",
                field=shown(name, FIELD_CHARS_MAX)[1:-1],
                hint=f"Did you mean {near[0]}?" if near else None,
            )
        count = len(request.query.getall(name))
        if count > 1 and not allowed[name].repeated:
            raise InvalidError(
                "query_repeated", f"{name}: it is given {count} times; once is allowed", field=name
            )


def run_id(request: web.Request) -> int:
    return checks.run_id(request.match_info["id"])


def row_id(request: web.Request, what: str, part: str = "id") -> int:
    """The id in the path of a token, a key, an upload or a file of one."""
    text = request.match_info[part]
    if not (text.isascii() and text.isdigit() and len(text) <= 16):
        raise InvalidError("id_invalid", f"{what}: {shown(text)} is not an id; a whole number is", field=part)
    return int(text)


def number(request: web.Request, name: str, default: int, *, most: int = checks.RUN_ID_MAX) -> int:
    """A whole number from 0 in the query."""
    given = optional_number(request, name, most=most)
    return default if given is None else given


def optional_number(request: web.Request, name: str, *, most: int = checks.RUN_ID_MAX) -> int | None:
    text = request.query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and int(text) <= most):
        raise InvalidError(
            "number_out_of_range",
            f"{name}: {shown(text)}: a whole number from 0 to {most} is allowed",
            field=name,
        )
    return int(text)


def limit(request: web.Request, default: int, most: int = 1000) -> int:
    """How many rows are wanted: what is beyond reason is brought into it, what is no number is refused."""
    text = request.query.get("limit")
    if text is None:
        return default
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()):
        raise InvalidError(
            "number_out_of_range",
            f"limit: {shown(text)}: a whole number from 1 to {most} is allowed",
            field="limit",
        )
    if digits != text:
        return 1
    return max(1, min(most, int(text))) if len(text) <= 16 else most


def limit_note(request: web.Request, used: int) -> dict[str, str]:
    """The header that says so where another limit is used than the one that was asked for."""
    text = request.query.get("limit")
    return (
        {}
        if text is None or text == str(used)
        else {"Spell-Note": f"limit: {used} is used, 1 to 1000 are allowed"}
    )


def flag(request: web.Request, name: str, *, default: bool) -> bool:
    text = request.query.get(name)
    if text is None:
        return default
    if text not in {"0", "1", "true", "false"}:
        raise InvalidError("flag_invalid", f"{name}: {shown(text)}: 0 or 1 is allowed", field=name)
    return text in {"1", "true"}


def choice(request: web.Request, name: str, allowed: tuple[str, ...]) -> str:
    """One of `allowed`; the first is the default."""
    text = request.query.get(name, allowed[0])
    if text not in allowed:
        raise InvalidError(
            "choice_invalid", f"{name}: {shown(text)}: {', '.join(allowed)} are allowed", field=name
        )
    return text


def optional_text(request: web.Request, name: str, most: int) -> str | None:
    text = request.query.get(name)
    return None if text is None else checks.line(text, name, most)


def texts(request: web.Request, name: str, most: int) -> tuple[str, ...]:
    """All values of a repeated parameter."""
    values = tuple(request.query.getall(name, []))
    if len(values) > most:
        raise InvalidError(
            "too_many_values", f"{name}: {len(values)} values, at most {most} are allowed", field=name
        )
    return values

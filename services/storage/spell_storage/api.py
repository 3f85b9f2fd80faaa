"""The HTTP application of the service: all routes, health and verification."""

import asyncio
from collections.abc import Callable
from typing import Protocol

import asyncpg
from aiohttp import web

from spell_proto.errors import InvalidError
from spell_proto.http import errors_to_answers, json_response
from spell_proto.service import version
from spell_proto.views import MANIFEST_BYTES_MAX, Check, Health, Verdict
from spell_storage import answers, verify
from spell_storage.appender import Appender
from spell_storage.blob_api import BlobRoutes
from spell_storage.blobs import Blobs
from spell_storage.chunks import JournalId
from spell_storage.journal_api import JournalRoutes
from spell_storage.journals import Journals

_HEALTH_SECONDS_MAX = 2.0
_TOTALS: dict[str, Callable[[str, str], object]] = {
    "journal_bytes": answers.number,
    "stdout_bytes": answers.number,
    "stderr_bytes": answers.number,
    "dropped_bytes": answers.number,
    "sha256": answers.sha256,
}


class Routes(Protocol):
    """Handlers of some part of it."""

    def add_to(self, app: web.Application) -> None: ...


def make(
    pool: asyncpg.Pool,
    journals: Journals,
    appender: Appender,
    blobs: Blobs,
    *more: Routes,
) -> web.Application:
    """The application. Every handler answers refusals in the shape that all services share."""
    app = web.Application(middlewares=[errors_to_answers], client_max_size=MANIFEST_BYTES_MAX)
    parts: tuple[Routes, ...] = (JournalRoutes(journals, appender), BlobRoutes(blobs), *more)
    for routes in parts:
        routes.add_to(app)

    async def health(_request: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(_HEALTH_SECONDS_MAX):
                await pool.fetchval("SELECT 1")
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            detail = f"the database does not answer: {type(error).__name__}"
            return json_response(Health(service="storage", version=version(), ok=False, detail=detail))
        return json_response(Health(service="storage", version=version(), ok=True))

    async def verdict(request: web.Request) -> web.Response:
        query = request.query
        checks: list[Check] = []
        if "run_id" in query:
            which = JournalId(
                answers.number(query["run_id"], "run_id", least=1),
                answers.number(query.get("attempt"), "attempt", most=2**31 - 1),
            )
            expected = {name: read(query[name], name) for name, read in _TOTALS.items() if name in query}
            checks.append(await verify.journal(journals, which, expected))
        if "manifest" in query:
            digests = [answers.sha256(digest, "manifest") for digest in query.getall("manifest")]
            checks += await verify.manifests(blobs, answers.owner(request), digests)
        if not checks:
            raise InvalidError("number_invalid", "run_id or manifest: one of them is needed", field="run_id")
        return json_response(Verdict(checks=tuple(checks)))

    app.router.add_get("/health", health)
    app.router.add_get("/verify", verdict)
    return app

"""What a route is: how it is reached, who answers, and what its description says. One table serves and documents."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from aiohttp import web
from pydantic import BaseModel

from spell_gateway.shapes import User

Handler = Callable[[web.Request, User], Awaitable[web.StreamResponse]]
OpenHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]

BYTES = "application/octet-stream"
LINES = "application/x-ndjson"
ADMIN = {403: "only administrators may"}
JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Param:
    """A query parameter or a header, described by a JSON schema."""

    name: str
    text: str
    schema: dict[str, Any]
    where: Literal["query", "header"] = "query"
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """One call. `path` is aiohttp's; `answer` is a shape, or media types of a body without one."""

    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
    path: str
    handler: Handler | None
    summary: str
    tag: str
    answer: type[BaseModel] | tuple[str, ...] | None
    body: type[BaseModel] | None = None
    params: tuple[Param, ...] = ()
    status: int = 200
    also: dict[int, str] = field(default_factory=dict)
    open_handler: OpenHandler | None = None
    text: str = ""

    @property
    def lasts(self) -> bool:
        """Whether the answer goes on for as long as something happens."""
        return isinstance(self.answer, tuple) and LINES in self.answer

    @property
    def query(self) -> dict[str, Param]:
        """The members that its query may have, by name."""
        return {param.name: param for param in self.params if param.where == "query"}

    @property
    def needs_token(self) -> bool:
        return self.open_handler is None


WHOLE = {"type": "integer", "minimum": 0}
FLAG = {"type": "string", "enum": ["0", "1"], "default": "0"}
PARTS = {206: "the part asked for", 416: "no such part"}
RANGE = Param("Range", "Part of the bytes, as in RFC 9110.", {"type": "string"}, "header")

"""The errors every part shares.

    SpellError
    ├── IllegalTransitionError   a move that the state table does not allow (a bug, never a user's mistake)
    ├── CodecError               bytes that are no message of ours
    ├── SettingsError            a setting that is missing or makes no sense
    └── RefusedError             a request that is not carried out, with the one sentence that says why
        ├── InvalidError         400/422: a field is wrong
        ├── NotFoundError        404: no such thing, or not yours
        ├── ConflictError        409: it clashes with what is there
        ├── GoneError            410: it was there and is over
        ├── UnavailableError     503: try again later
        └── FullError            507: no room on the disk

Standard library only: the command line imports this module on every start.
"""

from typing import TypedDict


class SpellError(Exception):
    """Base of every error that spellrun raises on purpose."""


class IllegalTransitionError(SpellError):
    """A move between states that `spell_proto.state` does not allow."""

    def __init__(self, before: str | None, after: str) -> None:
        super().__init__(f"a run may not move from {before or 'nothing'} to {after}")
        self.before = before
        self.after = after


class CodecError(SpellError):
    """Bytes that cannot be read as the message they should be."""


class SettingsError(SpellError):
    """A setting that is missing or makes no sense."""


class Refusal(TypedDict):
    """The JSON body of every 4xx and 503 answer."""

    code: str
    field: str | None
    message: str
    hint: str | None


class RefusedError(SpellError):
    """A request that was not carried out. Nothing was created, nothing was lost."""

    status = 400

    def __init__(self, code: str, message: str, *, field: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field
        self.hint = hint

    def body(self) -> Refusal:
        return {"code": self.code, "field": self.field, "message": self.message, "hint": self.hint}


class InvalidError(RefusedError, ValueError):
    """A field that is wrong; the message names it, echoes what was found and says what is allowed.

    A ValueError too, so that pydantic goes on to the other fields and one answer names all that are wrong.
    """

    status = 422


class NotFoundError(RefusedError):
    """No such thing, or it belongs to somebody else: the two are told apart for nobody."""

    status = 404


class ConflictError(RefusedError):
    """The request clashes with what is there."""

    status = 409


class GoneError(RefusedError):
    """What was asked about is over."""

    status = 410


class UnavailableError(RefusedError):
    """A part that is needed does not answer right now; the same request may work in a moment."""

    status = 503


class FullError(RefusedError):
    """A part that is needed has no room left on its disk."""

    status = 507


#: status -> class, for clients that turn an answer back into an error.
BY_STATUS: dict[int, type[RefusedError]] = {
    kind.status: kind
    for kind in (InvalidError, NotFoundError, ConflictError, GoneError, UnavailableError, FullError)
}


def shown(value: object, most: int = 80) -> str:
    """A value as an error message may echo it: escaped, in quotes, cut to `most` characters."""
    text = str(value)
    if len(text) > most:
        text = text[: most - 1] + "…"
    return (
        "'" + text.encode("unicode_escape").decode("ascii").replace("\\u2026", "…").replace("'", "\\'") + "'"
    )

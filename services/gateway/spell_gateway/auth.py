"""Who asks: a bearer token becomes a user, from memory for at most a few seconds."""

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from spell_gateway.accounts import TOKEN, token_digest
from spell_gateway.shapes import User
from spell_proto.errors import RefusedError

#: How long a deleted token may still be taken for good.
BELIEVED_SECONDS = 4.0
KNOWN_MAX = 10_000

LookUp = Callable[[bytes], Awaitable[User | None]]


class UnknownCallerError(RefusedError):
    """No token, or none that is good. One text for every cause: it tells an attacker nothing."""

    status = 401

    def __init__(self) -> None:
        super().__init__(
            "unauthorized",
            "a valid token is needed: Authorization: Bearer spell_…",
            hint="spell status shows which server and user are configured",
        )


def only_admins(user: User) -> None:
    """Raise `RefusedError` for everybody else."""
    if not user.admin:
        refused = RefusedError("admin_only", "only an administrator may do this")
        refused.status = 403
        raise refused


class Authenticator:
    """Answers who the holder of a token is."""

    def __init__(self, look_up: LookUp, clock: Callable[[], float] = time.monotonic) -> None:
        self._look_up = look_up
        self._clock = clock
        self._known: OrderedDict[bytes, tuple[float, User | None]] = OrderedDict()

    async def user(self, authorization: str | None) -> User:
        """The user of an `Authorization` header.

        Raises:
            UnknownCallerError: there is no header, or no good token in it.
        """
        scheme, _, token = (authorization or "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not TOKEN.fullmatch(token):
            raise UnknownCallerError
        digest = token_digest(token)
        known = self._known.get(digest)
        if known is None or known[0] < self._clock():
            # The time is taken before the question: the answer may be that old.
            until = self._clock() + BELIEVED_SECONDS
            known = (until, await self._look_up(digest))
            self._known[digest] = known
            self._known.move_to_end(digest)
            while len(self._known) > KNOWN_MAX:
                self._known.popitem(last=False)
        if known[1] is None:
            raise UnknownCallerError
        return known[1]

    def forget(self, digest: bytes) -> None:
        """A token was deleted: it is not believed here any longer."""
        self._known.pop(digest, None)

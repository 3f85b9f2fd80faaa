"""Users, their tokens and their SSH keys in Postgres (shell)."""

import hashlib
import re
import secrets
from pathlib import Path

import asyncpg

from spell_gateway import ssh_keys
from spell_gateway.shapes import (
    KeyList,
    KeyOwner,
    KeyRequest,
    KeyView,
    TokenList,
    TokenMade,
    TokenRequest,
    TokenView,
    User,
)
from spell_proto import logs
from spell_proto.database import queries
from spell_proto.errors import ConflictError, InvalidError, NotFoundError, SettingsError

log = logs.get()

TOKEN_PREFIX = "spell_"  # noqa: S105 -- the prefix that makes a leaked token recognisable, no secret
TOKEN = re.compile(r"spell_[A-Za-z0-9_-]{43,128}", re.ASCII)
TOKENS_MAX = 1000
KEYS_MAX = 1000
FIRST = "this machine"
_SQL = queries("spell_gateway", "accounts.sql")


def new_token() -> str:
    """A token nobody can guess: 256 random bits."""
    return TOKEN_PREFIX + secrets.token_urlsafe(32)


def token_digest(value: str) -> bytes:
    """What is kept of a token. It is random, so a plain hash tells nothing about it."""
    return hashlib.sha256(value.encode()).digest()


class Accounts:
    """The gateway's tables."""

    def __init__(self, connections: asyncpg.Pool) -> None:
        self._connections = connections

    async def user_of_token(self, digest: bytes) -> User | None:
        row = await self._connections.fetchrow(_SQL["user_of_token"], digest)
        return None if row is None else User(**dict(row))

    async def user_of_key(self, fingerprint: str) -> KeyOwner:
        """Raises NotFoundError for a key nobody has."""
        row = await self._connections.fetchrow(_SQL["user_of_key"], fingerprint)
        if row is None:
            raise NotFoundError("ssh_key_unknown", "this SSH key belongs to nobody")
        return KeyOwner(owner_id=row["id"], user_name=row["name"])

    async def ensure_first_user(self, name: str, token_file: str, key_file: str) -> None:
        """Make the user of a stack on one's own machine, its administrator, with the token and key in the two files."""
        try:
            token = Path(token_file).read_text("utf-8").strip() if token_file else None
            key = ssh_keys.parse(Path(key_file).read_text("utf-8")) if key_file else None
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"the files of the first user cannot be read: {error}") from None
        except InvalidError as error:
            raise SettingsError(f"SPELL_FIRST_SSH_KEY_FILE: {error.message}") from None
        if token is not None and not TOKEN.fullmatch(token):
            raise SettingsError("SPELL_FIRST_TOKEN_FILE holds no token: spell_ and at least 43 characters")
        async with self._connections.acquire() as connection, connection.transaction():
            await connection.execute(_SQL["ensure_user"], name)
            user_id = await connection.fetchval(_SQL["user_named"], name)
            if token is not None:
                await connection.execute(_SQL["ensure_token"], user_id, FIRST, token_digest(token))
            if key is not None:
                title = key.comment or FIRST
                await connection.execute(_SQL["ensure_key"], user_id, title, key.line, key.fingerprint)
        log.info("first user is there", user_id=user_id)

    async def note(self, user: User, action: str, subject: str) -> None:
        """Put on record what somebody did."""
        await self._connections.execute(_SQL["note"], user.id, action, subject)

    async def tokens(self, user: User) -> TokenList:
        rows = await self._connections.fetch(_SQL["tokens_of"], user.id)
        return TokenList(tokens=tuple(TokenView(**dict(row)) for row in rows))

    async def add_token(self, user: User, request: TokenRequest) -> TokenMade:
        value = new_token()
        async with self._connections.acquire() as connection, connection.transaction():
            if await connection.fetchval(_SQL["count_tokens"], user.id) >= TOKENS_MAX:
                raise ConflictError("too_many_tokens", f"tokens: at most {TOKENS_MAX} are allowed")
            row = await connection.fetchrow(
                _SQL["add_token"], user.id, request.name, token_digest(value), request.expires_in_seconds
            )
            assert row is not None, "RETURNING gives the row that was inserted"
            await connection.execute(_SQL["note"], user.id, "token added", str(row["id"]))
        return TokenMade(token=TokenView(**dict(row)), value=value)

    async def delete_token(self, user: User, token_id: int) -> bytes:
        """Take a token away; returns its digest. Raises NotFoundError."""
        async with self._connections.acquire() as connection, connection.transaction():
            digest: bytes | None = await connection.fetchval(_SQL["delete_token"], user.id, token_id)
            if digest is None:
                raise NotFoundError("token_not_found", f"Token {token_id} does not exist")
            await connection.execute(_SQL["note"], user.id, "token deleted", str(token_id))
        return digest

    async def keys(self, user: User) -> KeyList:
        rows = await self._connections.fetch(_SQL["keys_of"], user.id)
        return KeyList(keys=tuple(KeyView(**dict(row)) for row in rows))

    async def add_key(self, user: User, request: KeyRequest) -> KeyView:
        """Add a public key; one that is there already is answered as it is.

        Raises:
            InvalidError: it is no public key.
            ConflictError: somebody else has it.
        """
        key = ssh_keys.parse(request.public_key)
        title = request.title or key.comment or key.fingerprint
        async with self._connections.acquire() as connection, connection.transaction():
            if await connection.fetchval(_SQL["count_keys"], user.id) >= KEYS_MAX:
                raise ConflictError("too_many_keys", f"keys: at most {KEYS_MAX} are allowed")
            done = await connection.execute(_SQL["ensure_key"], user.id, title, key.line, key.fingerprint)
            row = await connection.fetchrow(_SQL["key_with_fingerprint"], key.fingerprint)
            if row is None or row["user_id"] != user.id:
                raise ConflictError(
                    "key_taken",
                    f"public_key: {key.fingerprint} is registered for another account",
                    field="public_key",
                )
            if done != "INSERT 0 0":
                await connection.execute(_SQL["note"], user.id, "key added", key.fingerprint)
        return KeyView(**{name: row[name] for name in KeyView.model_fields})

    async def delete_key(self, user: User, key_id: int) -> None:
        """Raises NotFoundError."""
        async with self._connections.acquire() as connection, connection.transaction():
            fingerprint = await connection.fetchval(_SQL["delete_key"], user.id, key_id)
            if fingerprint is None:
                raise NotFoundError("key_not_found", f"Key {key_id} does not exist")
            await connection.execute(_SQL["note"], user.id, "key deleted", fingerprint)

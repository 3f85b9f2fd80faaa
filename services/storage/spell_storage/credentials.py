"""Which hosts code is fetched from, and what each is told when it asks who fetches: stored encrypted, never shown."""

import asyncio
import os
import secrets
from pathlib import Path
from typing import NamedTuple

import asyncpg
from cryptography.fernet import Fernet, InvalidToken

from spell_proto import checks, database
from spell_proto.errors import InvalidError, NotFoundError, SettingsError, shown
from spell_proto.views import GitCredentialsView

_SQL = database.queries("spell_storage", "credentials.sql")
TEXT_CHARS_MAX = 4_096


class Login(NamedTuple):
    """A user name and a password, or a token in its place."""

    username: str
    password: str

    def __repr__(self) -> str:
        return f"Login({self.username!r}, …)"


class UnreadableError(Exception):
    """A password was encrypted with another key than the one that is here."""


def read_hosts(setting: str) -> tuple[str, ...]:
    """The hosts of the setting SPELL_GIT_HOSTS.

    Raises:
        SettingsError: one of them is no host.
    """
    hosts = []
    for host in filter(None, (part.strip() for part in setting.split(","))):
        # What stands before an @ may be a secret.
        found = "a value with an @" if "@" in host else shown(host)
        try:
            if "/" in host:
                raise InvalidError("host_invalid", host)  # noqa: TRY301 -- one refusal for all
            hosts.append(checks.github_host(checks.github_url(f"https://{host}/x")))
        except InvalidError:
            raise SettingsError(
                f"the setting SPELL_GIT_HOSTS must name hosts, separated by commas, not {found}"
            ) from None
    return tuple(dict.fromkeys(hosts))


class Credentials:
    """The table `git_credentials`. Its key is a file beside the data, so that a dump of the database tells nothing."""

    def __init__(self, pool: asyncpg.Pool, hosts: tuple[str, ...], key_file: Path) -> None:
        self._pool = pool
        self._key_file = key_file
        self.hosts = hosts

    async def put(self, host: str, username: str, password: str) -> GitCredentialsView:
        """Store what a host is told, instead of what was stored before.

        Raises:
            InvalidError: nothing is fetched from this host, or git could not pass this on.
        """
        host = self._allowed(host)
        for field, value in (("username", username), ("password", password)):
            if not 1 <= len(value) <= TEXT_CHARS_MAX or not value.isprintable():
                # The value is not echoed: it may be the password.
                raise InvalidError(
                    "credentials_invalid",
                    f"{field}: 1 to {TEXT_CHARS_MAX} printable characters are allowed",
                    field=field,
                )
        cipher = await asyncio.to_thread(self._cipher)
        row = await self._pool.fetchrow(
            _SQL["put"], host, username, cipher.encrypt(_bound(host, username, password))
        )
        assert row is not None
        return GitCredentialsView(**dict(row))

    async def all(self) -> tuple[GitCredentialsView, ...]:
        return tuple(GitCredentialsView(**dict(row)) for row in await self._pool.fetch(_SQL["all"]))

    async def remove(self, host: str) -> None:
        """Forget what a host is told.

        Raises:
            NotFoundError: nothing is stored for it.
        """
        if await self._pool.fetchrow(_SQL["remove"], host.lower().removesuffix(":443")) is None:
            raise NotFoundError("credentials_not_found", f"no credentials are stored for {shown(host)}")

    async def login(self, host: str) -> Login | None:
        """What a host is told, if anything.

        Raises:
            UnreadableError: it cannot be decrypted.
        """
        row = await self._pool.fetchrow(_SQL["secret_of"], host)
        if row is None:
            return None
        cipher = await asyncio.to_thread(self._cipher)
        try:
            told = cipher.decrypt(row["secret"])
        except InvalidToken:
            raise UnreadableError from None
        bound = _bound(host, row["username"], "")
        # A row that was moved to another host or user is none that was stored here.
        if not told.startswith(bound):
            raise UnreadableError
        return Login(row["username"], told.removeprefix(bound).decode())

    def _allowed(self, host: str) -> str:
        host = host.lower().removesuffix(":443")
        if host not in self.hosts:
            raise not_allowed(host, self.hosts)
        return host

    def _cipher(self) -> Fernet:
        """The cipher, with its key made at the first use."""
        try:
            return Fernet(self._key_file.read_bytes())
        except FileNotFoundError:
            made = self._key_file.with_name(f".{self._key_file.name}.{secrets.token_hex(8)}")
            number = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(number, "wb") as file:
                file.write(Fernet.generate_key())
                file.flush()
                os.fsync(number)
            try:
                # Unlike a rename it leaves a key alone that another copy of the service has made in the meantime.
                os.link(made, self._key_file)
            except FileExistsError:
                pass
            finally:
                made.unlink()
            return Fernet(self._key_file.read_bytes())


def not_allowed(host: str, hosts: tuple[str, ...]) -> InvalidError:
    """The refusal of a host that is not on the list."""
    return InvalidError(
        "host_not_allowed",
        f"{shown(host)}: code is not fetched from this host; allowed: {', '.join(hosts) or 'none'}",
        field="host",
    )


def _bound(host: str, username: str, password: str) -> bytes:
    return f"{host}\n{username}\n{password}".encode()

"""What registries of images are told when a machine pulls from them: tried, stored encrypted, given to services alone."""

import asyncpg

from spell_proto import database, images
from spell_proto.errors import InvalidError, NotFoundError, RefusedError, shown
from spell_proto.registries import RegistryKind, RegistryLogin, RegistryView
from spell_storage.registry_door import Door
from spell_storage.sealed import Login, Seal, UnreadableError

_SQL = database.queries("spell_storage", "registries.sql")
USERNAME_CHARS_MAX = 255
#: The key of a service account of Google's has 2.4 kB.
PASSWORD_CHARS_MAX = 16_384
#: User names whose passwords end within hours: what is stored here is for months.
_FLEETING = {
    "oauth2accesstoken": "an access token ends within the hour; store the key of a service account: "
    "--username _json_key --password-stdin < key.json",
}


class Registries:
    """The table `registries`."""

    def __init__(self, pool: asyncpg.Pool, seal: Seal, door: Door) -> None:
        self._pool = pool
        self._seal = seal
        self._door = door

    async def put(self, registry: str, username: str, password: str) -> RegistryView:
        """Store what a registry is told, instead of what was stored before, if it takes it.

        Raises:
            InvalidError: it does not, or this is no registry, or no user name or password.
        """
        registry = images.registry_name(registry)
        login = _checked(username, password)
        await self._door.knock(registry, login)
        sealed = await self._seal.close(_place(registry), login)
        row = await self._pool.fetchrow(_SQL["put"], registry, RegistryKind.LOGIN, username, sealed)
        assert row is not None
        return _view(row)

    async def all(self) -> tuple[RegistryView, ...]:
        return tuple(_view(row) for row in await self._pool.fetch(_SQL["all"]))

    async def remove(self, registry: str) -> None:
        """Forget what a registry is told.

        Raises:
            NotFoundError: nothing is stored for it.
        """
        if await self._pool.fetchrow(_SQL["remove"], images.registry_name(registry)) is None:
            raise _nothing(registry)

    async def login(self, registry: str) -> RegistryLogin:
        """What a registry is told.

        Raises:
            NotFoundError: nothing is stored for it.
            RefusedError: it cannot be decrypted.
        """
        registry = images.registry_name(registry)
        row = await self._pool.fetchrow(_SQL["secret_of"], registry)
        if row is None:
            raise _nothing(registry)
        try:
            login = await self._seal.open(_place(registry), row["username"], row["secret"])
        except UnreadableError:
            raise RefusedError(
                "registry_login_unreadable",
                f"the login of {registry} cannot be read; an administrator must store it again",
            ) from None
        return RegistryLogin(username=login.username, password=login.password)


def _checked(username: str, password: str) -> Login:
    """Neither is echoed: one may be in the place of the other."""
    if not _plain(username, USERNAME_CHARS_MAX) or ":" in username:
        raise InvalidError(
            "secret_invalid",
            f"username: 1 to {USERNAME_CHARS_MAX} printable ASCII characters without a colon are allowed",
            field="username",
        )
    if not _plain(password, PASSWORD_CHARS_MAX):
        raise InvalidError(
            "secret_invalid",
            f"password: 1 to {PASSWORD_CHARS_MAX} printable ASCII characters are allowed",
            field="password",
        )
    if username in _FLEETING:
        raise InvalidError("registry_login_fleeting", f"username: {_FLEETING[username]}", field="username")
    return Login(username, password)


def _plain(text: str, most: int) -> bool:
    return 1 <= len(text) <= most and text.isascii() and text.isprintable()


def _place(registry: str) -> str:
    """What a password is bound to. No git host has a blank in it."""
    return f"registry {registry}"


def _view(row: asyncpg.Record) -> RegistryView:
    return RegistryView(**dict(row) | {"kind": RegistryKind(row["kind"])})


def _nothing(registry: str) -> NotFoundError:
    return NotFoundError("registry_not_found", f"no login is stored for the registry {shown(registry)}")

"""Brings images of environments to a registry and has them from there, so that each is built once for all machines (shell).

An image is known there by its key as a tag, and told of by its digest: what is pulled is what was pushed. What nobody
is told of any more is the registry's to remove.
"""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg

from spell_builder import image_layers
from spell_builder.commands import Say
from spell_builder.docker import Docker
from spell_builder.errors import PushError
from spell_builder.flight import GivenUpError
from spell_builder.pushes import Pushes
from spell_builder.requests import Requests, patiently
from spell_proto import database, images, logs
from spell_proto.docker import GONE, refused
from spell_proto.errors import InvalidError, RefusedError, SettingsError, UnavailableError
from spell_proto.http import Caller
from spell_proto.registries import RegistryLogin, login_for

log = logs.get()

_SQL = database.queries("spell_builder", "image_cache.sql")
SILENCE_SECONDS_MAX = 120.0
TRIES_MAX = 3


def repository(setting: str) -> images.Image | None:
    """What `SPELL_IMAGE_CACHE` names; None where it is empty.

    Raises:
        SettingsError: it is no repository.
    """
    if not setting:
        return None
    try:
        named = images.parse(setting)
    except InvalidError as error:
        raise SettingsError(f"the setting SPELL_IMAGE_CACHE: {error}") from error
    if named.digest or ":" in setting.rpartition("/")[2]:
        raise SettingsError("the setting SPELL_IMAGE_CACHE: a repository has neither a tag nor a digest")
    return named._replace(tag="")


class ImageCache(Pushes):
    """Those of images. At most one is pushed at a time: what they stand on, they share."""

    def __init__(
        self,
        where: images.Image,
        docker: Docker,
        requests: Requests,
        pool: asyncpg.Pool,
        storage: Caller,
        tasks: asyncio.TaskGroup,
    ) -> None:
        super().__init__(tasks)
        self._where = where
        self._docker = docker
        self._requests = requests
        self._pool = pool
        self._storage = storage
        self._alone = asyncio.Lock()

    # ---- pushing ---------------------------------------------------------------------------------------------

    async def _push(self, key: str) -> None:
        async with self._alone:
            if await self.find(key) is not None:
                return
            inspected = await self._docker.image(image_layers.name(key))
            if inspected is None:
                raise PushError("it was removed", passing=True)
            await self._docker.tag(inspected["Id"], str(self._where), key)
            try:
                digest = await self._sent(key)
            finally:
                # The environment alone decides how long the image stays here.
                await self._docker.untag(f"{self._where}:{key}")
            reference = f"{self._where}@{digest}"
            await patiently(functools.partial(self._pool.execute, _SQL["pushed"], key, reference))
        log.info("environment shared", key=key, image=reference)

    async def _sent(self, key: str) -> str:
        """The digest that the registry has given an image."""
        digest = await self._patiently(functools.partial(self._docker.push, str(self._where), key))
        if not digest:
            raise PushError("its registry tells no digest", passing=False)
        return digest

    async def _patiently(self, ask: Callable[[dict[str, str] | None], AsyncIterator[Any]]) -> str:
        """Have the daemon push or pull, again where the fault may pass; the digest that it says, if it says one.

        Raises:
            PushError: it cannot be done.
        """
        for attempt in range(1, TRIES_MAX + 1):
            login = await self._login()
            try:
                return await _followed(ask(None if login is None else login.auth()))
            except (*GONE, GivenUpError) as error:
                words = refused(error) or getattr(error, "message", "") or repr(error)
                problem = words if login is None else login.redact(words)
                log.info("the image cache cannot be used", attempt=attempt, problem=problem)
                if attempt == TRIES_MAX:
                    raise PushError(f"the image cache {self._where}: {problem}", passing=True) from error
                await asyncio.sleep(2.0 ** (attempt - 1))
        raise AssertionError

    async def _login(self) -> RegistryLogin | None:
        try:
            return await login_for(self._storage, self._where.registry)
        except UnavailableError as error:
            raise PushError("storage does not answer", passing=True) from error
        except RefusedError as error:
            raise PushError(error.message, passing=False) from error

    # ---- having them from there ------------------------------------------------------------------------------

    async def find(self, key: str) -> str | None:
        """What an image can be pulled by, if it is there."""
        found: str | None = await patiently(
            functools.partial(self._pool.fetchval, _SQL["find"], key, str(self._where))
        )
        return found

    async def pulled(self, key: str, say: Say) -> tuple[str, str] | None:
        """Have an image from the registry: its id, and the digest of its content.

        None where there is none, or it cannot be had now: it is to be built.
        """
        reference = await self.find(key)
        if reference is None:
            return None
        try:
            await self._patiently(functools.partial(self._docker.pull, reference))
        except PushError as error:
            log.warning("an image cannot be had", key=key, problem=str(error))
            say("The image cache does not have the environment; it is built here", False)
            await self.gone(key, reference)
            return None
        inspected = await self._docker.image(reference)
        content = None if inspected is None else image_layers.told(inspected, key)
        recorded = await patiently(functools.partial(self._requests.recorded, key))
        if inspected is None or content is None or content not in recorded:
            log.warning("an image is not what was built", key=key, image=reference)
            say("The environment in the image cache is not what was built; it is built again", True)
            await self.gone(key, reference)
            return None
        self.believe(key)
        return str(inspected["Id"]), content

    async def let_go(self, key: str) -> None:
        """What was pulled has its own name now: that alone decides how long it stays here."""
        reference = await self.find(key)
        if reference is not None:
            await self._docker.untag(reference)

    async def gone(self, key: str, reference: str) -> None:
        """Somebody could not have an image: nobody is told of it, until it is pushed again."""
        self.doubt(key)
        await patiently(functools.partial(self._pool.execute, _SQL["gone"], key, reference))

    async def forget(self, key: str) -> None:
        """An environment is removed: nobody is told of its image any more."""
        self.doubt(key)
        await self._pool.execute(_SQL["forget"], key)


async def _followed(saying: AsyncIterator[Any]) -> str:
    digest = ""
    async with asyncio.timeout(SILENCE_SECONDS_MAX) as limit:
        async for said in saying:
            limit.reschedule(asyncio.get_running_loop().time() + SILENCE_SECONDS_MAX)
            digest = (said.get("aux") or {}).get("Digest") or digest
    return digest

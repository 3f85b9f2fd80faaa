"""The images of environments that are on the daemon: which are there, which are what was built, and how they go (shell)."""

import contextlib
import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.client import NOT_FOUND
from typing import Any

from aiodocker.exceptions import DockerError

from spell_builder import image_layers
from spell_builder.directories import Directories
from spell_builder.docker import BUILDER, Docker
from spell_builder.errors import BuilderError
from spell_builder.requests import Requests, patiently
from spell_builder.shelves import InUse
from spell_proto import logs
from spell_proto.docker import GONE

log = logs.get()

_ASIDE = "aside-"


class Images:
    """All of them. What is remembered of the daemon may be out of date: `damage` looks."""

    def __init__(self, docker: Docker, directories: Directories, requests: Requests) -> None:
        self._docker = docker
        self._directories = directories
        self._requests = requests
        self._ids: dict[str, str] = {}

    def complete(self, key: str) -> bool:
        """Whether it was there at the last look."""
        return key in self._ids

    def path(self, key: str) -> str:
        """The id of an image that is there."""
        return self._ids[key]

    @asynccontextmanager
    async def alone(self, key: str) -> AsyncIterator[int]:
        """See `Directories.alone`. Whoever had the lock before may have made the image."""
        async with self._directories.alone(f"image-{key}") as lock:
            await self.damage(key)
            yield lock

    async def damage(self, key: str) -> str | None:
        """What is wrong with the image of an environment. It is not there any more then."""
        inspected = await self._docker.image(image_layers.name(key))
        if inspected is None:
            return "its image is gone" if self._ids.pop(key, None) else None
        if self._ids.get(key) == inspected["Id"] or await self._known(key, inspected):
            self._ids[key] = inspected["Id"]
            return None
        self._ids.pop(key, None)
        log.warning("an image is not what was built", key=key, image=inspected["Id"])
        await self._docker.untag(image_layers.name(key))
        return "its image is another one than was built"

    async def _known(self, key: str, inspected: dict[str, Any]) -> bool:
        """Whether an image is the one that was built here; or by another builder on this daemon, with equal content."""
        image, contents = await patiently(functools.partial(self._requests.image, key))
        if image == inspected["Id"]:
            return True
        labels = inspected["Config"].get("Labels") or {}
        content = image_layers.told(inspected, key)
        foreign = labels.get(BUILDER) not in {None, self._docker.builder}
        if not foreign or content is None or (contents and content not in contents):
            return False
        await patiently(functools.partial(self._requests.imaged, key, inspected["Id"], None, content))
        return True

    async def put(self, key: str, image: str) -> None:
        """Give an image its name: from now on it is there."""
        await self._docker.tag(image, image_layers.REPOSITORY, key)
        self._ids[key] = image

    async def all_complete(self) -> set[str]:
        """The keys of all that are there; none while the daemon is away."""
        found = set()
        try:
            listed = await self._docker.tagged(image_layers.ENVIRONMENT)
        except (BuilderError, *GONE):
            return set()
        for image in listed:
            for name in image.get("RepoTags") or ():
                repository, _, key = name.rpartition(":")
                if repository == image_layers.REPOSITORY and not key.startswith(_ASIDE):
                    found.add(key)
        return found

    async def clear(self) -> None:
        """Remove what a process was about to remove when it ended."""
        with contextlib.suppress(BuilderError, *GONE):
            for image in await self._docker.tagged(f"{BUILDER}={self._docker.builder}"):
                for name in image.get("RepoTags") or ():
                    if name.startswith(image_layers.name(_ASIDE)):
                        await self._docker.untag(name)

    async def size(self, key: str) -> int:
        """The bytes that an image takes, besides those of the image that it was made on."""
        inspected = await self._docker.image(image_layers.name(key))
        if inspected is None:
            return 0
        parent = await self._docker.image(inspected["Parent"]) if inspected.get("Parent") else None
        return int(inspected["Size"]) - (0 if parent is None else int(parent["Size"]))

    async def take_away(self, key: str, in_use: InUse) -> bool:
        """See `Shelf.take_away`."""
        inspected = await self._docker.image(image_layers.name(key))
        self._ids.pop(key, None)
        if inspected is None:
            return False
        aside = _ASIDE + key
        try:
            await self._docker.tag(inspected["Id"], image_layers.REPOSITORY, aside)
        except DockerError as error:
            if error.status != NOT_FOUND:
                raise
            # Somebody else on the daemon was faster.
            return False
        await self._docker.untag(image_layers.name(key))
        # Somebody may have looked at it since.
        self._ids.pop(key, None)
        used = await in_use(key)
        if used and await self._docker.image(image_layers.name(key)) is None:
            await self.put(key, inspected["Id"])
        await self._docker.untag(image_layers.name(aside))
        return not used

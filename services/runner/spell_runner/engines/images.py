"""The images on this machine: looked up, pulled when they are missing, pinned by digest, and what runs need to know of them (shell)."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiodocker
from aiodocker.exceptions import DockerError

from spell_proto import images
from spell_proto.pulling import AskLogin, PullError, pull
from spell_proto.state import Reason
from spell_runner.engines.about import About
from spell_runner.environments import CACHED
from spell_runner.errors import AttemptError

#: What the name of an image begins with that has none but its id.
_ID = "sha256:"
#: What the daemon says of each part that is on its way.
_PACKED = "Downloading"
SHELLS = ("/bin/bash", "/usr/bin/bash", "/bin/sh")


#: Where programs are looked for in an image that does not say.
_SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Image:
    """An image that is here. `pinned` names it for good; empty where no registry has given it a digest."""

    id: str
    pinned: str
    shell: str
    #: Where programs are looked for in it.
    search: str


class Images:
    """One for the machine. `control` has short limits, `streams` none. No image may have more than `bytes_max` (0: any
    size).
    """

    def __init__(
        self, control: aiodocker.Docker, streams: aiodocker.Docker, about: About, bytes_max: int
    ) -> None:
        self._control = control
        self._streams = streams
        self._about = about
        self._bytes_max = bytes_max
        self._shells: dict[str, str] = {}
        self._pulls: dict[str, asyncio.Lock] = {}

    async def has(self, name: str) -> bool:
        """Whether an image is here.

        Raises:
            DockerError, aiohttp.ClientError, OSError: the daemon does not answer.
        """
        return await self._inspect(name) is not None

    async def get(self, name: str, say: Callable[[str], None], ask_login: AskLogin) -> Image:
        """The image of that name, pulled if it is not here. Only then a login is asked for.

        Raises:
            AttemptError: it cannot be had, or no command can run in it.
            DockerError, aiohttp.ClientError, OSError: the daemon does not answer.
        """
        found, pulled = await self._inspect(name), False
        built = name.startswith(_ID)
        if found is not None:
            if not built:
                say(CACHED)
        elif built:
            # Nobody else has it, and it has no name.
            raise _failed(
                name, "it is not on the Docker daemon of this machine, where it was built or is to be used"
            )
        else:
            async with self._pulls.setdefault(name, asyncio.Lock()):
                found = await self._inspect(name)
                if found is None:
                    say(f"Pulling the image {name}")
                    await self._pull(name, ask_login)
                    found, pulled = await self._inspect(name), True
        if found is None:
            raise _failed(name, "it is gone again right after it was pulled")
        image_id = found["Id"]
        try:
            self._check(name, found)
        except AttemptError:
            if pulled:
                with contextlib.suppress(DockerError):
                    await self._control.images.delete(name)
            raise
        if image_id not in self._shells:
            self._shells[image_id] = await self._shell(name, image_id)
        digest = "" if built else pinned(name, found.get("RepoDigests") or [])
        environ = (entry.partition("=") for entry in (found.get("Config") or {}).get("Env") or ())
        search = next((value for name, _, value in environ if name == "PATH" and value), _SEARCH)
        return Image(image_id, digest, self._shells[image_id], search)

    def _check(self, name: str, found: dict[str, Any]) -> None:
        if 0 < self._bytes_max < found.get("Size", 0):
            raise too_large(name, found["Size"], self._bytes_max)
        processor = found.get("Architecture") or ""
        if not self._about.runs(processor):
            raise _failed(
                name,
                "there is no version of it for the processor of this machine: "
                f"it is for {processor}, and this is {self._about.processor}",
            )

    async def _inspect(self, name: str) -> dict[str, Any] | None:
        try:
            return await self._control.images.inspect(name)
        except DockerError as error:
            if error.status == 404:
                return None
            raise

    async def _pull(self, name: str, ask_login: AskLogin) -> None:
        packed: dict[str, int] = {}

        def watch(said: Mapping[str, Any]) -> None:
            if said.get("status") == _PACKED:
                packed[said.get("id", "")] = (said.get("progressDetail") or {}).get("total") or 0
            if 0 < self._bytes_max < sum(packed.values()):
                raise too_large(name, sum(packed.values()), self._bytes_max)

        try:
            await pull(self._streams, name, ask_login, watch)
        except PullError as error:
            raise _failed(name, str(error)) from error

    async def _shell(self, name: str, image_id: str) -> str:
        """The best shell in an image. A container that never starts is the way to look into it."""
        config: dict[str, Any] = {"Image": image_id, "Cmd": ["/"], "HostConfig": {"NetworkMode": "none"}}
        made = await self._control.containers.create(config)
        try:
            for shell in SHELLS:
                with contextlib.suppress(DockerError):
                    await made.get_archive(shell)
                    return shell
        finally:
            await made.delete(force=True, v=True)
        raise AttemptError(
            Reason.BUILD_FAILED, f"the image {name} has no shell (/bin/sh), so no command can be run in it"
        )


def pinned(name: str, digests: list[str]) -> str:
    """The digest that the registry of `name` knows the image by, behind the name of its repository."""
    asked = images.parse(name)
    for digest in digests:
        known = images.parse(digest)
        if (known.registry, known.path) == (asked.registry, asked.path):
            return str(known)
    return ""


def too_large(name: str, size: int, most: int) -> AttemptError:
    """`size` is that of the whole, or of the part that was known when it was too much already, packed as it may be."""
    return _failed(
        name,
        f"it is too large, with {_size(size)} or more: at most {_size(most)} are allowed on this machine "
        "(SPELL_IMAGE_BYTES_MAX)",
    )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _failed(name: str, why: str) -> AttemptError:
    return AttemptError(Reason.BUILD_FAILED, f"the image {name} cannot be had: {why}")

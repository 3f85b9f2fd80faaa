"""Pulls an image with the login of its registry, as often as that may help, and says why where it cannot be had (shell)."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import aiodocker
import aiohttp
from aiodocker.exceptions import DockerError

from spell_proto import images, logs
from spell_proto.errors import RefusedError, UnavailableError
from spell_proto.registries import RegistryLogin

log = logs.get()

#: Asks what a registry is told, which some have anew every few hours; see `spell_proto.registries.login_for`.
AskLogin = Callable[[str], Awaitable[RegistryLogin | None]]
#: Hears everything that the daemon says of a pull. To raise breaks it off.
Watch = Callable[[Mapping[str, Any]], None]

#: A pull says something at least this often.
SILENCE_SECONDS_MAX = 120.0
PULLS_MAX = 3
#: What a daemon says -> what a person should read. The first that fits counts.
_CAUSES = (
    (
        r"manifest unknown|not found: manifest|manifest for .* not found",
        "the registry has no such image or tag",
    ),
    (r"no matching manifest", "there is no version of it for the processor of this machine"),
    (
        r"repository does not exist|name unknown",
        "the registry has no such image, or it is private and needs a login",
    ),
    (
        r"unauthorized|authentication required|denied|no basic auth|forbidden",
        "the registry wants a login that can read it",
    ),
    (r"no space left|disk quota", "this machine has no room for it"),
    (r"toomanyrequests|too many requests", "the registry limits how much may be pulled right now"),
    (r"no such host|lookup .* on ", "its registry cannot be found"),
    (
        r"connection refused|timeout|timed out|i/o|network|EOF|x509|certificate",
        "its registry cannot be reached",
    ),
    (r"invalid reference|invalid repository", "this is not the name of an image"),
)
#: Pulling again may help with these.
_PASSING = re.compile(
    r"connection refused|timeout|timed out|EOF|unexpected status code 5|network|temporar|broke off|does not answer",
    re.IGNORECASE,
)


class PullError(Exception):
    """An image cannot be had. The message says why, for users."""


async def pull(
    streams: aiodocker.Docker, name: str, ask_login: AskLogin, watch: Watch = lambda _: None
) -> None:
    """Have the daemon pull an image. `streams` has no limits of its own.

    Raises:
        PullError: it cannot be had.
    """
    registry = images.parse(name).registry
    for attempt in range(1, PULLS_MAX + 1):
        login = None
        try:
            login = await ask_login(registry)
            problem = await _pull_once(streams, name, login, watch)
        except UnavailableError:
            problem = "storage, which knows the logins of registries, does not answer"
        except RefusedError as error:
            raise PullError(error.message) from error
        if problem is None:
            return
        log.info("an image cannot be pulled", image=name, attempt=attempt, problem=problem)
        if attempt == PULLS_MAX or not _PASSING.search(problem):
            raise PullError(cause(problem, registry, stored=login is not None))
        await asyncio.sleep(2.0**attempt)


async def _pull_once(
    streams: aiodocker.Docker, name: str, login: RegistryLogin | None, watch: Watch
) -> str | None:
    """What went wrong, without the login."""
    auth = None if login is None else login.auth()
    try:
        async with asyncio.timeout(SILENCE_SECONDS_MAX) as limit:
            async for said in streams.images.pull(name, auth=auth, stream=True):
                limit.reschedule(asyncio.get_running_loop().time() + SILENCE_SECONDS_MAX)
                watch(said)
    except TimeoutError:
        return "its registry cannot be reached: timeout"
    except DockerError as error:
        problem = str(error.message)
    except aiohttp.ClientError as error:
        problem = f"the Docker daemon broke off: {error}"
    else:
        return None
    return problem if login is None else login.redact(problem)


def cause(problem: str, registry: str = images.DEFAULT_REGISTRY, *, stored: bool = False) -> str:
    """Why an image cannot be had, with the daemon's own words behind it. `stored`: a login was sent along."""
    for pattern, text in _CAUSES:
        if re.search(pattern, problem, re.IGNORECASE):
            advice = f"; {_advice(registry, stored=stored)}" if "login" in text else ""
            return f"{text}{advice} ({problem})"
    return problem


def _advice(registry: str, *, stored: bool) -> str:
    which = "" if images.ecr(registry) else f" --registry {registry}"
    command = f"spell cluster add-docker-registry{which}"
    if stored:
        return f"the one that is stored for {registry} cannot; an administrator can store another: {command}"
    return f"an administrator can store one: {command}"

"""Repositories of packages: storage fetches them, and uv reads them here instead of asking their hosts (shell).

Theory of operation
-------------------
A build runs code of packages, so nothing that a build can reach may know a password. Storage fetches, with the
credentials of the host, under its own rules for hosts, redirects and limits; what comes here are objects. uv and git are
told by variables that a URL is a directory of this machine (see `brought`), and that no host may be asked for anything.
So a package that needs another repository fails at first, and the error says which: if its host is allowed, it is
brought too. What a package says that it needs is read before, so that nothing is asked of other addresses for it.
"""

import asyncio
import contextlib
import hashlib
import os
import re
import signal
import tempfile
import tomllib
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import aiohttp
import orjson
from packaging.requirements import Requirement
from pydantic import TypeAdapter

from spell_builder import complaints
from spell_builder.brought import Brought, views
from spell_builder.commands import Say
from spell_builder.errors import BuildFailedError
from spell_builder.flight import GivenUpError
from spell_proto import git_packages, outside
from spell_proto.errors import RefusedError, UnavailableError
from spell_proto.git import PLATFORM, environment
from spell_proto.git_packages import GitPackage
from spell_proto.http import Caller
from spell_proto.views import Commit, GitHosts, PackAsked, PackHead

T = TypeVar("T")
Work = Callable[[Sequence[str], Mapping[str, str]], Awaitable[T]]

#: How many repositories packages may need that the request does not name.
MORE_MAX = 20
SILENCE_SECONDS_MAX = 120.0
#: Before the name of a repository that is being made.
NEW = ".new-"
_HEAD_BYTES_MAX = 16 << 20
_HAVE_MAX = 64
_COMPLAINT_BYTES_MAX = 500
_FILE_BYTES_MAX = 1 << 20
_COMMIT: TypeAdapter[Commit] = TypeAdapter(Commit)
_HOSTS: TypeAdapter[GitHosts] = TypeAdapter(GitHosts)
_HEAD: TypeAdapter[PackHead] = TypeAdapter(PackHead)
#: How git is started where uv wants something of a host.
_ASKED = re.compile(
    r"git fetch [^'\n]*'(?P<url>https://[^'\s]+)' '\+(?:refs/(?:heads|tags)/)?(?P<ref>[^':*\s]+):"
)
_SUBMODULE = re.compile(r"Submodule '[^'\n]*' \((?P<url>[^)\n]+)\) registered")
#: What git says where a URL, or a ref of it, was not brought.
_NOT_BROUGHT = (
    "transport 'https' not allowed",
    "does not appear to be a git repository",
    "couldn't find remote ref",
    "not our ref",
)
#: From here on, it is a package that speaks.
_BUILD_SAYS = re.compile(r"^\s*\[(stdout|stderr)\]\s*$", re.MULTILINE)


class Repositories:
    """Those below `directory`, one for each URL: bare, and filled with packs from storage."""

    def __init__(self, directory: Path, storage: Caller) -> None:
        self.directory = directory
        self._storage = storage
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    async def hosts(self) -> tuple[str, ...]:
        """The hosts that repositories may be fetched from.

        Raises:
            UnavailableError: storage does not answer.
        """
        return (await self._storage.call("GET", "/git-hosts", _HOSTS)).hosts

    async def bring(self, package: GitPackage, brought: Brought, say: Say) -> GitPackage:
        """Have a repository here with the commit that a package names now; the package, at that commit.

        Raises:
            BuildFailedError: there is no such commit, or it may not be fetched.
            GivenUpError: storage does not answer.
        """
        path = self.directory / f"{hashlib.sha256(package.url.encode()).hexdigest()[:32]}.git"
        lock = self._locks.setdefault(package.url, asyncio.Lock())
        async with lock:
            try:
                commit = await self._bring(path, package, say)
                brought.take(package.url, package.ref, commit, path)
                found = package.at(commit)
                needed = await _needed(path, found)
            except RefusedError as error:
                if isinstance(error, UnavailableError):
                    raise GivenUpError(f"storage: {error.message}") from error
                raise BuildFailedError(f"pip: {error.message}", package.name or None) from error
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise GivenUpError(f"a repository did not come: {error!r}") from error
        for requirement in needed:
            await self._allowed(requirement)
        return found

    async def over(self, lines: Sequence[str], say: Say, work: Work[T]) -> T:
        """What `work` gives for lines of requirements, each repository at its commit of now, and the variables to read
        them with. Where a package needs more repositories, these are brought too.

        Raises:
            BuildFailedError: it failed for another reason, or what is needed may not be fetched.
        """
        with views(self.directory) as brought:
            there = []
            for line in lines:
                package = git_packages.parse(line) if git_packages.looks_like_one(line) else None
                there.append(
                    line if package is None else (await self.bring(package, brought, say)).requirement()
                )
            for _ in range(MORE_MAX):
                try:
                    return await work(there, brought.variables())
                except BuildFailedError as error:
                    missing = wanted(error.output)
                    if missing is None or (missing.url, missing.ref) in brought.asked:
                        raise explained(error, self.directory) from error
                    await self._allowed(f"x @ {missing.requirement()}")
                    await self.bring(missing, brought, say)
        raise BuildFailedError(f"pip: the packages need more than {MORE_MAX} repositories of others")

    async def _allowed(self, requirement: str) -> None:
        """Refuse what a package needs from another place than an index and the hosts of the operator's list.

        Raises:
            BuildFailedError: it would come from there.
        """
        try:
            package = git_packages.parse(requirement)
        except git_packages.NoGitPackageError:
            name, _, url = requirement.partition(" @ ")
            raise complaints.elsewhere(name, url) from None
        try:
            hosts = await self.hosts()
        except RefusedError as error:
            raise GivenUpError(f"storage: {error.message}") from error
        if package.host not in hosts:
            raise BuildFailedError(
                complaints.cut(
                    f"pip: a package needs {package.url}, and {package.host} is not on the operator's list "
                    "(SPELL_GIT_HOSTS)"
                )
            )

    # ---- one repository --------------------------------------------------------------------------------------

    async def _bring(self, path: Path, package: GitPackage, say: Say) -> str:
        if package.exact and (path / "refs/commits" / str(package.ref)).exists():
            os.utime(path)
            return str(package.ref)
        commit = await self._fetched(package, say)
        if not path.exists():
            await self._make(path, commit.commit)
        os.utime(path)
        if not (path / "refs/commits" / commit.commit).exists():
            await self._take(path, commit)
        return commit.commit

    async def _fetched(self, package: GitPackage, say: Say) -> Commit:
        """What storage has after it has asked the host."""
        body = orjson.dumps({"url": package.url, "ref": package.ref or "HEAD"})
        headers = {"Content-Type": "application/json"}
        path = f"/code/{PLATFORM}/fetch"
        async with self._storage.open("POST", path, data=body, headers=headers, stream=True) as response:
            rest = b""
            while True:
                read = await _some(response.content)
                if not read:
                    raise UnavailableError("unavailable", "storage broke off")
                *lines, rest = (rest + read).split(b"\n")
                for line in lines:
                    match orjson.loads(line or b"{}"):
                        case {"line": str(text)}:
                            say(text, False)
                        case {"ready": dict(ready)}:
                            return _COMMIT.validate_python(ready)
                        case {"failed": {"message": str(text)}}:
                            raise BuildFailedError(f"pip: {text}", package.name or None)
                        case _:
                            pass

    async def _make(self, path: Path, commit: str) -> None:
        self.directory.mkdir(mode=0o700, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=NEW, dir=self.directory))
        kind = "sha256" if len(commit) == 64 else "sha1"
        await _git(new, "init", "--quiet", "--bare", "--template=", f"--object-format={kind}")
        (new / "refs/commits").mkdir(parents=True)
        await _git(new, "config", "uploadpack.allowAnySHA1InWant", "true")
        new.rename(path)

    async def _take(self, path: Path, commit: Commit) -> None:
        """Have git index the pack that storage answers with."""
        have = tuple(ref.name for ref in (path / "refs/commits").iterdir())[:_HAVE_MAX]
        asked = orjson.dumps(PackAsked(want=(commit.commit,), have=have).model_dump())
        headers = {"Content-Type": "application/json"}
        where = f"/code/{PLATFORM}/{commit.repository_id}/pack"
        async with self._storage.open("POST", where, data=asked, headers=headers, stream=True) as response:
            line, rest = await _first_line(response.content)
            head = _HEAD.validate_json(line)
            if head.shallow:
                (path / "shallow").write_text("".join(f"{name}\n" for name in head.shallow))
            await _git(path, "index-pack", "--stdin", "--fix-thin", given=rest, stream=response.content)
        for name, tag in head.tags:
            with contextlib.suppress(_GitError):
                await _git(path, "update-ref", "--no-deref", f"refs/tags/{name}", tag)
        # Last of all: it says that the rest is here.
        await _git(path, "update-ref", "--no-deref", f"refs/commits/{commit.commit}", commit.commit)


async def _needed(path: Path, package: GitPackage) -> list[str]:
    """What the commit of a package says that it needs from a URL: `name @ URL`, of each. What only its build can tell is
    found out by code of its own, in a build.
    """
    where = f"{package.subdirectory}/" if package.subdirectory else ""
    text = await _content(path, f"{package.ref}:{where}pyproject.toml")
    try:
        told = tomllib.loads(text)
        project, system = told.get("project", {}), told.get("build-system", {})
        extras = project.get("optional-dependencies", {})
        asked = Requirement(package.head or "x").extras
        lists = [project.get("dependencies", []), system.get("requires", [])]
        lists += [extras.get(extra, []) for extra in asked]
        needed = [Requirement(value) for values in lists for value in values]
    except (ValueError, RecursionError, AttributeError, TypeError):
        return []  # uv says it better
    return [f"{each.name} @ {each.url}" for each in needed if each.url]


def wanted(output: str) -> GitPackage | None:
    """The repository that uv wanted of a host, in what it wrote."""
    output = _said_by_uv(output)
    found = _ASKED.search(output)
    if found is None or not any(word in output for word in _NOT_BROUGHT) or _SUBMODULE.search(output):
        return None
    try:
        ref = "" if found["ref"] == "HEAD" else f"@{found['ref']}"
        return git_packages.parse(f"git+{found['url']}{ref}")
    except git_packages.NoGitPackageError:
        return None


def _said_by_uv(output: str) -> str:
    """Without what the build of a package has printed, which may look like anything."""
    said = _BUILD_SAYS.search(output)
    return output if said is None else output[: said.start()]


def explained(error: BuildFailedError, directory: Path) -> BuildFailedError:
    """The error in words that fit where a repository is the reason, and that tell no path of this machine."""
    output = _said_by_uv(error.output)
    where = f"{error.package} " if error.package else ""
    submodule = _SUBMODULE.search(output)
    if submodule is not None:
        sentence = f"pip: {where}has a submodule ({submodule['url']}), and those are not fetched"
        return BuildFailedError(complaints.cut(sentence), error.package)
    asked = _ASKED.search(output)
    if asked is not None and any(word in output for word in _NOT_BROUGHT):
        sentence = f"pip: a package needs {outside.hidden(asked['url'])}, which cannot be had"
        return BuildFailedError(complaints.cut(sentence), error.package)
    if str(directory) in str(error):
        sentence = re.sub(rf"{re.escape(str(directory))}[^\s'\"`]*", "a repository", str(error))
        return BuildFailedError(sentence, error.package)
    return error


class _GitError(Exception):
    pass


async def _first_line(stream: aiohttp.StreamReader) -> tuple[bytes, bytes]:
    head = b""
    while b"\n" not in head:
        data = await _some(stream)
        if not data or len(head) > _HEAD_BYTES_MAX:
            raise UnavailableError("unavailable", "storage broke off before a pack")
        head += data
    line, _, rest = head.partition(b"\n")
    return line, rest


async def _some(stream: aiohttp.StreamReader) -> bytes:
    async with asyncio.timeout(SILENCE_SECONDS_MAX):
        return await stream.readany()


async def _content(path: Path, name: str) -> str:
    """A file of a commit, empty where there is none."""
    process = await asyncio.create_subprocess_exec(
        *("git", f"--git-dir={path}", "cat-file", "blob", name),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=environment(),
    )
    assert process.stdout is not None
    try:
        raw = bytearray()
        while len(raw) <= _FILE_BYTES_MAX and (data := await process.stdout.read(1 << 16)):
            raw += data
    finally:
        # Not where it ends by itself: `kill` would look whether it has, and asyncio could not any more.
        if not process.stdout.at_eof():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await process.wait()
    return raw.decode(errors="replace")


async def _git(
    path: Path, *words: str, given: bytes = b"", stream: aiohttp.StreamReader | None = None
) -> None:
    with tempfile.TemporaryFile(prefix="spell-complaints-") as complaint:
        process = await asyncio.create_subprocess_exec(
            *("git", f"--git-dir={path}", "-c", f"core.hooksPath={os.devnull}", "-c", "gc.auto=0", *words),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=complaint,
            env=environment(),
            start_new_session=True,
        )
        try:
            assert process.stdin is not None
            # It may give up at any moment; why, it says itself.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError, RuntimeError):
                process.stdin.write(given)
                while stream is not None and (data := await _some(stream)):
                    process.stdin.write(data)
                    await process.stdin.drain()
            with contextlib.suppress(RuntimeError):
                process.stdin.close()
            code = await process.wait()
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if code:
            complaint.seek(0)
            said = complaint.read()[-_COMPLAINT_BYTES_MAX:].decode(errors="replace").strip()
            if "index-pack" in words:
                raise OSError(f"a pack was not taken: {said}")
            raise _GitError(said)

"""Git processes that speak to another host, over https and nothing else, with a bound on everything (shell)."""

import asyncio
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from spell_proto import checks
from spell_proto.errors import UnavailableError
from spell_proto.git import environment
from spell_storage import git
from spell_storage.remote_refs import FetchError, RemoteRefs, explained, read_refs
from spell_storage.sealed import Login

#: Where the branches of another host lie in a repository of ours. Its tags lie where tags lie.
FETCHED = "refs/fetched"
ALL_REFS = (f"+refs/heads/*:{FETCHED}/*", "+refs/tags/*:refs/tags/*")
#: What is kept of a list of refs, and of complaints.
_REFS_BYTES_MAX = 64 << 20
_COMPLAINT_LINES_MAX = 50
_LINE_BYTES_MAX = 4096
_WATCH_SECONDS = 0.25
_PROGRESS_SECONDS = 1.0
_PROGRESS = re.compile(
    r"(remote: )?(Enumerating|Counting|Compressing|Receiving|Resolving|Updating|Checking)[ -~]{0,200}"
)
_PROXIES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY")
_HELPER = """#!/bin/sh
[ "$1" = get ] && cat "/dev/fd/$SPELL_LOGIN"
exit 0
"""

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """What a fetch may cost."""

    bytes: int = 5 << 30
    seconds: float = 1800.0
    #: No byte and no word for so long, and the fetch is given up.
    silent_seconds: float = 60.0


class Remote:
    """Asks other hosts for refs and objects."""

    def __init__(self, data: Path, limits: FetchLimits, ca_file: str = "") -> None:
        self._directory = data / "git-remote"
        self._limits = limits
        self._ca_file = ca_file

    def prepare(self) -> None:
        """Make the directory that git is started in, with the program that tells it who fetches."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        made = self._directory / f".login.{os.getpid()}"
        made.write_text(_HELPER)
        made.chmod(0o700)
        made.replace(self._directory / "login")

    async def refs(self, url: str, login: Login | None) -> RemoteRefs:
        """The refs of a repository elsewhere.

        Raises:
            FetchError: there is none, or it does not answer.
        """
        return read_refs(await self._run(url, login, ["ls-remote", "--symref", "--", url]))

    async def fetch(
        self,
        url: str,
        login: Login | None,
        repository: Path,
        refspecs: Sequence[str],
        report: Report,
        held: Sequence[int],
    ) -> None:
        """Bring objects and refs into a repository of ours. `report` is told how far it is.

        Raises:
            FetchError: it cannot be fetched, is too large, or takes too long.
        """
        words = [
            f"--git-dir={repository}", "fetch", "--progress", "--force", "--no-tags", "--no-write-fetch-head",
            "--no-auto-maintenance", "--no-recurse-submodules", "--update-shallow",
        ]  # fmt: skip
        if refspecs == ALL_REFS:
            words.append("--prune")
        await self._run(url, login, [*words, "--", url, *refspecs], repository, report, held)

    def _words(self, url: str, login: Login | None) -> list[str]:
        silent = max(1, round(self._limits.silent_seconds))
        options = [
            "credential.helper=", "http.followRedirects=false", "http.lowSpeedLimit=1",
            f"http.lowSpeedTime={silent}", "protocol.version=2", "fetch.fsckObjects=true",
            "transfer.fsckObjects=true", "fetch.unpackLimit=1",
            *(f"fetch.fsck.{kind}=ignore" for kind in git.FSCK_IGNORED),
        ]  # fmt: skip
        if login is not None:
            options.append(f"credential.https://{checks.github_host(url)}.helper={self._directory / 'login'}")
        return ["git", *git.OPTIONS, *(word for option in options for word in ("-c", option))]

    def _environment(self) -> dict[str, str]:
        proxies = {name: os.environ[name] for name in _PROXIES if name in os.environ}
        ca_file = self._ca_file or os.environ.get("SSL_CERT_FILE")
        ca = {"GIT_SSL_CAINFO": ca_file} if ca_file else {}
        ceiling = {"GIT_CEILING_DIRECTORIES": str(self._directory.parent)}
        return {**environment(), **proxies, **ca, **ceiling, "GIT_ALLOW_PROTOCOL": "https"}

    async def _run(
        self,
        url: str,
        login: Login | None,
        words: list[str],
        repository: Path | None = None,
        report: Report | None = None,
        held: Sequence[int] = (),
    ) -> bytes:
        with _told(login) as (names, descriptors):
            process = await asyncio.create_subprocess_exec(
                *self._words(url, login),
                *words,
                stdin=subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                cwd=self._directory,
                env={**self._environment(), **names},
                start_new_session=True,
                pass_fds=(*held, *descriptors),
            )
        watch = _Watch(url, self._limits, process, repository, report)
        try:
            return await watch.until_ended()
        finally:
            git.end(process)
            await process.wait()


class _Watch:
    """One git process: what it prints, how much it stores, and when it was last heard of."""

    def __init__(
        self,
        url: str,
        limits: FetchLimits,
        process: asyncio.subprocess.Process,
        repository: Path | None,
        report: Report | None,
    ) -> None:
        self._url = url
        self._limits = limits
        self._process = process
        self._repository = repository
        self._report = report or (lambda _line: None)
        self._printed = b""
        self._complaint: list[str] = []
        self._heard_at = time.monotonic()
        self._reported_at = 0.0
        self._problem: FetchError | None = None

    async def until_ended(self) -> bytes:
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        async with asyncio.TaskGroup() as tasks:
            reading = (
                tasks.create_task(self._read(self._process.stdout)),
                tasks.create_task(self._listen(self._process.stderr)),
            )
            watching = tasks.create_task(self._watch())
            await asyncio.wait(reading)
            await self._process.wait()
            watching.cancel()
        if self._problem is not None:
            raise self._problem
        if self._process.returncode:
            complaint = "\n".join(self._complaint)
            if "No space left" in complaint:
                raise UnavailableError("disk_full", "the disk of the server is full")
            raise explained(self._url, complaint)
        return self._printed

    def _give_up(self, code: str, meaning: str, *, passing: bool = False) -> None:
        self._problem = self._problem or FetchError(code, f"{self._url}: {meaning}", passing=passing)
        git.end(self._process)

    async def _read(self, stdout: asyncio.StreamReader) -> None:
        pieces, size = [], 0
        while piece := await stdout.read(1 << 16):
            self._heard_at = time.monotonic()
            pieces.append(piece)
            size += len(piece)
            if size > _REFS_BYTES_MAX:
                return self._give_up("repo_too_large", "it has too many refs")
        self._printed = b"".join(pieces)
        return None

    async def _listen(self, stderr: asyncio.StreamReader) -> None:
        rest = b""
        while piece := await stderr.read(1 << 16):
            self._heard_at = time.monotonic()
            *lines, rest = re.split(rb"[\r\n]+", rest + piece)
            rest = rest[:_LINE_BYTES_MAX]
            for line in lines:
                self._heard(line[:_LINE_BYTES_MAX].decode(errors="replace").strip())
        self._heard(rest.decode(errors="replace").strip())

    def _heard(self, line: str) -> None:
        if _PROGRESS.fullmatch(line):
            now = time.monotonic()
            if now - self._reported_at >= _PROGRESS_SECONDS or line.endswith("done."):
                self._reported_at = now
                self._report(line)
        # What begins like this was written by the other host.
        elif line and not line.startswith("remote:"):
            self._complaint = [*self._complaint, line][-_COMPLAINT_LINES_MAX:]

    async def _watch(self) -> None:
        until = time.monotonic() + self._limits.seconds
        size = 0
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            now = time.monotonic()
            if self._repository is not None:
                stored = await asyncio.to_thread(git.size_of, self._repository / "objects")
                if stored != size:
                    self._heard_at = now
                size = stored
            if size > self._limits.bytes:
                self._give_up("repo_too_large", f"it has more than {self._limits.bytes >> 20} MiB of history")
            elif now > until:
                self._give_up("fetch_failed", f"it took more than {self._limits.seconds:.0f} s to fetch")
            elif now - self._heard_at > self._limits.silent_seconds:
                self._give_up(
                    "fetch_failed",
                    f"its host sent nothing for {self._limits.silent_seconds:.0f} s",
                    passing=True,
                )


@contextmanager
def _told(login: Login | None) -> Iterator[tuple[dict[str, str], tuple[int, ...]]]:
    """The name that the helper finds a login by, and the descriptor to inherit: it is on no disk, in no argument and
    in no environment.
    """
    if login is None:
        yield {}, ()
        return
    number = os.memfd_create("login")
    try:
        os.write(number, f"username={login.username}\npassword={login.password}\n".encode())
        yield {"SPELL_LOGIN": str(number)}, (number,)
    finally:
        os.close(number)

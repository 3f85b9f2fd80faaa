"""The SSH endpoint that `git push` talks to. It can do one thing: receive a push into a repository of the caller."""

import asyncio
import contextlib
import os
import re
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import asyncssh
from pydantic import TypeAdapter

from spell_proto import logs
from spell_proto.errors import NotFoundError, RefusedError
from spell_proto.http import Caller
from spell_proto.shapes import Shape
from spell_storage import git
from spell_storage.code import Code
from spell_storage.locks import BusyError
from spell_storage.ssh_relay import Relay

log = logs.get()

USER = "git"
LOGIN_SECONDS_MAX = 20
KEEPALIVE_SECONDS = 15
PUSHES_AT_ONCE = 8
#: Of one owner: somebody who pushes slowly, or pretends to, is in nobody else's way.
PUSHES_PER_OWNER = 4
#: How long pushes in hand may go on when the service is asked to stop.
DRAIN_SECONDS_MAX = 10.0
#: A repository's refs are tidied every so many pushes.
_TIDY_EVERY = 64
#: A git process that was killed holds its locks for a moment.
_LAST_BREATH_SECONDS = 0.5

# Exactly what git sends for a remote URL of ours; nothing of it reaches the file system but two numbers.
_COMMAND = re.compile(
    r"git-receive-pack '/(?P<owner>[1-9][0-9]{0,15})/(?P<repository>[1-9][0-9]{0,15})\.git'", re.ASCII
)

#: Asked for the owner of a key by its fingerprint; None when nobody has it.
FindOwner = Callable[[str], Awaitable[int | None]]


class _KeyOwner(Shape):
    owner_id: int
    user_name: str


_KEY_OWNER: TypeAdapter[_KeyOwner] = TypeAdapter(_KeyOwner)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one push may cost."""

    push_seconds: float = 1800.0
    #: No byte in either direction: a client that packs a long history says nothing for a while.
    silent_seconds: float = 600.0
    #: Refs in one push, and in a repository.
    refs_per_push: int = 5_000
    refs: int = 200_000
    connections: int = 256


def owners_from(gateway: Caller) -> FindOwner:
    """Ask the gateway whose key it is; a gateway that does not answer lets nobody in."""

    async def find(fingerprint: str) -> int | None:
        try:
            found = await gateway.call("GET", f"/ssh-keys/{quote(fingerprint, safe='')}", _KEY_OWNER)
        except NotFoundError:
            return None
        except RefusedError as error:
            log.warning("a key could not be looked up", problem=str(error))
            return None
        return found.owner_id

    return find


class GitServer:
    """Receives pushes."""

    def __init__(
        self, code: Code, repositories: git.Repositories, find_owner: FindOwner, limits: Limits = Limits()
    ) -> None:
        self._code = code
        self.limits = limits
        self._git = repositories
        self.find_owner = find_owner
        self._pushes = asyncio.Semaphore(PUSHES_AT_ONCE)
        self._turns: dict[int, asyncio.Semaphore] = {}
        self._pushed: dict[int, int] = {}
        self.connections: set[asyncssh.SSHServerConnection] = set()
        self._busy = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def handle(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        """Answer one request of a connection: a push, or a refusal."""
        self._busy += 1
        self._idle.clear()
        try:
            process.exit(await self._answer(process))
        except (asyncssh.Error, OSError, EOFError) as error:
            log.info("a push broke off", problem=repr(error))
        except Exception:
            log.exception("a push failed")
            with contextlib.suppress(OSError):
                process.exit(1)
        finally:
            self._busy -= 1
            if not self._busy:
                self._idle.set()

    async def drain(self) -> None:
        """Let pushes in hand finish, for a while."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS_MAX):
                await self._idle.wait()

    async def _answer(self, process: asyncssh.SSHServerProcess[bytes]) -> int:
        owner_id: int = process.get_extra_info("owner_id")
        wanted = None if process.subsystem else _COMMAND.fullmatch(process.command or "")
        if wanted is None:
            process.stderr.write(b"spell: only git push is possible here\n")
            return 128
        repository_id = int(wanted["repository"])
        # Asked before anything is made in its name, be it a lock.
        if int(wanted["owner"]) != owner_id or not await self._code.takes_pushes(owner_id, repository_id):
            process.stderr.write(b"spell: no such repository\n")
            return 128
        status = 1
        try:
            # Nothing is removed from a repository while it is pushed to, not even the repository.
            using = self._git.locks.using(repository_id, seconds=self.limits.push_seconds)
            own = self._turns.setdefault(owner_id, asyncio.Semaphore(PUSHES_PER_OWNER))
            async with asyncio.timeout(self.limits.push_seconds), own, self._pushes, using as held:
                status = await self._receive(process, owner_id, repository_id, held)
                return status
        except TimeoutError:
            process.stderr.write(b"spell: the push took too long\n")
            return 1
        finally:
            await self._clear_incoming(owner_id, repository_id, 0.0 if status == 0 else _LAST_BREATH_SECONDS)

    async def _clear_incoming(self, owner_id: int, repository_id: int, seconds: float) -> None:
        """Remove what pushes have left that broke off; while there are others, that is left to the last of them."""
        path = self._git.path(owner_id, repository_id)
        if not git.incoming(path):
            return
        try:
            async with self._git.locks.using(repository_id, alone=True, seconds=seconds):
                for left in git.incoming(path):
                    await asyncio.to_thread(shutil.rmtree, left, ignore_errors=True)
        except BusyError:
            return

    async def _receive(
        self, process: asyncssh.SSHServerProcess[bytes], owner_id: int, repository_id: int, held: int
    ) -> int:
        path = await self._code.for_push(owner_id, repository_id)
        if path is None:
            process.stderr.write(b"spell: no such repository\n")
            return 128
        refs = await asyncio.to_thread(git.count_refs, path)
        if refs > self.limits.refs:
            process.stderr.write(f"spell: this repository has {refs} refs already\n".encode())
            return 1
        with self._git.pushed_note() as noted:
            relay = Relay(process, self.limits.refs_per_push, self.limits.silent_seconds)
            returncode = await relay.run(self._git.receive_pack(path), noted.name, held)
            commits = list(dict.fromkeys(noted.read().decode("ascii", "replace").split()))
        if commits:
            # Before git hears the end of its push: whoever pushed can use the commit at once.
            await self._code.pushed(owner_id, repository_id, commits)
            await self._tidy_at_times(path, repository_id)
        return returncode

    async def _tidy_at_times(self, path: Path, repository_id: int) -> None:
        pushed = self._pushed.get(repository_id, 0) + 1
        self._pushed[repository_id] = pushed % _TIDY_EVERY
        if pushed == _TIDY_EVERY:
            try:
                await self._git.tidy(path)
            except git.GitError as error:
                log.warning("refs were not tidied", repository_id=repository_id, problem=str(error))


class _Session(asyncssh.SSHServer):
    """One connection: public keys only, and nothing but sessions."""

    def __init__(self, server: GitServer) -> None:
        self._server = server
        self._connection: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        if len(self._server.connections) >= self._server.limits.connections:
            conn.abort()
            return
        self._server.connections.add(conn)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- asyncssh calls it so
        assert self._connection is not None
        self._server.connections.discard(self._connection)

    def begin_auth(self, username: str) -> bool:  # noqa: ARG002 -- asyncssh calls it so
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    async def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        if username != USER:
            return False
        owner_id = await self._server.find_owner(key.get_fingerprint())
        if owner_id is None:
            return False
        assert self._connection is not None
        # A client may offer several keys and sign with a later one: the last one asked about is the one that counts.
        self._connection.set_extra_info(owner_id=owner_id)
        return True

    def password_auth_supported(self) -> bool:
        return False

    def kbdint_auth_supported(self) -> bool:
        return False


def host_key(path: Path) -> asyncssh.SSHKey:
    """The server's key, made at the first start; its public half stands beside it in `<path>.pub`."""
    if not path.exists():
        key = asyncssh.generate_private_key("ssh-ed25519", comment="spellrun")
        for name, data, mode in (
            (path.with_name(path.name + ".pub"), key.export_public_key(), 0o644),
            (path, key.export_private_key(), 0o600),
        ):
            made = name.with_name(f".{name.name}.{os.getpid()}")
            made.touch(mode=mode)
            made.write_bytes(data)
            made.replace(name)
    return asyncssh.read_private_key(path)


@asynccontextmanager
async def serve(server: GitServer, listener: socket.socket, key: asyncssh.SSHKey) -> AsyncIterator[None]:
    """Accept pushes on a bound socket while the context is open; those in hand are finished at its end."""
    acceptor = await asyncssh.create_server(
        lambda: _Session(server),
        sock=listener,
        server_host_keys=[key],
        process_factory=server.handle,
        encoding=None,
        allow_pty=False,
        line_editor=False,
        agent_forwarding=False,
        x11_forwarding=False,
        sftp_factory=None,
        allow_scp=False,
        gss_host=None,
        compression_algs=None,
        login_timeout=LOGIN_SECONDS_MAX,
        keepalive_interval=KEEPALIVE_SECONDS,
    )
    try:
        yield
    finally:
        acceptor.close()
        await server.drain()
        for connection in list(server.connections):
            connection.abort()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                await acceptor.wait_closed()


def bound(host: str, port: int) -> socket.socket:
    """A socket bound to the address of the git server, whose port may have been free to choose."""
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((host, port))
    return made

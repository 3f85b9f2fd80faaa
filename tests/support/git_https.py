"""A real git server over https on the loopback interface: `git http-backend` behind a small server with its own CA.

    with serving(directory) as server:
        server.publish(work, "team/project")  # a repository on disk becomes https://127.0.0.1:PORT/team/project
        environment |= server.settings         # SPELL_GIT_HOSTS and SPELL_GIT_CA_FILE for the storage service

`server.logins["team/project"] = ("user", "password")` makes a repository private; `server.requests` says what was
asked for; `server.odd["team/project"] = handler` answers for a repository in another way.
"""

import asyncio
import base64
import contextlib
import ipaddress
import os
import ssl
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

BODY_BYTES_MAX = 1 << 30
#: What git gets to know of this machine in a test: nothing of its settings, and a name to commit under.
ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    **{f"GIT_{who}_{what}": "x@y" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
}


@dataclass
class GitHttps:
    """The server: which repositories it has, who may read them, and what it was asked."""

    root: Path
    ca_file: Path
    #: `127.0.0.1:<port>`, as SPELL_GIT_HOSTS names it.
    host: str = ""
    logins: dict[str, tuple[str, str]] = field(default_factory=dict)
    odd: dict[str, Callable[[web.Request], Awaitable[web.StreamResponse]]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    @property
    def settings(self) -> dict[str, str]:
        """What the storage service needs to fetch from here."""
        return {"SPELL_GIT_HOSTS": self.host, "SPELL_GIT_CA_FILE": str(self.ca_file)}

    def url(self, name: str) -> str:
        return f"https://{self.host}/{name}"

    def repository(self, name: str) -> Path:
        """Where a repository lies on disk."""
        return self.root / name

    def publish(self, work: Path, name: str) -> str:
        """Make the repository `name` what `work` is: branches, tags, HEAD; what is gone there goes here. Returns its URL."""
        bare = self.repository(name)
        if not bare.exists():
            self.git("init", "-q", "--bare", str(bare))
            self.git("-C", str(bare), "config", "uploadpack.allowAnySHA1InWant", "true")
        # Not --mirror: it would also take what is private to the work tree.
        refs = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
        self.git("-C", str(work), "push", "-q", "--prune", str(bare), *refs)
        head = self.git("-C", str(work), "symbolic-ref", "HEAD").strip()
        self.git("-C", str(bare), "symbolic-ref", "HEAD", head)
        return self.url(name)

    @staticmethod
    def git(*arguments: str) -> str:
        """What git prints, with no settings but a name."""
        return subprocess.run(
            ["git", *arguments], env=ENVIRONMENT, check=True, capture_output=True, timeout=60
        ).stdout.decode()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request of a git client."""
        self.requests.append(f"{request.method} {request.path_qs}")
        name = next((known for known in self.odd if request.path.startswith(f"/{known}/")), None)
        if name is not None:
            return await self.odd[name](request)
        private = next((known for known in self.logins if request.path.startswith(f"/{known}/")), None)
        if private is not None and request.headers.get("Authorization") != _basic(*self.logins[private]):
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="git"'})
        return await _backend(self.root, request)


def _basic(username: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


async def _backend(root: Path, request: web.Request) -> web.StreamResponse:
    environment = {
        **ENVIRONMENT,
        "GIT_PROJECT_ROOT": str(root),
        "GIT_HTTP_EXPORT_ALL": "1",
        "GIT_PROTOCOL": request.headers.get("Git-Protocol", ""),
        "PATH_INFO": request.path,
        "QUERY_STRING": request.query_string,
        "REQUEST_METHOD": request.method,
        "CONTENT_TYPE": request.headers.get("Content-Type", ""),
    }
    process = await asyncio.create_subprocess_exec(
        "git",
        "http-backend",
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    whole = False
    process.stdin.write(await request.read())
    process.stdin.close()
    try:
        head = (await process.stdout.readuntil(b"\r\n\r\n")).decode().rstrip()
        headers = dict(line.split(": ", 1) for line in head.split("\r\n"))
        status = int(headers.pop("Status", "200").split()[0])
        response = web.StreamResponse(status=status, headers=headers)
        await response.prepare(request)
        while data := await process.stdout.read(1 << 16):
            await response.write(data)
        whole = True
        await response.write_eof()
    finally:
        # One that ends by itself is not to be killed: `kill` looks whether it has ended, and what it finds out so asyncio
        # does not learn any more ("Unknown child process").
        if not whole:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        # To its end, or the pipe would never be closed.
        await process.stdout.read()
        await process.wait()
    return response


def _certificate(directory: Path) -> tuple[Path, ssl.SSLContext]:
    """A certificate for 127.0.0.1 that vouches for itself, and what a server of it answers with."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "git server of a test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    key_file, ca_file = directory / "git-https.key", directory / "git-https.pem"
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    ca_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(ca_file, key_file)
    return ca_file, context


@contextmanager
def serving(directory: Path, served: tuple[Path, ssl.SSLContext] | None = None) -> Iterator[GitHttps]:
    """Serve the repositories below `directory`/git-https, on a thread of its own: tests may block. `served` is an
    authority of its own, and what a server of it answers with.
    """
    ca_file, context = served or _certificate(directory)
    root = directory / "git-https"
    root.mkdir()
    server = GitHttps(root, ca_file)
    loop = asyncio.new_event_loop()
    stop, ready = asyncio.Event(), threading.Event()

    async def serve() -> None:
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        app.router.add_route("*", "/{path:.*}", server.handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        server.host = f"127.0.0.1:{runner.addresses[0][1]}"
        ready.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert ready.wait(10)
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()

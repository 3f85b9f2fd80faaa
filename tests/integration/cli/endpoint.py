"""A real SSH server on loopback that takes pushes into one bare repository."""

import asyncio
import contextlib
import subprocess
import threading
from pathlib import Path

import asyncssh


class Endpoint:
    """A real SSH server that lets git-receive-pack write one repository."""

    def __init__(self, home: Path) -> None:
        self.bare = home / "server.git"
        self.git("init", "-q", "--bare", self.bare, cwd=home)
        self.git("config", "receive.shallowUpdate", "true")
        self.key = home / "identity"
        self.known_hosts = home / "hosts of ours"
        self.commands: list[str] = []
        #: Is there once somebody has begun a push.
        self.pushes = home / "pushes"
        self.port = 0
        self._ready = threading.Event()
        self._home = home

    def _serve(self) -> None:
        with asyncio.Runner() as runner:
            self._loop = runner.get_loop()
            self._over = asyncio.Event()
            runner.run(self._listen())

    async def _listen(self) -> None:
        user, host = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
        user.write_private_key(str(self.key))
        self.key.chmod(0o600)
        allowed = self._home / "authorized"
        user.write_public_key(str(allowed))
        acceptor = await asyncssh.listen(
            "127.0.0.1",
            0,
            server_host_keys=[host],
            authorized_client_keys=str(allowed),
            process_factory=self._receive,
            encoding=None,
        )
        self.port = acceptor.get_port()
        line = host.export_public_key().decode().strip()
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {line}\n")
        self._ready.set()
        await self._over.wait()
        acceptor.close()

    async def _receive(self, process) -> None:
        self.commands.append(process.command)
        self.pushes.touch()
        child = await asyncio.create_subprocess_exec(
            "git", "receive-pack", str(self.bare), stdin=-1, stdout=-1, stderr=-1
        )
        await process.redirect(stdin=child.stdin, stdout=child.stdout, stderr=child.stderr)
        process.exit(await child.wait())

    @contextlib.contextmanager
    def running(self):
        thread = threading.Thread(target=self._serve)
        thread.start()
        assert self._ready.wait(20)
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._over.set)
            thread.join()

    def git(self, *words, cwd=None) -> bytes:
        """What git says about what has arrived."""
        return subprocess.run(["git", *words], cwd=cwd or self.bare, capture_output=True, check=True).stdout

    def refs(self):
        return self.git("for-each-ref", "--format=%(refname) %(objectname)").decode().split("\n")[:-1]

    def has(self, commit):
        words = ["git", "cat-file", "-e", commit]
        return subprocess.run(words, cwd=self.bare, capture_output=True, check=False).returncode == 0

"""A Docker daemon for tests: the one that runs, or one of our own where it is installed; and images without a registry."""

import contextlib
import hashlib
import http.client
import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

#: With this set, a test that finds no daemon fails instead of being skipped.
NEEDED = "SPELL_TESTS_NEED_DOCKER"
SOCKET = Path("/var/run/docker.sock")
UP_SECONDS_MAX = 60.0
#: What the base image has beyond a minimal Debian.
PACKAGES = "python3,python-is-python3,git,ca-certificates,procps"
RECIPE = hashlib.sha256(PACKAGES.encode()).hexdigest()[:8]
BASE = f"spell-tests/base:{RECIPE}"
#: What users get is tested under its own name, unless somebody has the real one here.
DEFAULT = "debian:bookworm-slim"
TINY = "alpine:latest"
EMPTY = "spell-tests/empty:latest"


class NoDockerError(Exception):
    """Why there is no daemon here."""


def cache() -> Path:
    """Where the daemon's data and the base image stay between sessions, outside the repository."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "spell-tests"


def absent(reason: str) -> None:
    """End the test: as a failure where Docker must be there, else skipped."""
    if os.environ.get(NEEDED):
        pytest.fail(f"Docker is needed here: {reason}")
    pytest.skip(f"no Docker here: {reason}")


class Docker:
    """A daemon by its socket, asked in plain HTTP: what it says is what is tested, not what a library makes of it."""

    def __init__(self, socket_path: Path) -> None:
        self.socket = socket_path

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        connection = _Connection(self.socket)
        with contextlib.closing(connection):
            data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            kind = {"Content-Type": "application/x-tar" if isinstance(body, bytes) else "application/json"}
            connection.request(method, path, data, kind | (headers or {}))
            answer = connection.getresponse()
            said = answer.read()
            if answer.status >= 300:
                raise RuntimeError(f"{method} {path}: {answer.status} {said.decode()}")
            try:
                return json.loads(said)
            except ValueError:
                return said

    def answers(self) -> bool:
        try:
            return bool(self.ask("GET", "/version"))
        except OSError:
            return False

    def container(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("GET", f"/containers/{name}/json")
        return found

    def containers(self, label: str) -> list[dict[str, Any]]:
        filters = json.dumps({"label": [label]}).replace('"', "%22").replace(" ", "")
        found: list[dict[str, Any]] = self.ask("GET", f"/containers/json?all=1&filters={filters}")
        return found

    def has(self, image: str) -> bool:
        try:
            self.ask("GET", f"/images/{image}/json")
        except RuntimeError:
            return False
        return True

    def bring(self, image: str, archive: bytes, *changes: str) -> None:
        """Make an image of a tar archive; `changes` are lines of a Dockerfile."""
        name, _, tag = image.rpartition(":")
        more = "".join(f"&changes={change.replace(' ', '%20')}" for change in changes)
        said = self.ask("POST", f"/images/create?fromSrc=-&repo={name}&tag={tag}{more}", archive)
        assert b"error" not in (said if isinstance(said, bytes) else b""), said


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("docker", timeout=120)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@contextmanager
def running() -> Iterator[Docker]:
    """A daemon with the images of `images`, for as long as the context lasts.

    Raises:
        NoDockerError: there is none, and none can be started.
    """
    daemon = Docker(SOCKET)
    if daemon.answers():
        bring_images(daemon)
        yield daemon
        return
    if shutil.which("dockerd") is None:
        raise NoDockerError("no daemon answers, and dockerd is not installed")
    if os.geteuid():
        raise NoDockerError("no daemon answers, and only root can start one")
    with own_daemon(cache() / "docker") as daemon:
        bring_images(daemon)
        yield daemon


@contextmanager
def own_daemon(data: Path, *options: str) -> Iterator[Docker]:
    """A daemon that is started here and ended here."""
    data.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(dir="/tmp", prefix="sp"))
    try:
        process = start(directory, data, *options)
        try:
            yield Docker(directory / "d.sock")
        finally:
            process.terminate()
            process.wait(60)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def start(directory: Path, data: Path, *options: str) -> subprocess.Popen[bytes]:
    """Start a daemon on `d.sock` in `directory`, and wait until it answers."""
    argv = ["dockerd", "--host", f"unix://{directory}/d.sock", "--data-root", str(data)]
    argv += ["--exec-root", f"{directory}/exec", "--pidfile", f"{directory}/pid", *options]
    with (directory / "log").open("ab") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
    daemon, deadline = Docker(directory / "d.sock"), time.monotonic() + UP_SECONDS_MAX
    while not daemon.answers():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            said = (directory / "log").read_text()[-500:]
            raise NoDockerError(f"dockerd does not come up: {said}")
        time.sleep(0.05)
    return process


def bring_images(daemon: Docker) -> None:
    """Make the images that tests run in, where they are missing."""
    if not daemon.has(BASE):
        daemon.bring(BASE, base_archive().read_bytes(), "CMD bash")
    if not daemon.has(DEFAULT):
        daemon.ask("POST", f"/images/{BASE}/tag?repo={DEFAULT.replace(':', '&tag=')}")
    if not daemon.has(TINY):
        daemon.bring(TINY, tiny_archive(), "CMD sh")
    if not daemon.has(EMPTY):
        daemon.bring(EMPTY, archive({"hello": b"there is nothing else here\n"}))


def base_archive() -> Path:
    """A small Debian as an archive, made once."""
    made = cache() / f"base-{RECIPE}.tar"
    if not made.exists():
        if shutil.which("mmdebstrap") is None:
            raise NoDockerError("no image to run in, and mmdebstrap, which would make one, is not installed")
        made.parent.mkdir(parents=True, exist_ok=True)
        new = made.with_name(f"new-{os.getpid()}.tar")
        argv = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(new)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NoDockerError(f"mmdebstrap failed: {done.stderr[-500:]}")
        new.rename(made)
    return made


def tiny_archive() -> bytes:
    """One static program that is a whole system."""
    busybox = shutil.which("busybox")
    if busybox is None:
        raise NoDockerError(f"no image {TINY}, and busybox, which would make one, is not installed")
    names = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    return archive(
        {"bin/busybox": Path(busybox).read_bytes()},
        {f"bin/{name}": "busybox" for name in names if name != "busybox"},
    )


def archive(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    """A tar archive of programs, and of links to them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o755
            tar.addfile(member, io.BytesIO(content))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    return buffer.getvalue()

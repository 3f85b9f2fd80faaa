"""A Docker daemon for tests: the one that runs, or one of our own where it is installed; and images without a registry."""

import contextlib
import hashlib
import http.client
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

#: With this set, a test that finds no daemon fails instead of being skipped.
NEEDED = "SPELL_TESTS_NEED_DOCKER"
SOCKET = Path("/var/run/docker.sock")
UP_SECONDS_MAX = 60.0
#: What the base image has beyond a minimal Debian.
PACKAGES = "python3,python3-pip,python-is-python3,git,ca-certificates,procps"
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
        filters = quote(json.dumps({"label": [label]}))
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
        more = "".join(f"&changes={quote(change)}" for change in changes)
        said = self.ask("POST", f"/images/create?fromSrc=-&repo={name}&tag={tag}{more}", archive)
        assert b"error" not in (said if isinstance(said, bytes) else b""), said

    def derive(
        self, image: str, base: str, files: dict[str, bytes], *, without: tuple[str, ...] = ()
    ) -> None:
        """Make an image of another one, with some more files and without some programs of it."""
        name, _, tag = image.rpartition(":")
        made = self.ask("POST", "/containers/create", {"Image": base, "Cmd": ["rm", "-f", "/none", *without]})
        container = made["Id"]
        try:
            self.ask("PUT", f"/containers/{container}/archive?path=/", archive(files))
            self.ask("POST", f"/containers/{container}/start")
            self.ask("POST", f"/containers/{container}/wait")
            self.ask("POST", f"/commit?container={container}&repo={name}&tag={tag}", {"Cmd": ["sh"]})
        finally:
            self.ask("DELETE", f"/containers/{container}?force=1&v=1")

    def images(self, *labels: str) -> list[str]:
        """The names of all images with some labels."""
        return self._names({"label": labels})

    def named(self, pattern: str) -> list[str]:
        """The names of all images whose name fits a pattern."""
        return self._names({"reference": [pattern]})

    def _names(self, wanted: dict[str, Sequence[str]]) -> list[str]:
        filters = quote(json.dumps(wanted))
        listed = self.ask("GET", f"/images/json?filters={filters}")
        return [name for image in listed for name in image["RepoTags"] or () if "<none>" not in name]

    def said(self, image: str, command: str, *, binds: Sequence[str] = ()) -> str:
        """What a command writes in a container of an image."""
        host = {"NetworkMode": "host", "Binds": list(binds)}
        body = {"Image": image, "Cmd": ["sh", "-c", command], "HostConfig": host}
        container = self.ask("POST", "/containers/create", body)["Id"]
        try:
            self.ask("POST", f"/containers/{container}/start")
            self.ask("POST", f"/containers/{container}/wait")
            framed = self.ask("GET", f"/containers/{container}/logs?stdout=1&stderr=1")
        finally:
            self.ask("DELETE", f"/containers/{container}?force=1&v=1")
        return _unframed(framed if isinstance(framed, bytes) else b"")


def _unframed(data: bytes) -> str:
    """The text in the frames of a container's output."""
    text = b""
    while data:
        end = 8 + int.from_bytes(data[4:8])
        text, data = text + data[8:end], data[end:]
    return text.decode()


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("docker", timeout=120)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Own(Docker):
    """A daemon that is started and ended here, with a containerd of its own, which goes on while the daemon is away."""

    def __init__(self, directory: Path, data: Path, *options: str) -> None:
        self._options = options
        self._config = directory / "daemon.json"
        self._config.write_text("{}")
        super().__init__(directory / "d.sock")
        self._directory = directory
        self._data = data
        self._daemon: subprocess.Popen[bytes] | None = None
        self._containerd: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        """Start it, and wait until it answers."""
        place = self._directory
        if self._containerd is None:
            config = place / "containerd.toml"
            config.write_text('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
            argv = ["containerd", "--config", str(config), "--address", f"{place}/c.sock"]
            argv += ["--root", f"{place}/containerd-root", "--state", f"{place}/containerd"]
            self._containerd = self._started(argv)
            _until((place / "c.sock").exists, self._containerd, place)
        argv = ["dockerd", "--host", f"unix://{self.socket}", "--data-root", str(self._data)]
        argv += [
            "--exec-root",
            f"{place}/exec",
            "--pidfile",
            f"{place}/pid",
            "--containerd",
            f"{place}/c.sock",
        ]
        argv += ["--config-file", str(self._config), *self._options]
        self._daemon = self._started(argv)
        _until(self.answers, self._daemon, place)

    def configure(self, *, live_restore: bool) -> None:
        """Whether containers outlive the daemon; it hears of it while it runs."""
        assert self._daemon is not None
        self._config.write_text(json.dumps({"live-restore": live_restore}))
        self._daemon.send_signal(signal.SIGHUP)
        _until(
            lambda: self.ask("GET", "/info")["LiveRestoreEnabled"] is live_restore,
            self._daemon,
            self._directory,
        )

    def end(self, number: int = signal.SIGTERM) -> None:
        assert self._daemon is not None
        self._daemon.send_signal(number)
        self._daemon.wait(60)

    def close(self) -> None:
        if self.answers():
            # Their bridges would outlive the daemon, and a machine has addresses for some thirty.
            self.ask("POST", "/networks/prune")
        for process in (self._daemon, self._containerd):
            if process is not None and process.poll() is None:
                process.terminate()
                process.wait(60)

    def _started(self, argv: list[str]) -> subprocess.Popen[bytes]:
        with (self._directory / "log").open("ab") as log:
            return subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)


def _until(true: Callable[[], bool], process: subprocess.Popen[bytes], place: Path) -> None:
    deadline = time.monotonic() + UP_SECONDS_MAX
    while not true():
        if process.poll() is not None or time.monotonic() > deadline:
            raise NoDockerError(f"it does not come up: {(place / 'log').read_text()[-500:]}")
        time.sleep(0.02)


@contextmanager
def running(*options: str) -> Iterator[Docker]:
    """A daemon with images to run in, for as long as the context lasts. `options` are for one that is started here.

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
    data = cache() / "docker"
    data.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(dir="/tmp", prefix="sp"))
    own = Own(directory, data, *options)
    try:
        own.begin()
        bring_images(own)
        yield own
    finally:
        own.close()
        shutil.rmtree(directory, ignore_errors=True)


def need_own(daemon: Docker) -> None:
    """End the test where somebody else's daemon is used, which is not ours to restart."""
    if not isinstance(daemon, Own):
        absent("the daemon is not one that was started here")


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


def foreign_archive(name: str, processor: str) -> bytes:
    """What `docker save` writes of an image that is for another kind of processor."""
    layer = tiny_archive()
    config = {
        "architecture": processor,
        "os": "linux",
        "config": {"Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    return archive(
        {
            "config.json": json.dumps(config).encode(),
            "layer.tar": layer,
            "manifest.json": json.dumps(manifest).encode(),
        }
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

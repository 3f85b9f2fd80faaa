"""A real registry on this machine, open or with a user and a password."""

import base64
import hashlib
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support import authority
from support.docker import Docker, absent

UP_SECONDS_MAX = 20.0

#: By which storage knows those who may be told logins.
TOKEN = "a-token-of-the-tests"


@contextmanager
def registry(
    directory: Path, user: str = "", password: str = "", *, tls: bool = False, name: str = ""
) -> Iterator[str]:
    """Its host and port, for as long as the context lasts. With `tls`, the authority to trust is `ca.pem` in `directory`, and
    it may be called by `name`, too.
    """
    for program in ("docker-registry", "htpasswd"):
        if shutil.which(program) is None:
            absent(f"{program} is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{free.getsockname()[1]}"
    http: dict[str, Any] = {"addr": host}
    if tls:
        authority.loopback(directory, *([name] if name else []))
        http["tls"] = {"certificate": str(directory / "server.pem"), "key": str(directory / "server.key")}
    config: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(directory / "registry")}},
        "http": http,
    }
    if user:
        change_password(directory, user, password)
        config["auth"] = {"htpasswd": {"realm": "tests", "path": str(directory / "htpasswd")}}
    (directory / "registry.yml").write_text(json.dumps(config))
    with (directory / "registry.log").open("ab") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(directory / "registry.yml")], stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + UP_SECONDS_MAX
        while not _listening(host):
            assert process.poll() is None and time.monotonic() < deadline, (  # noqa: PT018 -- one condition
                directory / "registry.log"
            ).read_text()
            time.sleep(0.02)
        yield host
    finally:
        process.terminate()
        process.wait(20)


def change_password(directory: Path, user: str, password: str) -> None:
    """The registry in this directory takes this login from now on, and no other."""
    argv = ["htpasswd", "-Bbn", user, password]
    (directory / "htpasswd").write_bytes(subprocess.run(argv, capture_output=True, check=True).stdout)


def put_list(host: str, repository: str, tag: str, processor: str, of: str) -> None:
    """A list of manifests, as images for several kinds of processors have one, with the manifest of the tag `of` alone."""
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    address = f"http://{host}/v2/{repository}/manifests"
    asked = urllib.request.Request(f"{address}/{of}", headers={"Accept": kind})
    with urllib.request.urlopen(asked, timeout=10) as answer:
        manifest = answer.read()
    entry = {
        "mediaType": kind,
        "size": len(manifest),
        "digest": f"sha256:{hashlib.sha256(manifest).hexdigest()}",
        "platform": {"architecture": processor, "os": "linux"},
    }
    kind = "application/vnd.docker.distribution.manifest.list.v2+json"
    body = {"schemaVersion": 2, "mediaType": kind, "manifests": [entry]}
    told = urllib.request.Request(
        f"{address}/{tag}", json.dumps(body).encode(), headers={"Content-Type": kind}, method="PUT"
    )
    with urllib.request.urlopen(told, timeout=10):
        pass


def _listening(host: str) -> bool:
    name, _, port = host.partition(":")
    with socket.socket() as probe:
        return probe.connect_ex((name, int(port))) == 0


def push(daemon: Docker, image: str, target: str, user: str = "", password: str = "") -> None:
    """Put an image into a registry, and forget it here."""
    name, _, tag = target.rpartition(":")
    daemon.ask("POST", f"/images/{image}/tag?repo={name}&tag={tag}")
    login = base64.urlsafe_b64encode(json.dumps({"username": user, "password": password}).encode()).decode()
    said = daemon.ask("POST", f"/images/{name}/push?tag={tag}", None, {"X-Registry-Auth": login})
    assert b"error" not in said, said
    daemon.ask("DELETE", f"/images/{target}")
